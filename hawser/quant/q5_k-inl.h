// q5_k: q4_k with 32 bytes of fifth bits between the scales and the 4-bit halves: bit k of byte l is that of value l of
// group k.
#pragma once

#include <array>

#include "hawser/quant/fit.h"
#include "hawser/quant/k_scales.h"
#include "hawser/quant/reader.h"

namespace hawser {
namespace {

struct Q5K {
  static constexpr DType kDType = DType::kQ5K;
  static constexpr std::string_view kName = "q5_k";
  static constexpr uint32_t kGguf = 13;
  static constexpr int kValues = 256, kBytes = 176, kGroup = 32, kOffset = 0;
  static constexpr bool kMinimum = true;

  static void Decode(const std::byte* from, int64_t blocks, float* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kBytes) {
      const float d = HalfAt(from, 0), m = HalfAt(from, 2);
      const std::byte* high = from + 16;
      for (int k = 0; k < kValues / kGroup; ++k) {
        const KScale s = UnpackKScale(from + 4, k);
        const float scale = d * static_cast<float>(s.scale), minimum = m * static_cast<float>(s.minimum);
        const std::byte* low = from + 48 + k / 2 * kGroup;
        for (int l = 0; l < kGroup; ++l) {
          const int q = (ByteAt(low, l) >> (k % 2 * 4) & 15) | (ByteAt(high, l) >> k & 1) << 4;
          *to++ = scale * static_cast<float>(q) - minimum;
        }
      }
    }
  }

  static void Encode(const float* from, int64_t blocks, std::byte* to) {
    std::array<uint8_t, kValues> q;
    for (int64_t b = 0; b < blocks; ++b, from += kValues, to += kBytes) {
      FitKBlock(from, 31, to, q.data());
      for (size_t l = 0; l < kGroup; ++l) {
        int high = 0;
        for (size_t k = 0; k < kValues / kGroup; ++k) high |= (q[k * kGroup + l] >> 4) << k;
        to[16 + l] = static_cast<std::byte>(high);
      }
      for (size_t l = 0; l < kValues / 2; ++l) {
        const size_t low = l / kGroup * 2 * kGroup + l % kGroup;
        to[48 + l] = static_cast<std::byte>((q[low] & 15) | (q[low + kGroup] & 15) << 4);
      }
    }
  }

  template <class V, class Group>
  [[gnu::always_inline]] static void Read(const uint8_t* at, int64_t stride, const Group& group) {
    typename V::I fifths[8], pairs[8], q[8];
    const KScales<V> scales(at, stride);
    V::Columns(at + 16, stride, fifths);
    V::Columns(at + 32, stride, fifths + 4);
    Unroll<8>([&](auto g) __attribute__((always_inline)) {
      if constexpr (g % 2 == 0) {
        V::Columns(at + 48 + g * 16, stride, pairs);
        V::Columns(at + 64 + g * 16, stride, pairs + 4);
      }
      Unroll<8>([&](auto i) __attribute__((always_inline)) {
        q[i] = V::Or(Bits<V, 4, g % 2 * 4>(pairs[i]), V::template Shl<4>(Bits<V, 1, g>(fifths[i])));
      });
      group(q, scales.template Scale<g>(), scales.template Minimum<g>());
    });
  }
};

}  // namespace
}  // namespace hawser
