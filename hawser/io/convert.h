// io/convert.h - stored elements of any dtype to F32 and back.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hawser/base/dtype.h"

namespace hawser {

/// out[i] = element i of `bytes`, which need not be aligned. F32, BF16, F16 and small integers exactly, F64 and large
/// integers rounded to nearest; blocked types as quant/block.h says, in whole blocks.
void ConvertToF32(DType dtype, const std::byte* bytes, int64_t count, float* out);

/// Element i of `bytes` (not necessarily aligned) = x[i] rounded to nearest, ties to even. Floating dtypes and
/// blocked ones that are written, those in whole blocks (kInternal otherwise).
void ConvertFromF32(const float* x, int64_t count, DType dtype, std::byte* bytes);

}  // namespace hawser
