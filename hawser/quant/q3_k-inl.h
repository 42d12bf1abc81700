// q3_k: 32 bytes of third bits, 64 bytes of 2-bit q laid out as in q2_k, 12 bytes of sixteen 6-bit scales, f16 d;
// x = d (scale - 32) (q - 4 (1 - third bit)). Bit 4 h + p of byte l holds the third bit of value 128 h + 32 p + l. The
// low four bits of scale i are in half i / 8 of byte i % 8, its high two in byte 8 + i % 4 from bit 2 (i / 4).
#pragma once

#include "hawser/quant/reader.h"

namespace hawser {
namespace {

struct Q3K {
  static constexpr DType kDType = DType::kQ3K;
  static constexpr std::string_view kName = "q3_k";
  static constexpr uint32_t kGguf = 11;
  static constexpr int kValues = 256, kBytes = 110, kGroup = 16, kOffset = 4;
  static constexpr bool kMinimum = false;

  static int Scale(const std::byte* packed, int i) {
    const int low = ByteAt(packed, i % 8) >> (i / 8 * 4) & 15;
    const int high = ByteAt(packed, 8 + i % 4) >> (i / 4 * 2) & 3;
    return (low | high << 4) - 32;
  }

  static void Decode(const std::byte* from, int64_t blocks, float* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kBytes) {
      const float d = HalfAt(from, 108);
      for (int group = 0; group < 16; ++group) {
        const float scale = d * static_cast<float>(Scale(from + 96, group));
        const int half = group / 8, pair = group % 8 / 2, begin = group % 2 * 16;
        for (int l = begin; l < begin + 16; ++l) {
          const int third = ByteAt(from, l) >> (4 * half + pair) & 1;
          const int q = ByteAt(from, 32 + 32 * half + l) >> (2 * pair) & 3;
          *to++ = scale * static_cast<float>(q - 4 * (1 - third));
        }
      }
    }
  }

  template <class V, class Group>
  [[gnu::always_inline]] static void Read(const uint8_t* at, int64_t stride, const Group& group) {
    typename V::I thirds[8], pairs[8], scales[4], q[4];
    V::Columns(at, stride, thirds);
    V::Columns(at + 16, stride, thirds + 4);
    const typename V::I low[2] = {V::Words(at + 96, stride), V::Words(at + 100, stride)};
    const typename V::I high = V::Words(at + 104, stride);
    Unroll<4>([&](auto t) {
      scales[t] = V::Or(Bits<V, 4, t / 2 * 4>(low[t % 2]), V::template Shl<4>(Bits<V, 2, 2 * t>(high)));
    });
    const typename V::F d = V::Half(V::template Shr<16>(V::Words(at + 106, stride)));
    Unroll<16>([&](auto g) __attribute__((always_inline)) {
      if constexpr (g % 8 == 0) {
        V::Columns(at + 32 + g / 8 * 32, stride, pairs);
        V::Columns(at + 48 + g / 8 * 32, stride, pairs + 4);
      }
      Unroll<4>([&](auto i) __attribute__((always_inline)) {
        constexpr int kFrom = g % 2 * 4 + i;
        const typename V::I third = Bits<V, 1, g / 8 * 4 + g % 8 / 2>(thirds[kFrom]);
        q[i] = V::Or(Bits<V, 2, g % 8 / 2 * 2>(pairs[kFrom]), V::template Shl<2>(third));
      });
      const typename V::I scale = V::Sub(BitsOf<V, 6, g % 4 * 8>(scales[g / 4]), V::Splat(32));
      group(q, V::Mul(d, V::Float(scale)), V::Zero());
    });
  }
};

}  // namespace
}  // namespace hawser
