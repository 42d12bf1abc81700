// q4_0: f16 d, 16 bytes of two 4-bit q: value j in the low half of byte j, value j + 16 in the high; x = d (q - 8).
#pragma once

#include <algorithm>
#include <cmath>

#include "hawser/quant/reader.h"

namespace hawser {
namespace {

struct Q4_0 {
  static constexpr DType kDType = DType::kQ4_0;
  static constexpr std::string_view kName = "q4_0";
  static constexpr uint32_t kGguf = 2;
  static constexpr int kValues = 32, kBytes = 18, kGroup = 32, kOffset = 8;
  static constexpr bool kMinimum = false;

  static constexpr int kHalf = kValues / 2;

  static void Decode(const std::byte* from, int64_t blocks, float* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kBytes, to += kValues) {
      const float d = HalfAt(from, 0);
      for (int j = 0; j < kHalf; ++j) {
        const int pair = ByteAt(from, 2 + j);
        to[j] = static_cast<float>((pair & 15) - 8) * d;
        to[j + kHalf] = static_cast<float>((pair >> 4) - 8) * d;
      }
    }
  }

  /// The value of greatest magnitude becomes -8 exactly: one more level on its side than on the other.
  static void Encode(const float* from, int64_t blocks, std::byte* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kValues, to += kBytes) {
      const float* most =
          std::max_element(from, from + kValues, [](float x, float y) { return std::fabs(x) < std::fabs(y); });
      const float d = *most / -8.0f;
      const float inverse = d != 0 ? 1.0f / d : 0.0f;
      PutHalf(d, to);
      const auto level = [&](float x) { return std::clamp(static_cast<int>(x * inverse + 8.5f), 0, 15); };
      for (int j = 0; j < kHalf; ++j) to[2 + j] = static_cast<std::byte>(level(from[j]) | level(from[j + kHalf]) << 4);
    }
  }

  template <class V, class Group>
  [[gnu::always_inline]] static void Read(const uint8_t* at, int64_t stride, const Group& group) {
    typename V::I q[8];
    ReadNibbles<V>(at + 2, stride, q);
    group(q, V::Half(V::Words(at, stride)), V::Zero());
  }
};

}  // namespace
}  // namespace hawser
