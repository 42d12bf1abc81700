// testing/test_mat.h - matrices for op tests: random values, a row stride larger than the width, and a margin of NaN
// between the rows that an op must neither read into its result nor write.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "hawser/base/buffer.h"
#include "hawser/base/rng.h"

namespace hawser::testing {

inline double At(ConstMat mat, int64_t r, int64_t c) {
  return mat.dtype == DType::kBF16 ? ToF32(mat.Row<bf16>(r)[c]) : mat.Row<float>(r)[c];
}
inline void Set(Mat mat, int64_t r, int64_t c, double value) {
  if (mat.dtype == DType::kBF16) {
    mat.Row<bf16>(r)[c] = ToBF16(static_cast<float>(value));
  } else {
    mat.Row<float>(r)[c] = static_cast<float>(value);
  }
}

class TestMat {
 public:
  /// Normal values of the given deviation; `margin` elements of NaN after each row.
  TestMat(int64_t rows, int64_t cols, DType dtype, uint64_t seed, double deviation = 1.0, int64_t margin = 0)
      : owner_(rows, cols + margin, dtype), view_(owner_) {
    Rng rng{.seed = seed, .stream = 77};
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < cols + margin; ++c) {
        Set(owner_, r, c, c < cols ? deviation * rng.Normal() : std::numeric_limits<double>::quiet_NaN());
      }
    }
    view_.cols = cols;
  }

  operator Mat() { return view_; }             // NOLINT: as Matrix does
  operator ConstMat() const { return view_; }  // NOLINT
  Mat view() { return view_; }
  double operator()(int64_t r, int64_t c) const { return At(view_, r, c); }
  void Put(int64_t r, int64_t c, double value) { hawser::testing::Set(view_, r, c, value); }
  int64_t rows() const { return view_.rows; }
  int64_t cols() const { return view_.cols; }

  /// The values, row by row without the margin.
  std::vector<double> Values() const {
    std::vector<double> values;
    for (int64_t r = 0; r < rows(); ++r) {
      for (int64_t c = 0; c < cols(); ++c) values.push_back((*this)(r, c));
    }
    return values;
  }
  /// Every byte, margin included.
  std::vector<char> Bytes() const {
    const char* data = static_cast<const char*>(static_cast<ConstMat>(owner_).data);
    return {data, data + owner_.bytes()};
  }
  /// Fails the test if an op wrote between the rows.
  void ExpectMarginUntouched() const {
    const ConstMat all = owner_;
    for (int64_t r = 0; r < rows(); ++r) {
      for (int64_t c = cols(); c < all.cols; ++c) ASSERT_TRUE(std::isnan(At(all, r, c))) << "row " << r << " col " << c;
    }
  }

 private:
  Matrix owner_;
  Mat view_;
};

}  // namespace hawser::testing
