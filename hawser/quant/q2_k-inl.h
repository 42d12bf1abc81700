// q2_k: 16 bytes, one a group of 16 values (4-bit scale low, 4-bit minimum high), 64 bytes of four 2-bit q, f16 d, f16
// m; x = d scale q - m minimum. Half h of the block holds its q in 32 bytes; the pair of bits p of byte l is value
// 128 h + 32 p + l.
#pragma once

#include "hawser/quant/reader.h"

namespace hawser {
namespace {

struct Q2K {
  static constexpr DType kDType = DType::kQ2K;
  static constexpr std::string_view kName = "q2_k";
  static constexpr uint32_t kGguf = 10;
  static constexpr int kValues = 256, kBytes = 84, kGroup = 16, kOffset = 0;
  static constexpr bool kMinimum = true;

  static void Decode(const std::byte* from, int64_t blocks, float* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kBytes) {
      const float d = HalfAt(from, 80), m = HalfAt(from, 82);
      for (int group = 0; group < 16; ++group) {
        const int scales = ByteAt(from, group);
        const float scale = d * static_cast<float>(scales & 15), minimum = m * static_cast<float>(scales >> 4);
        const std::byte* q = from + 16 + group / 8 * 32 + group % 2 * 16;
        const int shift = group % 8 / 2 * 2;
        for (int l = 0; l < 16; ++l) *to++ = scale * static_cast<float>(ByteAt(q, l) >> shift & 3) - minimum;
      }
    }
  }

  template <class V, class Group>
  [[gnu::always_inline]] static void Read(const uint8_t* at, int64_t stride, const Group& group) {
    typename V::I scales[4], pairs[8], q[4];
    V::Columns(at, stride, scales);
    const typename V::I head = V::Words(at + 80, stride);
    const typename V::F d = V::Half(head), m = V::Negative(V::Half(V::template Shr<16>(head)));
    Unroll<16>([&](auto g) __attribute__((always_inline)) {
      if constexpr (g % 8 == 0) {
        V::Columns(at + 16 + g / 8 * 32, stride, pairs);
        V::Columns(at + 32 + g / 8 * 32, stride, pairs + 4);
      }
      Unroll<4>([&](auto i) __attribute__((always_inline)) { q[i] = Bits<V, 2, g % 8 / 2 * 2>(pairs[g % 2 * 4 + i]); });
      const typename V::I both = scales[g / 4];
      group(q, V::Mul(d, V::Float(BitsOf<V, 4, g % 4 * 8>(both))),
            V::Mul(m, V::Float(BitsOf<V, 4, g % 4 * 8 + 4>(both))));
    });
  }
};

}  // namespace
}  // namespace hawser
