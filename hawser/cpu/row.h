// cpu/row.h - one row of a matrix whose dtype is known at run time: kernels branch on `low` per vector, which a
// predictor gets right every time, instead of being compiled once per mix of dtypes.
#pragma once

#include <algorithm>
#include <cstdint>

#include "hawser/base/buffer.h"

namespace hawser {

struct ConstRow {
  const void* data;
  bool low;  // BF16, else F32
};
struct Row {
  void* data;
  bool low;
  operator ConstRow() const { return {data, low}; }  // NOLINT: a view of a view
};

inline ConstRow RowOf(const ConstMat& mat, int64_t r) {
  const bool low = mat.dtype == DType::kBF16;
  return {low ? static_cast<const void*>(mat.Row<bf16>(r)) : mat.Row<float>(r), low};
}
inline Row RowOf(const Mat& mat, int64_t r) {
  const bool low = mat.dtype == DType::kBF16;
  return {low ? static_cast<void*>(mat.Row<bf16>(r)) : mat.Row<float>(r), low};
}

/// Rows a piece of a loop over rows of `cols` elements takes: about 16K elements, whatever the number of threads.
inline int64_t RowGrain(int64_t cols) { return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, cols)); }

}  // namespace hawser
