// cpu/matmul_matvec.h - a few rows times a transposed matrix: decoding reads every weight once per token, so what
// counts is the rate of memory, and one dot product per (row, output). More rows than fit in registers share weights
// while these lie in a cache.
#pragma once

#include "hawser/ops/backend.h"

namespace hawser {

inline constexpr int64_t kMaxMatVecRows = 16;

/// c = a b^T + bias or c += a b^T, a [m, k] with m <= kMaxMatVecRows, b [n, k], bias [n] or null. a is F32 or BF16, b
/// F32, BF16 or F16, each its own way. A dot product's order of sums depends on k, the dtypes and the instruction set
/// alone: not on m, n or the number of threads.
void MatVec(ConstMat a, ConstMat b, const float* bias, Mat c, bool accumulate);

}  // namespace hawser
