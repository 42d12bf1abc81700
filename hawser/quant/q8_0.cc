// q8_0: f16 d, 32 int8 q; x = d q.
#include <cmath>

#include "hawser/quant/types.h"

namespace hawser {
namespace {

constexpr int kBytes = 34;

void Decode(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kBytes, to += kSmallBlock) {
    const float d = HalfAt(from, 0);
    for (int j = 0; j < kSmallBlock; ++j) to[j] = d * static_cast<float>(static_cast<int8_t>(from[2 + j]));
  }
}

void Encode(const float* from, int64_t blocks, std::byte* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kSmallBlock, to += kBytes) {
    float most = 0;
    for (int j = 0; j < kSmallBlock; ++j) most = std::fmax(most, std::fabs(from[j]));
    const float d = most / 127.0f;
    const float inverse = d > 0 ? 1.0f / d : 0.0f;
    PutHalf(d, to);
    for (int j = 0; j < kSmallBlock; ++j) {
      to[2 + j] = static_cast<std::byte>(static_cast<int8_t>(std::round(from[j] * inverse)));
    }
  }
}

}  // namespace

const BlockType kQ8_0Type = {DType::kQ8_0, "q8_0", 8, kSmallBlock, kBytes, Decode, Encode};

}  // namespace hawser
