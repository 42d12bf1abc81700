// q8_0: f16 d, 32 int8 q; x = d q.
#pragma once

#include <cmath>

#include "hawser/quant/reader.h"

namespace hawser {
namespace {

struct Q8_0 {
  static constexpr DType kDType = DType::kQ8_0;
  static constexpr std::string_view kName = "q8_0";
  static constexpr uint32_t kGguf = 8;
  static constexpr int kValues = 32, kBytes = 34, kGroup = 32, kOffset = 128;
  static constexpr bool kMinimum = false;

  static void Decode(const std::byte* from, int64_t blocks, float* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kBytes, to += kValues) {
      const float d = HalfAt(from, 0);
      for (int j = 0; j < kValues; ++j) to[j] = d * static_cast<float>(static_cast<int8_t>(from[2 + j]));
    }
  }

  static void Encode(const float* from, int64_t blocks, std::byte* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kValues, to += kBytes) {
      float most = 0;
      for (int j = 0; j < kValues; ++j) most = std::fmax(most, std::fabs(from[j]));
      const float d = most / 127.0f;
      const float inverse = d > 0 ? 1.0f / d : 0.0f;
      PutHalf(d, to);
      for (int j = 0; j < kValues; ++j) {
        to[2 + j] = static_cast<std::byte>(static_cast<int8_t>(std::round(from[j] * inverse)));
      }
    }
  }

  template <class V, class Group>
  [[gnu::always_inline]] static void Read(const uint8_t* at, int64_t stride, const Group& group) {
    typename V::I q[8];
    V::Columns(at + 2, stride, q);
    V::Columns(at + 18, stride, q + 4);
    Unroll<8>([&](auto i) __attribute__((always_inline)) { q[i] = V::Xor(q[i], V::Splat(0x80808080u)); });
    group(q, V::Half(V::Words(at, stride)), V::Zero());
  }
};

}  // namespace
}  // namespace hawser
