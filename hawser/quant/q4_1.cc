// q4_1: f16 d, f16 m, 16 bytes of two 4-bit q, laid out as in q4_0; x = d q + m.
#include <algorithm>

#include "hawser/quant/types.h"

namespace hawser {
namespace {

constexpr int kBytes = 20;
constexpr int kHalf = kSmallBlock / 2;

void Decode(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kBytes, to += kSmallBlock) {
    const float d = HalfAt(from, 0), m = HalfAt(from, 2);
    for (int j = 0; j < kHalf; ++j) {
      const int pair = ByteAt(from, 4 + j);
      to[j] = static_cast<float>(pair & 15) * d + m;
      to[j + kHalf] = static_cast<float>(pair >> 4) * d + m;
    }
  }
}

void Encode(const float* from, int64_t blocks, std::byte* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kSmallBlock, to += kBytes) {
    const auto range = std::minmax_element(from, from + kSmallBlock);
    const float least = *range.first, most = *range.second;
    const float d = (most - least) / 15.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    PutHalf(d, to);
    PutHalf(least, to + 2);
    const auto level = [&](float x) { return std::clamp(static_cast<int>((x - least) * inverse + 0.5f), 0, 15); };
    for (int j = 0; j < kHalf; ++j) to[4 + j] = static_cast<std::byte>(level(from[j]) | level(from[j + kHalf]) << 4);
  }
}

}  // namespace

const BlockType kQ4_1Type = {DType::kQ4_1, "q4_1", 3, kSmallBlock, kBytes, Decode, Encode};

}  // namespace hawser
