// q5_0: f16 d, u32 of fifth bits (bit j is that of value j), 16 bytes of two 4-bit halves, laid out as in q4_0;
// x = d (q - 16).
#include "hawser/quant/types.h"

namespace hawser {
namespace {

constexpr int kBytes = 22;
constexpr int kHalf = kSmallBlock / 2;

void Decode(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kBytes, to += kSmallBlock) {
    const float d = HalfAt(from, 0);
    uint32_t high;
    std::memcpy(&high, from + 2, sizeof(high));
    for (int j = 0; j < kHalf; ++j) {
      const int pair = ByteAt(from, 6 + j);
      const int low = (pair & 15) | static_cast<int>((high >> j & 1u) << 4);
      const int up = (pair >> 4) | static_cast<int>((high >> (j + kHalf) & 1u) << 4);
      to[j] = static_cast<float>(low - 16) * d;
      to[j + kHalf] = static_cast<float>(up - 16) * d;
    }
  }
}

}  // namespace

const BlockType kQ5_0Type = {DType::kQ5_0, "q5_0", 6, kSmallBlock, kBytes, Decode, nullptr};

}  // namespace hawser
