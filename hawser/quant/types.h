// quant/types.h - the storage types by name, and what their files share. For this room alone.
#pragma once

#include <cstdint>
#include <cstring>

#include "hawser/quant/block.h"

namespace hawser {

extern const BlockType kQ8_0Type, kQ4_0Type, kQ4_1Type, kQ5_0Type, kQ5_1Type;
extern const BlockType kQ2KType, kQ3KType, kQ4KType, kQ5KType, kQ6KType;

inline constexpr int kSmallBlock = 32;   // values of the plain types
inline constexpr int kLargeBlock = 256;  // of the K types

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
  for (int j = 0; j < kSmallBlock / 2; ++j) {
    const int low = level(from[j]), up = level(from[j + kSmallBlock / 2]);
    high |= static_cast<uint32_t>(low >> 4) << j | static_cast<uint32_t>(up >> 4) << (j + kSmallBlock / 2);
    to[sizeof(high) + static_cast<size_t>(j)] = static_cast<std::byte>((low & 15) | (up & 15) << 4);
  }
  std::memcpy(to, &high, sizeof(high));
}

}  // namespace hawser
