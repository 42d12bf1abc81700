// base/q8.h - q8_0: values in blocks of 32 with one scale. A row of n values is its blocks one behind the other, the
// last one shorter where n is no multiple of 32; a block is an f16 scale d and one int8 q a value, x = d * q. Nothing
// is aligned: a whole block takes 34 bytes (8.5 bits a value), a last one of r values r + 2.
//   d = max |x| / 127, rounded to f16;   q = x / d, rounded to nearest even and held in [-127, 127]
//   |x - d q| <= d / 2, and where d is subnormal in f16 (below 2^-14) 127 * 2^-25 more
// A block of zeros has d = 0. A block that holds a NaN or an infinity, or a value beyond 127 times what f16 holds
// (8.3e6), has d = NaN: all of it reads as NaN, so that what is computed from it shows it.
#pragma once

#include <cstddef>
#include <cstdint>

namespace hawser {

inline constexpr int64_t kQ8Block = 32;

/// Bytes of a row of `values` values.
constexpr int64_t Q8Bytes(int64_t values) { return values + 2 * ((values + kQ8Block - 1) / kQ8Block); }

/// x [n] -> to [Q8Bytes(n)].
void QuantizeQ8(const float* x, int64_t n, std::byte* to);
/// from [Q8Bytes(n)] -> x [n]: the twin of the kernels that read blocks on their way.
void DequantizeQ8(const std::byte* from, int64_t n, float* x);

}  // namespace hawser
