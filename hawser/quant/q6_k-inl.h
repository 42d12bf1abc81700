// q6_k: 128 bytes of low four bits, 64 bytes of high two bits, 16 int8 scales of 16 values each, f16 d; x = d scale (q
// - 32). In half h, quarter r, value l of 32: the low bits are half r / 2 of byte 64 h + 32 (r % 2) + l, the high bits
// those from 2 r in byte 32 h + l.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>

#include "hawser/quant/fit.h"
#include "hawser/quant/reader.h"

namespace hawser {
namespace {

struct Q6K {
  static constexpr DType kDType = DType::kQ6K;
  static constexpr std::string_view kName = "q6_k";
  static constexpr uint32_t kGguf = 14;
  static constexpr int kValues = 256, kBytes = 210, kGroup = 16, kOffset = 32;
  static constexpr bool kMinimum = false;

  static constexpr int kHigh = 128, kScales = 192, kUnit = 208;
  static constexpr int kGroups = kValues / kGroup;

  struct Place {
    int low, low_shift, high, high_shift;
  };
  static Place PlaceOf(int value) {
    const int half = value / 128, quarter = value % 128 / 32, l = value % 32;
    return {64 * half + 32 * (quarter % 2) + l, quarter / 2 * 4, kHigh + 32 * half + l, 2 * quarter};
  }

  static void Decode(const std::byte* from, int64_t blocks, float* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kBytes) {
      const float d = HalfAt(from, kUnit);
      for (int i = 0; i < kValues; ++i) {
        const Place p = PlaceOf(i);
        const int q = (ByteAt(from, p.low) >> p.low_shift & 15) | (ByteAt(from, p.high) >> p.high_shift & 3) << 4;
        const auto scale = static_cast<float>(static_cast<int8_t>(from[kScales + i / kGroup]));
        *to++ = d * scale * static_cast<float>(q - 32);
      }
    }
  }

  static void Encode(const float* from, int64_t blocks, std::byte* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kValues, to += kBytes) {
      std::array<float, kGroups> fits;
      float most = 0;
      for (int g = 0; g < kGroups; ++g) {
        const float scale = fits[static_cast<size_t>(g)] = FitSymmetric(from + g * kGroup, kGroup, 32);
        if (std::fabs(scale) > std::fabs(most)) most = scale;
      }
      std::fill(to, to + kBytes, std::byte{0});
      const float d = PutHalf(most / -128.0f, to + kUnit);
      for (int g = 0; g < kGroups; ++g) {
        const float ratio = d != 0 ? fits[static_cast<size_t>(g)] / d : 0.0f;
        const auto scale = static_cast<int8_t>(std::clamp(std::nearbyint(ratio), -128.0f, 127.0f));
        to[kScales + g] = static_cast<std::byte>(scale);
        const float step = d * static_cast<float>(scale);
        for (int i = g * kGroup; i < (g + 1) * kGroup; ++i) {
          const float level = step != 0 ? std::clamp(std::nearbyint(from[i] / step), -32.0f, 31.0f) : 0.0f;
          const int q = static_cast<int>(level) + 32;
          const Place p = PlaceOf(i);
          to[p.low] |= static_cast<std::byte>((q & 15) << p.low_shift);
          to[p.high] |= static_cast<std::byte>(q >> 4 << p.high_shift);
        }
      }
    }
  }

  template <class V, class Group>
  [[gnu::always_inline]] static void Read(const uint8_t* at, int64_t stride, const Group& group) {
    typename V::I low[16], high[8], scales[4], q[4];
    V::Columns(at + kScales, stride, scales);
    const typename V::F d = V::Half(V::template Shr<16>(V::Words(at + kUnit - 2, stride)));
    Unroll<16>([&](auto g) __attribute__((always_inline)) {
      constexpr int kHalf = g / 8, kQuarter = g % 8 / 2, kPart = g % 2 * 4;
      if constexpr (g % 8 == 0) {
        Unroll<4>([&](auto c)
                      __attribute__((always_inline)) { V::Columns(at + 64 * kHalf + 16 * c, stride, low + 4 * c); });
        Unroll<2>([&](auto c) __attribute__((always_inline)) {
          V::Columns(at + kHigh + 32 * kHalf + 16 * c, stride, high + 4 * c);
        });
      }
      Unroll<4>([&](auto i) __attribute__((always_inline)) {
        const typename V::I top = V::template Shl<4>(Bits<V, 2, 2 * kQuarter>(high[kPart + i]));
        q[i] = V::Or(Bits<V, 4, kQuarter / 2 * 4>(low[kQuarter % 2 * 8 + kPart + i]), top);
      });
      const typename V::I scale = V::template Sar<24>(V::template Shl<24 - g % 4 * 8>(scales[g / 4]));
      group(q, V::Mul(d, V::Float(scale)), V::Zero());
    });
  }
};

}  // namespace
}  // namespace hawser
