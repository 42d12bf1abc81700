// q4_0: f16 d, 16 bytes of two 4-bit q: value j in the low half of byte j, value j + 16 in the high; x = d (q - 8).
#include <algorithm>
#include <cmath>

#include "hawser/quant/types.h"

namespace hawser {
namespace {

constexpr int kBytes = 18;
constexpr int kHalf = kSmallBlock / 2;

void Decode(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kBytes, to += kSmallBlock) {
    const float d = HalfAt(from, 0);
    for (int j = 0; j < kHalf; ++j) {
      const int pair = ByteAt(from, 2 + j);
      to[j] = static_cast<float>((pair & 15) - 8) * d;
      to[j + kHalf] = static_cast<float>((pair >> 4) - 8) * d;
    }
  }
}

/// The value of greatest magnitude becomes -8 exactly: one more level on its side than on the other.
void Encode(const float* from, int64_t blocks, std::byte* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kSmallBlock, to += kBytes) {
    const float* most =
        std::max_element(from, from + kSmallBlock, [](float x, float y) { return std::fabs(x) < std::fabs(y); });
    const float d = *most / -8.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    PutHalf(d, to);
    const auto level = [&](float x) { return std::clamp(static_cast<int>(x * inverse + 8.5f), 0, 15); };
    for (int j = 0; j < kHalf; ++j) to[2 + j] = static_cast<std::byte>(level(from[j]) | level(from[j + kHalf]) << 4);
  }
}

}  // namespace

const BlockType kQ4_0Type = {DType::kQ4_0, "q4_0", 2, kSmallBlock, kBytes, Decode, Encode};

}  // namespace hawser
