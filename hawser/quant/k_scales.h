// quant/k_scales.h - the eight 6-bit scales and eight 6-bit minima that q4_k and q5_k pack in twelve bytes. For this
// room alone.
#pragma once

#include "hawser/quant/reader.h"

namespace hawser {
namespace {

struct KScale {
  int scale = 0;
  int minimum = 0;
};

/// Group k < 4: the low six bits of bytes k and k + 4. Above: scale and minimum in the halves of byte k + 4, their high
/// two bits on top of bytes k - 4 and k.
inline KScale UnpackKScale(const std::byte* packed, int k) {
  if (k < 4) return {ByteAt(packed, k) & 63, ByteAt(packed, k + 4) & 63};
  return {(ByteAt(packed, k + 4) & 15) | (ByteAt(packed, k - 4) >> 6) << 4,
          (ByteAt(packed, k + 4) >> 4) | (ByteAt(packed, k) >> 6) << 4};
}

/// Ors group k into `packed`, which begins as zeros.
inline void PackKScale(KScale s, int k, std::byte* packed) {
  const auto put = [&](int at, int bits) { packed[at] |= static_cast<std::byte>(bits); };
  if (k < 4) {
    put(k, s.scale);
    put(k + 4, s.minimum);
  } else {
    put(k + 4, (s.scale & 15) | (s.minimum & 15) << 4);
    put(k - 4, s.scale >> 4 << 6);
    put(k, s.minimum >> 4 << 6);
  }
}

/// Those of a block of each row, for reading: f16 d, f16 m, then the twelve bytes; `at` is where the blocks begin.
template <class V>
struct KScales {
  [[gnu::always_inline]] KScales(const uint8_t* at, int64_t stride) {
    typename V::I head[4];
    V::Columns(at, stride, head);
    d = V::Half(head[0]);
    m = V::Negative(V::Half(V::template Shr<16>(head[0])));
    const typename V::I low = V::Splat(0x3f3f3f3fu), top = V::Splat(0x30303030u);
    const auto upper = [&](typename V::I halves, typename V::I tops) {
      return V::Or(halves, V::And(V::template Shr<2>(tops), top));
    };
    scale[0] = V::And(head[1], low);
    scale[1] = upper(Bits<V, 4, 0>(head[3]), head[1]);
    minimum[0] = V::And(head[2], low);
    minimum[1] = upper(Bits<V, 4, 4>(head[3]), head[2]);
  }
  template <int k>
  [[gnu::always_inline]] typename V::F Scale() const {
    return V::Mul(d, V::Float(BitsOf<V, 8, k % 4 * 8>(scale[k / 4])));
  }
  template <int k>
  [[gnu::always_inline]] typename V::F Minimum() const {
    return V::Mul(m, V::Float(BitsOf<V, 8, k % 4 * 8>(minimum[k / 4])));
  }
  typename V::F d, m;
  typename V::I scale[2], minimum[2];  // of groups 0 to 3 and 4 to 7, a byte each
};

}  // namespace
}  // namespace hawser
