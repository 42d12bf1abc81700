// q4_1: f16 d, f16 m, 16 bytes of two 4-bit q, laid out as in q4_0; x = d q + m.
#pragma once

#include <algorithm>

#include "hawser/quant/reader.h"

namespace hawser {
namespace {

struct Q4_1 {
  static constexpr DType kDType = DType::kQ4_1;
  static constexpr std::string_view kName = "q4_1";
  static constexpr uint32_t kGguf = 3;
  static constexpr int kValues = 32, kBytes = 20, kGroup = 32, kOffset = 0;
  static constexpr bool kMinimum = true;

  static constexpr int kHalf = kValues / 2;

  static void Decode(const std::byte* from, int64_t blocks, float* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kBytes, to += kValues) {
      const float d = HalfAt(from, 0), m = HalfAt(from, 2);
      for (int j = 0; j < kHalf; ++j) {
        const int pair = ByteAt(from, 4 + j);
        to[j] = static_cast<float>(pair & 15) * d + m;
        to[j + kHalf] = static_cast<float>(pair >> 4) * d + m;
      }
    }
  }

  static void Encode(const float* from, int64_t blocks, std::byte* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kValues, to += kBytes) {
      const auto range = std::minmax_element(from, from + kValues);
      const float least = *range.first, most = *range.second;
      const float d = (most - least) / 15.0f;
      const float inverse = d != 0 ? 1.0f / d : 0.0f;
      PutHalf(d, to);
      PutHalf(least, to + 2);
      const auto level = [&](float x) { return std::clamp(static_cast<int>((x - least) * inverse + 0.5f), 0, 15); };
      for (int j = 0; j < kHalf; ++j) to[4 + j] = static_cast<std::byte>(level(from[j]) | level(from[j + kHalf]) << 4);
    }
  }

  template <class V, class Group>
  [[gnu::always_inline]] static void Read(const uint8_t* at, int64_t stride, const Group& group) {
    typename V::I q[8];
    ReadNibbles<V>(at + 4, stride, q);
    const typename V::I head = V::Words(at, stride);
    group(q, V::Half(head), V::Half(V::template Shr<16>(head)));
  }
};

}  // namespace
}  // namespace hawser
