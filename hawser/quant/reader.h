// quant/reader.h - what the files of the storage types share. Each type is a struct in a file of its own, NAME-inl.h:
//
//   kDType, kName, kGguf, kValues, kBytes   the row of BlockType (block.h)
//   kGroup       values that share a scale: 16 or 32
//   kOffset      w = scale (q - kOffset) + minimum, q unsigned in 8 bits, below 128 but for kOffset = 128
//   kMinimum     whether there is a minimum other than 0; then kOffset = 0
//   Decode       BlockType::decode, and Encode where files of the type are written
//   Read<V>(at, stride, group)   one block of each of V::kRows rows of weights, `stride` bytes apart, the first at
//   `at`;
//                group(q, scale, minimum) for each group in order: lane r of q[i] holds the q of values 4 i to 4 i + 3
//                of row r, the first in the lowest byte; scale and minimum a lane a row. No byte outside of the blocks
//                is read.
//
// Read is compiled once for each instruction set, whose vectors V has: V::I of V::kRows 32-bit lanes, V::F of as many
// floats, and the functions used below. So all of these files have internal linkage, and what they call is a template
// or forced inline.
#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "hawser/quant/block.h"

namespace hawser {
namespace {

template <int kCount, class Body>
__attribute__((always_inline)) inline void Unroll(const Body& body) {
  [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
    (body(std::integral_constant<int, i>{}), ...);
  }
  (std::make_integer_sequence<int, kCount>{});
}

/// kCount bits from bit kFrom of each byte; those of the fields of each lane that begin there.
template <class V, int kCount, int kFrom>
[[gnu::always_inline]] inline typename V::I Bits(typename V::I v) {
  const typename V::I mask = V::Splat(((1u << kCount) - 1) * 0x01010101u);
  if constexpr (kFrom == 0) return V::And(v, mask);
  return V::And(V::template Shr<kFrom>(v), mask);
}

/// kCount bits from bit kFrom of each lane.
template <class V, int kCount, int kFrom>
[[gnu::always_inline]] inline typename V::I BitsOf(typename V::I v) {
  const typename V::I mask = V::Splat((1u << kCount) - 1);
  if constexpr (kFrom == 0) return V::And(v, mask);
  return V::And(V::template Shr<kFrom>(v), mask);
}

/// The 32 q of blocks that have them in 16 bytes: the low halves first, then the high ones.
template <class V>
[[gnu::always_inline]] inline void ReadNibbles(const uint8_t* at, int64_t stride, typename V::I* q) {
  typename V::I pairs[4];
  V::Columns(at, stride, pairs);
  Unroll<4>([&](auto i) { q[i] = Bits<V, 4, 0>(pairs[i]), q[i + 4] = Bits<V, 4, 4>(pairs[i]); });
}

/// Those of q5_0 and q5_1: fifth bits, then ReadNibbles.
template <class V>
[[gnu::always_inline]] inline void ReadFifths(const uint8_t* at, int64_t stride, typename V::I* q) {
  ReadNibbles<V>(at + 4, stride, q);
  const typename V::I fifths = V::Words(at, stride);
  Unroll<8>([&](auto i) { q[i] = V::Or(q[i], V::template FifthBits<i>(fifths)); });
}

inline uint8_t ByteAt(const std::byte* from, int64_t i) { return static_cast<uint8_t>(from[i]); }

inline float HalfAt(const std::byte* from, int64_t offset) {
  uint16_t bits;
  std::memcpy(&bits, from + offset, sizeof(bits));
  return F16ToF32(bits);
}

/// The value that reading gives back.
inline float PutHalf(float x, std::byte* to) {
  const uint16_t bits = F32ToF16(x);
  std::memcpy(to, &bits, sizeof(bits));
  return F16ToF32(bits);
}

/// The q of a block of q5_0 or q5_1, level(x) in [0, 31]: u32 of fifth bits, then 16 bytes of two 4-bit halves.
template <class Level>
void PutFifths(const float* from, Level level, std::byte* to) {
  uint32_t high = 0;
  for (int j = 0; j < 16; ++j) {
    const int low = level(from[j]), up = level(from[j + 16]);
    high |= static_cast<uint32_t>(low >> 4) << j | static_cast<uint32_t>(up >> 4) << (j + 16);
    to[sizeof(high) + static_cast<size_t>(j)] = static_cast<std::byte>((low & 15) | (up & 15) << 4);
  }
  std::memcpy(to, &high, sizeof(high));
}

}  // namespace
}  // namespace hawser
