// base/dtype.h - element types and scalar conversions.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace hawser {

/// Element types that tensors are stored in. Arithmetic always accumulates in f32 (kernels) or f64 (twins). From kQ8_0
/// on values lie in blocks with scales (quant/block.h): their size is counted in bytes. A matrix of kQ8_0 holds cached
/// keys and values: its elements are bytes, the heads of a row each in the form of base/q8.h.
enum class DType : uint8_t {
  kF32,
  kBF16,
  kF16,
  kF64,
  kI32,
  kI64,
  kU8,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2K,
  kQ3K,
  kQ4K,
  kQ5K,
  kQ6K
};

/// In the order of DType, for Name and SizeOf.
struct DTypeRow {
  std::string_view name;
  size_t size;  // of an element; 1 where blocked
};
inline constexpr DTypeRow kDTypes[] = {{"f32", 4},  {"bf16", 2}, {"f16", 2},  {"f64", 8},  {"i32", 4},  {"i64", 8},
                                       {"u8", 1},   {"q8_0", 1}, {"q4_0", 1}, {"q4_1", 1}, {"q5_0", 1}, {"q5_1", 1},
                                       {"q2_k", 1}, {"q3_k", 1}, {"q4_k", 1}, {"q5_k", 1}, {"q6_k", 1}};

/// Bytes of an element; 1 for blocked types.
size_t SizeOf(DType dtype);

/// Whether values lie in blocks with scales.
constexpr bool IsBlocked(DType dtype) { return dtype >= DType::kQ8_0; }

/// "f32", "bf16", ...
std::string_view Name(DType dtype);

/// Inverse of Name(), but for blocked types; throws Error(kUsage) naming the known ones.
DType ParseDType(std::string_view name);

/// bfloat16 as its 16 bits: 1 sign, 8 exponent, 7 fraction.
struct bf16 {
  uint16_t bits = 0;
};

inline float ToF32(bf16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }
inline float ToF32(float x) { return x; }

/// Round to nearest, ties to even; NaN stays NaN (quiet).
inline bf16 ToBF16(float x) {
  const uint32_t u = std::bit_cast<uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return bf16{static_cast<uint16_t>((u >> 16) | 0x40u)};
  return bf16{static_cast<uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16)};
}

/// IEEE half precision, given as its bits; subnormals, infinities and NaN included.
float F16ToF32(uint16_t bits);
uint16_t F32ToF16(float x);

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<bf16> {
  static constexpr DType value = DType::kBF16;
};

}  // namespace hawser
