// q5_0: f16 d, u32 of fifth bits (bit j is that of value j), 16 bytes of two 4-bit halves, laid out as in q4_0;
// x = d (q - 16).
#pragma once

#include <algorithm>
#include <cmath>

#include "hawser/quant/reader.h"

namespace hawser {
namespace {

struct Q5_0 {
  static constexpr DType kDType = DType::kQ5_0;
  static constexpr std::string_view kName = "q5_0";
  static constexpr uint32_t kGguf = 6;
  static constexpr int kValues = 32, kBytes = 22, kGroup = 32, kOffset = 16;
  static constexpr bool kMinimum = false;

  static constexpr int kHalf = kValues / 2;

  static void Decode(const std::byte* from, int64_t blocks, float* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kBytes, to += kValues) {
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

  /// As in q4_0: the value of greatest magnitude becomes -16 exactly.
  static void Encode(const float* from, int64_t blocks, std::byte* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kValues, to += kBytes) {
      const float* most =
          std::max_element(from, from + kValues, [](float x, float y) { return std::fabs(x) < std::fabs(y); });
      const float d = *most / -16.0f;
      const float inverse = d != 0 ? 1.0f / d : 0.0f;
      PutHalf(d, to);
      const auto level = [&](float x) { return std::clamp(static_cast<int>(x * inverse + 16.5f), 0, 31); };
      PutFifths(from, level, to + 2);
    }
  }

  template <class V, class Group>
  [[gnu::always_inline]] static void Read(const uint8_t* at, int64_t stride, const Group& group) {
    typename V::I q[8];
    ReadFifths<V>(at + 2, stride, q);
    group(q, V::Half(V::Words(at, stride)), V::Zero());
  }
};

}  // namespace
}  // namespace hawser
