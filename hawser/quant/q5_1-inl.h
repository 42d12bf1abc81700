// q5_1: f16 d, f16 m, u32 of fifth bits, 16 bytes of two 4-bit halves, laid out as in q5_0; x = d q + m.
#pragma once

#include <algorithm>

#include "hawser/quant/reader.h"

namespace hawser {
namespace {

struct Q5_1 {
  static constexpr DType kDType = DType::kQ5_1;
  static constexpr std::string_view kName = "q5_1";
  static constexpr uint32_t kGguf = 7;
  static constexpr int kValues = 32, kBytes = 24, kGroup = 32, kOffset = 0;
  static constexpr bool kMinimum = true;

  static constexpr int kHalf = kValues / 2;

  static void Decode(const std::byte* from, int64_t blocks, float* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kBytes, to += kValues) {
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

  static void Encode(const float* from, int64_t blocks, std::byte* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kValues, to += kBytes) {
      const auto ends = std::minmax_element(from, from + kValues);
      const float least = *ends.first;
      const float d = (*ends.second - least) / 31.0f;
      const float inverse = d != 0 ? 1.0f / d : 0.0f;
      PutHalf(d, to);
      PutHalf(least, to + 2);
      const auto level = [&](float x) { return std::clamp(static_cast<int>((x - least) * inverse + 0.5f), 0, 31); };
      PutFifths(from, level, to + 4);
    }
  }

  template <class V, class Group>
  [[gnu::always_inline]] static void Read(const uint8_t* at, int64_t stride, const Group& group) {
    typename V::I q[8];
    ReadFifths<V>(at + 4, stride, q);
    const typename V::I head = V::Words(at, stride);
    group(q, V::Half(head), V::Half(V::template Shr<16>(head)));
  }
};

}  // namespace
}  // namespace hawser
