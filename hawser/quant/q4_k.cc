// q4_k: f16 d, f16 m, 12 bytes of scales and minima (k_scales.h), 128 bytes of 4-bit q; x = d scale q - m minimum.
// Group k of 32 values lies in the low (k even) or high halves of 32 bytes.
#include <array>

#include "hawser/quant/fit.h"
#include "hawser/quant/k_scales.h"
#include "hawser/quant/types.h"

namespace hawser {
namespace {

constexpr int kBytes = 144;
constexpr int kGroup = 32;
constexpr int kGroups = kLargeBlock / kGroup;

void Decode(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kBytes) {
    const float d = HalfAt(from, 0), m = HalfAt(from, 2);
    for (int k = 0; k < kGroups; ++k) {
      const KScale s = UnpackKScale(from + 4, k);
      const float scale = d * static_cast<float>(s.scale), minimum = m * static_cast<float>(s.minimum);
      const std::byte* q = from + 16 + k / 2 * kGroup;
      for (int l = 0; l < kGroup; ++l) {
        *to++ = scale * static_cast<float>(ByteAt(q, l) >> (k % 2 * 4) & 15) - minimum;
      }
    }
  }
}

void Encode(const float* from, int64_t blocks, std::byte* to) {
  std::array<uint8_t, kLargeBlock> q;
  for (int64_t b = 0; b < blocks; ++b, from += kLargeBlock, to += kBytes) {
    FitKBlock(from, 15, to, q.data());
    for (size_t l = 0; l < kLargeBlock / 2; ++l) {
      const size_t low = l / kGroup * 2 * kGroup + l % kGroup;
      to[16 + l] = static_cast<std::byte>(q[low] | q[low + kGroup] << 4);
    }
  }
}

}  // namespace

const BlockType kQ4KType = {DType::kQ4K, "q4_k", 12, kLargeBlock, kBytes, Decode, Encode};

}  // namespace hawser
