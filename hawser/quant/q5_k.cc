// q5_k: q4_k with 32 bytes of fifth bits between the scales and the 4-bit halves: bit k of byte l is that of value l of
// group k.
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

}  // namespace

const BlockType kQ5KType = {DType::kQ5K, "q5_k", 13, kLargeBlock, kBytes, Decode, nullptr};

}  // namespace hawser
