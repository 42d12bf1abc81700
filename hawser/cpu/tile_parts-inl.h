// cpu/tile_parts-inl.h - what the loops of tile_kernels.h need of single values, and of vector types without
// instructions of their own.
#pragma once

#include "hawser/cpu/tile_kernels.h"

namespace hawser {
namespace {

constexpr float kNegInf = -__builtin_inff();

inline float Widen(bf16 x) { return __builtin_bit_cast(float, static_cast<uint32_t>(x.bits) << 16); }
inline float Widen(float x) { return x; }
/// F16, subnormals included; infinities, which no scale is, read as NaN.
inline float WidenHalf(const void* p) {
  uint16_t bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  const uint32_t magnitude = bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return __builtin_nanf("");
  const float size = __builtin_bit_cast(float, magnitude << 13) * 0x1p112f;
  return (bits & 0x8000u) != 0 ? -size : size;
}
inline void Narrow(float x, float* to) { *to = x; }
inline void Narrow(float x, bf16* to) {
  const uint32_t u = __builtin_bit_cast(uint32_t, x);
  const bool nan = (u & 0x7fffffffu) > 0x7f800000u;
  to->bits = static_cast<uint16_t>(nan ? (u >> 16) | 0x40u : (u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}

/// The parts of V that need no vector instructions.
struct PlainParts {
  static void Join16(const bf16* even, const bf16* odd, bf16* to) {
    for (int i = 0; i < kColStep; ++i) {
      to[2 * i] = even[i];
      to[2 * i + 1] = odd[i];
    }
  }
  static void Split16(const bf16* from, bf16* even, bf16* odd) {
    for (int i = 0; i < kColStep; ++i) {
      even[i] = from[2 * i];
      odd[i] = from[2 * i + 1];
    }
  }
  static constexpr int kSquare = 8;
  static void TransposeSquare(const uint32_t* from, int64_t ld_from, uint32_t* to, int64_t ld_to) {
    for (int c = 0; c < kSquare; ++c) {
      for (int r = 0; r < kSquare; ++r) to[c * ld_to + r] = from[r * ld_from + c];
    }
  }
};

}  // namespace
}  // namespace hawser
