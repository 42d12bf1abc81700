// Norms of every kind against the f64 formula and its finite differences.
#include "hawser/cpu/norm.h"

#include <gtest/gtest.h>

#include "hawser/testing/cpu_runs.h"
#include "hawser/testing/ops_reference.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser {
namespace {

using testing::ExpectSameForAnyThreads;
using testing::ForEachTarget;
using testing::TestMat;
using testing::Values;

constexpr DType kNormTypes[] = {DType::kF32, DType::kBF16};

struct Form {
  NormKind kind;
  bool plus_one, bias;
  int32_t heads;
};
constexpr Form kForms[] = {
    {NormKind::kRms, false, false, 1},  {NormKind::kRms, true, false, 1},  {NormKind::kRms, false, true, 1},
    {NormKind::kRms, false, false, 3},  {NormKind::kRms, true, true, 4},   {NormKind::kLayer, false, false, 1},
    {NormKind::kLayer, false, true, 1}, {NormKind::kLayer, true, true, 1}, {NormKind::kLayer, false, true, 3},
};

Values Piece(const TestMat& mat, int64_t row, int64_t head, int64_t width) {
  Values values;
  for (int64_t c = 0; c < width; ++c) values.push_back(mat(row, head * width + c));
  return values;
}

Values Reference(const Form& form, const Values& x, const Values& w, double eps, const Values& bias) {
  return testing::ReferenceNorm(x, w, eps, form.kind, form.plus_one, form.bias ? bias : Values{});
}

double Dot(const Values& a, const Values& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

/// The reciprocal of the root that the formula divides by.
double Rstd(const Form& form, const Values& x, double eps) {
  const auto size = static_cast<double>(x.size());
  double mean = 0.0, squares = 0.0;
  for (double v : x) mean += v / size;
  if (form.kind == NormKind::kRms) mean = 0.0;
  for (double v : x) squares += (v - mean) * (v - mean);
  return 1.0 / std::sqrt(squares / size + eps);
}

TEST(Norm, ForwardAgreesWithTheFormula) {
  ForEachTarget([] {
    for (const Form& form : kForms) {
      for (int64_t width : {1, 3, 16, 33, 100}) {
        for (DType type : kNormTypes) {
          constexpr int64_t kRows = 17;
          TestMat x(kRows, form.heads * width, type, 1, 2.0, 3), w(1, width, type, 2), bias(1, width, type, 4);
          TestMat y(kRows, form.heads * width, type, 3, 1.0, 5);
          std::vector<float> rstd(kRows * form.heads);
          NormForward({.x = x,
                       .weight = w,
                       .bias = form.bias ? ConstMat(bias) : ConstMat{},
                       .y = y,
                       .rstd = rstd.data(),
                       .eps = 1e-5f,
                       .kind = form.kind,
                       .plus_one = form.plus_one,
                       .heads = form.heads});
          y.ExpectMarginUntouched();
          for (int64_t r = 0; r < kRows; ++r) {
            for (int64_t h = 0; h < form.heads; ++h) {
              const Values in = Piece(x, r, h, width), shift = Piece(bias, 0, 0, width);
              const Values weight = Piece(w, 0, 0, width), want = Reference(form, in, weight, 1e-5f, shift);
              const double root = Rstd(form, in, 1e-5f);
              ASSERT_NEAR(rstd[r * form.heads + h] / root, 1.0, 1e-6);
              const double most = std::abs(*std::max_element(
                  in.begin(), in.end(), [](double a, double b) { return std::abs(a) < std::abs(b); }));
              for (int64_t c = 0; c < width; ++c) {
                const double factor = root * (std::abs(weight[c]) + (form.plus_one ? 1.0 : 0.0));
                const double size = factor * (form.kind == NormKind::kLayer ? 2.0 * most : std::abs(in[c])) +
                                    (form.bias ? std::abs(shift[c]) : 0.0);
                ASSERT_NEAR(y(r, h * width + c), want[c], testing::SumTolerance(type, width, size, want[c]));
              }
            }
          }
        }
      }
    }
  });
}

TEST(Norm, MayWriteOverASliceOfColumns) {
  for (const Form& form : kForms) {
    TestMat all(50, 200, DType::kBF16, 1), same(50, 200, DType::kBF16, 1), w(1, 12, DType::kBF16, 2);
    NormArgs args{.x = all.view().Cols(30, form.heads * 12),
                  .weight = w,
                  .y = all.view().Cols(30, form.heads * 12),
                  .kind = form.kind,
                  .plus_one = form.plus_one,
                  .heads = form.heads};
    TestMat apart(50, form.heads * 12, DType::kBF16, 3);
    args.y = apart;
    NormForward(args);
    args.y = all.view().Cols(30, form.heads * 12);
    NormForward(args);
    for (int64_t r = 0; r < 50; ++r) {
      for (int64_t c = 0; c < 200; ++c) {
        const bool inside = c >= 30 && c < 30 + form.heads * 12;
        ASSERT_EQ(all(r, c), inside ? apart(r, c - 30) : same(r, c));
      }
    }
  }
}

TEST(Norm, BackwardAgreesWithFiniteDifferences) {
  ForEachTarget([] {
    for (const Form& form : kForms) {
      for (int64_t width : {1, 5, 32, 49}) {
        for (DType type : kNormTypes) {
          constexpr int64_t kRows = 21;
          constexpr double kEps = 1e-3;
          const int64_t cols = form.heads * width;
          TestMat x(kRows, cols, type, 1, 1.0, 3), w(1, width, type, 2), dy(kRows, cols, type, 3, 1.0, 1);
          TestMat dx(kRows, cols, type, 4, 1.0, 2), dw(1, width, DType::kF32, 5), y(kRows, cols, DType::kF32, 6);
          TestMat residual(kRows, cols, type, 7), dbias(1, width, DType::kF32, 8), bias(1, width, type, 9);
          Values dw_want = dw.Values(), dbias_want = dbias.Values();
          std::vector<float> rstd(kRows * form.heads);
          NormForward({.x = x,
                       .weight = w,
                       .bias = form.bias ? ConstMat(bias) : ConstMat{},
                       .y = y,
                       .rstd = rstd.data(),
                       .eps = kEps,
                       .kind = form.kind,
                       .plus_one = form.plus_one,
                       .heads = form.heads});
          Scratch scratch;
          NormBackward({.x = x,
                        .weight = w,
                        .rstd = rstd.data(),
                        .dy = dy,
                        .residual = residual,
                        .dx = dx,
                        .dweight = dw,
                        .dbias = form.bias ? dbias.view() : Mat{},
                        .kind = form.kind,
                        .plus_one = form.plus_one,
                        .heads = form.heads},
                       scratch);
          dx.ExpectMarginUntouched();
          const Values weight = Piece(w, 0, 0, width), shift = Piece(bias, 0, 0, width);
          for (int64_t r = 0; r < kRows; ++r) {
            for (int64_t h = 0; h < form.heads; ++h) {
              const Values in = Piece(x, r, h, width), up = Piece(dy, r, h, width);
              const auto gradient = [&](const Values& at, int which) {
                return testing::Gradient(at, [&](const Values& v) {
                  return Dot(
                      up, Reference(form, which == 0 ? v : in, which == 1 ? v : weight, kEps, which == 2 ? v : shift));
                });
              };
              const Values want = gradient(in, 0), dw_row = gradient(weight, 1), dbias_row = gradient(shift, 2);
              const double root = rstd[r * form.heads + h];
              for (int64_t c = 0; c < width; ++c) {
                const double total = want[c] + residual(r, h * width + c);
                ASSERT_NEAR(dx(r, h * width + c), total,
                            testing::SumTolerance(type, 4, 60.0 * root, total) + 1e-6 * (1.0 + root))
                    << r << ", " << c;
                dw_want[c] += dw_row[c];
                dbias_want[c] += dbias_row[c];
              }
            }
          }
          for (int64_t c = 0; c < width; ++c) {
            EXPECT_NEAR(dw(0, c), dw_want[c], 1e-4);
            if (form.bias) {
              EXPECT_NEAR(dbias(0, c), dbias_want[c], 1e-4);
            }
          }
        }
      }
    }
  });
}

TEST(Norm, BackwardMayWriteOverItsResidualOrItsGradient) {
  for (NormKind kind : {NormKind::kRms, NormKind::kLayer}) {
    TestMat x(300, 70, DType::kF32, 1), w(1, 70, DType::kF32, 2), dy(300, 70, DType::kF32, 3);
    TestMat residual(300, 70, DType::kF32, 4), apart(300, 70, DType::kF32, 5), dw(1, 70, DType::kF32, 6);
    const std::vector<float> rstd(300, 0.9f);
    Scratch scratch;
    NormBackwardArgs args{.x = x,
                          .weight = w,
                          .rstd = rstd.data(),
                          .dy = dy,
                          .residual = residual,
                          .dx = apart,
                          .dweight = dw,
                          .kind = kind};
    NormBackward(args, scratch);
    args.dx = residual;
    NormBackward(args, scratch);
    EXPECT_EQ(residual.Bytes(), apart.Bytes());
    args.residual = {};
    args.dx = apart;
    NormBackward(args, scratch);
    args.dx = dy;
    NormBackward(args, scratch);
    EXPECT_EQ(dy.Bytes(), apart.Bytes());
  }
}

TEST(Norm, SameForAnyNumberOfThreads) {
  for (const Form& form : kForms) {
    ExpectSameForAnyThreads([&] {
      const int64_t cols = form.heads * 43;
      TestMat x(700, cols, DType::kBF16, 1), w(1, 43, DType::kBF16, 2), y(700, cols, DType::kBF16, 3);
      TestMat dx(700, cols, DType::kBF16, 4), dw(1, 43, DType::kF32, 5), dbias(1, 43, DType::kF32, 6);
      std::vector<float> rstd(700 * form.heads);
      Scratch scratch;
      NormForward({.x = x,
                   .weight = w,
                   .y = y,
                   .rstd = rstd.data(),
                   .kind = form.kind,
                   .plus_one = form.plus_one,
                   .heads = form.heads});
      NormBackward({.x = x,
                    .weight = w,
                    .rstd = rstd.data(),
                    .dy = y,
                    .dx = dx,
                    .dweight = dw,
                    .dbias = dbias,
                    .kind = form.kind,
                    .plus_one = form.plus_one,
                    .heads = form.heads},
                   scratch);
      std::vector<char> all = y.Bytes();
      for (const auto& more : {dx.Bytes(), dw.Bytes(), dbias.Bytes()}) all.insert(all.end(), more.begin(), more.end());
      return all;
    });
  }
}

}  // namespace
}  // namespace hawser
