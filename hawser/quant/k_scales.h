// quant/k_scales.h - the eight 6-bit scales and eight 6-bit minima that q4_k and q5_k pack in twelve bytes. For this
// room alone.
#pragma once

#include "hawser/quant/types.h"

namespace hawser {

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

}  // namespace hawser
