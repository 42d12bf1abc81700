// q5_1: f16 d, f16 m, u32 of fifth bits, 16 bytes of two 4-bit halves, laid out as in q5_0; x = d q + m.
#include <algorithm>

#include "hawser/quant/types.h"

namespace hawser {
namespace {

constexpr int kBytes = 24;
constexpr int kHalf = kSmallBlock / 2;

void Decode(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kBytes, to += kSmallBlock) {
    const float d = HalfAt(from, 0), m = HalfAt(from, 2);
    uint32_t high;
    std::memcpy(&high, from + 4, sizeof(high));
    for (int j = 0; j < kHalf; ++j) {
      const int pair = ByteAt(from, 8 + j);
      const int low = (pair & 15) | static_cast<int>((high >> j & 1u) << 4);
      const int up = (pair >> 4) | static_cast<int>((high >> (j + kHalf) & 1u) << 4);
      to[j] = static_cast<float>(low) * d + m;
      to[j + kHalf] = static_cast<float>(up) * d + m;
    }
  }
}

void Encode(const float* from, int64_t blocks, std::byte* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kSmallBlock, to += kBytes) {
    const auto [least, most] = std::minmax_element(from, from + kSmallBlock);
    const float d = (*most - *least) / 31.0f;
    const float inverse = d != 0 ? 1.0f / d : 0.0f;
    PutHalf(d, to);
    PutHalf(*least, to + 2);
    const auto level = [&](float x) { return std::clamp(static_cast<int>((x - *least) * inverse + 0.5f), 0, 31); };
    PutFifths(from, level, to + 4);
  }
}

}  // namespace

const BlockType kQ5_1Type = {DType::kQ5_1, "q5_1", 7, kSmallBlock, kBytes, Decode, Encode};

}  // namespace hawser
