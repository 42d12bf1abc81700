// Operations on rows of F64 are those of the CPU's on rows of F32, to the rounding of these.
#include "hawser/eval/f64_backend.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <memory>
#include <vector>

#include "hawser/base/rng.h"
#include "hawser/device/registry.h"

namespace hawser {
namespace {

constexpr int64_t kF64Rows = 40, kF64Cols = 24;  // more rows than a piece has

class F64BackendTest : public ::testing::Test {
 protected:
  Matrix Random(int64_t rows, int64_t cols, uint64_t seed) {
    Matrix m(rows, cols);
    Rng rng{.seed = seed, .stream = 8};
    for (int64_t i = 0; i < rows * cols; ++i) m.Row<float>(0)[i] = static_cast<float>(6 * rng.Uniform() - 3);
    return m;
  }
  static Matrix Wide(const Matrix& m) {
    Matrix wide(m.rows(), m.cols(), DType::kF64);
    for (int64_t i = 0; i < m.rows() * m.cols(); ++i) wide.Row<double>(0)[i] = m.Row<float>(0)[i];
    return wide;
  }
  /// What an operation makes of x [rows, in] and y [rows, cols], in f32 and in f64.
  /// `size`: of the greatest sum of magnitudes on the way, of which f32 may lose 3 bits more than one rounding.
  void Compare(const char* name, int64_t in, int64_t cols, const std::function<void(Backend*, Mat x, Mat y)>& what,
               double size = 20) {
    Matrix x = Random(kF64Rows, in, 1), y = Random(kF64Rows, cols, 2), wide_x = Wide(x), wide_y = Wide(y);
    what(&f64_, x.view(), y.view());
    what(&f64_, wide_x.view(), wide_y.view());
    for (int64_t i = 0; i < kF64Rows * cols; ++i) {
      const double wanted = y.Row<float>(0)[i], found = wide_y.Row<double>(0)[i];
      EXPECT_NEAR(found, wanted, size * 0x1p-21) << name << " " << i;
    }
  }

  std::unique_ptr<Backend> cpu_ = MakeBackend("cpu");
  F64Backend f64_{cpu_.get()};
};

TEST_F(F64BackendTest, IsTheCpuBackendInF64) {
  const Matrix weight = Random(1, kF64Cols, 3), bias = Random(1, kF64Cols, 4), head = Random(1, 8, 5);
  const Matrix matrix = Random(17, kF64Cols, 6), out_bias = Random(1, 17, 7), table = Random(9, kF64Cols, 8);
  for (const NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    for (const bool plus_one : {false, true}) {
      Compare("norm", kF64Cols, kF64Cols, [&](Backend* b, Mat x, Mat y) {
        b->NormForward(
            {.x = x, .weight = weight.view(), .bias = bias.view(), .y = y, .kind = kind, .plus_one = plus_one});
      });
      Compare("norm of heads, in place", kF64Cols, kF64Cols, [&](Backend* b, Mat x, Mat y) {
        b->NormForward({.x = y, .weight = head.view(), .y = y, .kind = kind, .plus_one = plus_one, .heads = 3});
        b->Add(x, y);
      });
    }
  }
  for (const Act act : {Act::kSilu, Act::kGelu, Act::kGeluTanh, Act::kRelu}) {
    for (const bool gated : {false, true}) {
      Compare("act", gated ? 2 * kF64Cols : kF64Cols, kF64Cols,
              [&](Backend* b, Mat x, Mat y) { b->ActForward({.in = x, .y = y, .act = act, .gated = gated}); });
    }
  }
  Compare(
      "linear", kF64Cols, 17,
      [&](Backend* b, Mat x, Mat y) { b->Linear({.x = x, .w = matrix.view(), .bias = out_bias.view(), .y = y}); },
      /*size=*/9.0 * kF64Cols);
  Compare("embedding", 1, kF64Cols, [&](Backend* b, Mat, Mat y) {
    std::vector<int32_t> ids;
    for (int32_t r = 0; r < kF64Rows; ++r) ids.push_back(r * 5 % 9);
    b->EmbedForward(table.view(), ids.data(), y, 5.5f);
  });
  Compare("clamp, copy", kF64Cols, kF64Cols, [&](Backend* b, Mat x, Mat y) {
    b->Copy(x, y);
    b->Clamp(y, 0.8f);
  });
  // Of some columns of rows.
  Compare("columns", kF64Cols, kF64Cols, [&](Backend* b, Mat x, Mat y) {
    b->Copy(x.Cols(3, 5), y.Cols(11, 5));
    b->Add(x.Cols(8, 4), y.Cols(0, 4));
    b->Clamp(y.Cols(4, 9), 0.5f);
  });
}

// What f32 would round away is there.
TEST_F(F64BackendTest, NothingIsRoundedToF32) {
  Matrix x(1, 2, DType::kF64), y(1, 1, DType::kF64), w(1, 2);
  x.Row<double>(0)[0] = 1;
  x.Row<double>(0)[1] = 0x1p-40;
  w.Row<float>(0)[0] = w.Row<float>(0)[1] = 1;
  f64_.Linear({.x = x.view(), .w = w.view(), .y = y.view()});
  EXPECT_EQ(y.Row<double>(0)[0], 1 + 0x1p-40);
}

}  // namespace
}  // namespace hawser
