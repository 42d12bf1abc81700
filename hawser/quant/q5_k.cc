// q5_k: q4_k with 32 bytes of fifth bits between the scales and the 4-bit halves: bit k of byte l is that of value l of
// group k.
#include <array>

#include "hawser/quant/fit.h"
#include "hawser/quant/k_scales.h"
#include "hawser/quant/types.h"

namespace hawser {
namespace {

constexpr int kBytes = 176;
constexpr int kGroup = 32;

void Decode(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kBytes) {
    const float d = HalfAt(from, 0), m = HalfAt(from, 2);
    const std::byte* high = from + 16;
    for (int k = 0; k < kLargeBlock / kGroup; ++k) {
      const KScale s = UnpackKScale(from + 4, k);
      const float scale = d * static_cast<float>(s.scale), minimum = m * static_cast<float>(s.minimum);
      const std::byte* low = from + 48 + k / 2 * kGroup;
      for (int l = 0; l < kGroup; ++l) {
        const int q = (ByteAt(low, l) >> (k % 2 * 4) & 15) | (ByteAt(high, l) >> k & 1) << 4;
        *to++ = scale * static_cast<float>(q) - minimum;
      }
    }
  }
}

void Encode(const float* from, int64_t blocks, std::byte* to) {
  std::array<uint8_t, kLargeBlock> q;
  for (int64_t b = 0; b < blocks; ++b, from += kLargeBlock, to += kBytes) {
    FitKBlock(from, 31, to, q.data());
    for (size_t l = 0; l < kGroup; ++l) {
      int high = 0;
      for (size_t k = 0; k < kLargeBlock / kGroup; ++k) high |= (q[k * kGroup + l] >> 4) << k;
      to[16 + l] = static_cast<std::byte>(high);
    }
    for (size_t l = 0; l < kLargeBlock / 2; ++l) {
      const size_t low = l / kGroup * 2 * kGroup + l % kGroup;
      to[48 + l] = static_cast<std::byte>((q[low] & 15) | (q[low + kGroup] & 15) << 4);
    }
  }
}

}  // namespace

const BlockType kQ5KType = {DType::kQ5K, "q5_k", 13, kLargeBlock, kBytes, Decode, Encode};

}  // namespace hawser
