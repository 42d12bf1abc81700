// RMSNorm, rotary positions, SwiGLU, embedding, copies and sums against f64 formulas and finite differences.
#include <gtest/gtest.h>

#include "hawser/cpu/act.h"
#include "hawser/cpu/elementwise.h"
#include "hawser/cpu/embed.h"
#include "hawser/cpu/norm.h"
#include "hawser/cpu/rope.h"
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

constexpr DType kTypes[] = {DType::kF32, DType::kBF16};

Values Slice(const TestMat& mat, int64_t row, int64_t begin, int64_t count) {
  Values values;
  for (int64_t c = begin; c < begin + count; ++c) values.push_back(mat(row, c));
  return values;
}
Values RowValues(const TestMat& mat, int64_t row) { return Slice(mat, row, 0, mat.cols()); }

double Dot(const Values& a, const Values& b) {
  double sum = 0.0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

std::vector<char> Joined(std::initializer_list<std::vector<char>> parts) {
  std::vector<char> all;
  for (const auto& part : parts) all.insert(all.end(), part.begin(), part.end());
  return all;
}

/// A few f32 roundings of a value of size `magnitude`, then one to `stored`.
double Near(DType stored, double magnitude, double want) { return testing::SumTolerance(stored, 4, magnitude, want); }

TEST(Norm, ForwardAgreesWithTheFormula) {
  ForEachTarget([] {
    for (int64_t cols : {1, 3, 16, 33, 100}) {
      for (DType type : kTypes) {
        TestMat x(37, cols, type, 1, 2.0, 3), w(1, cols, type, 2), y(37, cols, type, 3, 1.0, 5);
        std::vector<float> rstd(37);
        NormForward({.x = x, .weight = w, .y = y, .rstd = rstd.data(), .eps = 1e-5f});
        y.ExpectMarginUntouched();
        for (int64_t r = 0; r < 37; ++r) {
          const Values row = RowValues(x, r), want = testing::ReferenceNorm(row, RowValues(w, 0), 1e-5f);
          EXPECT_NEAR(rstd[r] * std::sqrt(Dot(row, row) / static_cast<double>(cols) + 1e-5), 1.0, 1e-6);
          for (int64_t c = 0; c < cols; ++c) {
            ASSERT_NEAR(y(r, c), want[c], testing::SumTolerance(type, cols, std::abs(want[c]), want[c]));
          }
        }
      }
    }
  });
}

TEST(Norm, BackwardAgreesWithFiniteDifferences) {
  ForEachTarget([] {
    for (int64_t cols : {1, 5, 32, 49}) {
      for (DType type : kTypes) {
        constexpr int64_t kRows = 21;
        TestMat x(kRows, cols, type, 1, 1.0, 3), w(1, cols, type, 2), dy(kRows, cols, type, 3, 1.0, 1);
        TestMat dx(kRows, cols, type, 4, 1.0, 2), dw(1, cols, DType::kF32, 5), y(kRows, cols, DType::kF32, 6);
        TestMat residual(kRows, cols, type, 7);
        const Values dw_before = dw.Values();
        std::vector<float> rstd(kRows);
        NormForward({.x = x, .weight = w, .y = y, .rstd = rstd.data(), .eps = 1e-3f});
        Scratch scratch;
        NormBackward(
            {.x = x, .weight = w, .rstd = rstd.data(), .dy = dy, .residual = residual, .dx = dx, .dweight = dw},
            scratch);
        dx.ExpectMarginUntouched();
        Values dw_want = dw_before;
        for (int64_t r = 0; r < kRows; ++r) {
          const Values up = RowValues(dy, r);
          const Values want = testing::Gradient(RowValues(x, r), [&](const Values& v) {
            return Dot(up, testing::ReferenceNorm(v, RowValues(w, 0), 1e-3));
          });
          const Values dw_row = testing::Gradient(RowValues(w, 0), [&](const Values& v) {
            return Dot(up, testing::ReferenceNorm(RowValues(x, r), v, 1e-3));
          });
          for (int64_t c = 0; c < cols; ++c) {
            const double total = want[c] + residual(r, c);
            ASSERT_NEAR(dx(r, c), total, Near(type, 40.0 * rstd[r], total) + 1e-6) << r << ", " << c;
            dw_want[c] += dw_row[c];
          }
        }
        for (int64_t c = 0; c < cols; ++c) EXPECT_NEAR(dw(0, c), dw_want[c], 1e-4);
      }
    }
  });
}

TEST(Norm, BackwardMayWriteOverItsResidual) {
  TestMat x(300, 70, DType::kF32, 1), w(1, 70, DType::kF32, 2), dy(300, 70, DType::kF32, 3);
  TestMat residual(300, 70, DType::kF32, 4), apart(300, 70, DType::kF32, 5), dw(1, 70, DType::kF32, 6);
  const std::vector<float> rstd(300, 0.9f);
  Scratch scratch;
  NormBackward({.x = x, .weight = w, .rstd = rstd.data(), .dy = dy, .residual = residual, .dx = apart, .dweight = dw},
               scratch);
  NormBackward(
      {.x = x, .weight = w, .rstd = rstd.data(), .dy = dy, .residual = residual, .dx = residual, .dweight = dw},
      scratch);
  EXPECT_EQ(residual.Bytes(), apart.Bytes());
}

TEST(Norm, SameForAnyNumberOfThreads) {
  ExpectSameForAnyThreads([] {
    TestMat x(700, 129, DType::kBF16, 1), w(1, 129, DType::kBF16, 2), y(700, 129, DType::kBF16, 3);
    TestMat dx(700, 129, DType::kBF16, 4), dw(1, 129, DType::kF32, 5);
    std::vector<float> rstd(700);
    Scratch scratch;
    NormForward({.x = x, .weight = w, .y = y, .rstd = rstd.data()});
    NormBackward({.x = x, .weight = w, .rstd = rstd.data(), .dy = y, .residual = {}, .dx = dx, .dweight = dw}, scratch);
    return Joined({y.Bytes(), dx.Bytes(), dw.Bytes()});
  });
}

struct Angles {
  Angles(int64_t rows, int32_t half, double multiplier) : cos(rows * half), sin(rows * half) {
    for (int64_t r = 0; r < rows; ++r) {
      for (int32_t i = 0; i < half; ++i) {
        const double angle = static_cast<double>(r) * std::pow(10000.0, -static_cast<double>(i) / half);
        cos[r * half + i] = static_cast<float>(multiplier * std::cos(angle));
        sin[r * half + i] = static_cast<float>(multiplier * std::sin(angle));
      }
    }
  }
  std::vector<float> cos, sin;
};

TEST(Rope, AgreesWithTheFormulaForBothPairingsAndPartialRotation) {
  ForEachTarget([] {
    for (RopePairing pairing : {RopePairing::kHalf, RopePairing::kAdjacent}) {
      for (DType type : kTypes) {
        for (auto [head_dim, half] : {std::pair{8, 4}, {20, 9}, {64, 32}, {80, 37}, {7, 0}, {2, 1}}) {
          constexpr int64_t kRows = 9, kHeads = 3;
          const Angles angles(kRows, half, 1.25);
          TestMat x(kRows, kHeads * head_dim, type, 1, 1.0, 3);
          const TestMat before(kRows, kHeads * head_dim, type, 1, 1.0, 3);
          Rope({.x = x,
                .heads = kHeads,
                .head_dim = head_dim,
                .half = half,
                .pairing = pairing,
                .cos = angles.cos.data(),
                .sin = angles.sin.data()});
          x.ExpectMarginUntouched();
          for (int64_t r = 0; r < kRows; ++r) {
            const Values cos(angles.cos.begin() + r * half, angles.cos.begin() + (r + 1) * half);
            const Values sin(angles.sin.begin() + r * half, angles.sin.begin() + (r + 1) * half);
            for (int64_t h = 0; h < kHeads; ++h) {
              const Values head = Slice(before, r, h * head_dim, head_dim);
              const Values want = testing::ReferenceRope(head, pairing, cos, sin);
              for (int64_t i = 0; i < head_dim; ++i) {
                const double got = x(r, h * head_dim + i);
                ASSERT_NEAR(got, want[i], Near(type, 4.0, want[i])) << "row " << r << " head " << h << " channel " << i;
                if (i >= 2 * half) {
                  ASSERT_EQ(got, head[i]) << "a channel past the rotated ones";
                }
              }
            }
          }
        }
      }
    }
  });
}

TEST(Rope, T24_LeavesPositionZeroAloneAndUndoesItself) {
  for (RopePairing pairing : {RopePairing::kHalf, RopePairing::kAdjacent}) {
    constexpr int64_t kRows = 40;
    const Angles angles(kRows, 21, 1.0);
    TestMat x(kRows, 2 * 50, DType::kF32, 1);
    const TestMat before(kRows, 2 * 50, DType::kF32, 1);
    RopeArgs args{.x = x,
                  .heads = 2,
                  .head_dim = 50,
                  .half = 21,
                  .pairing = pairing,
                  .cos = angles.cos.data(),
                  .sin = angles.sin.data()};
    Rope(args);
    for (int64_t c = 0; c < 100; ++c) EXPECT_EQ(x(0, c), before(0, c));
    EXPECT_GT(std::abs(x(1, 0) - before(1, 0)), 1e-3);
    args.inverse = true;
    Rope(args);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < 100; ++c) ASSERT_NEAR(x(r, c), before(r, c), Near(DType::kF32, 4.0, 1.0));
    }
  }
}

// Operands, products and sums in bf16, bit for bit; rotating back is the transposed map up to those roundings.
TEST(Rope, RotatesInBf16WhereAsked) {
  ForEachTarget([] {
    for (RopePairing pairing : {RopePairing::kHalf, RopePairing::kAdjacent}) {
      for (DType type : kTypes) {
        for (auto [head_dim, half] : {std::pair{8, 4}, {20, 9}, {64, 32}}) {
          constexpr int64_t kRows = 5, kHeads = 2;
          Angles angles(kRows, half, 1.0);
          for (std::vector<float>* table : {&angles.cos, &angles.sin}) {
            for (float& x : *table) x = ToF32(ToBF16(x));
          }
          TestMat x(kRows, kHeads * head_dim, type, 1), y(kRows, kHeads * head_dim, type, 2);
          const TestMat before(kRows, kHeads * head_dim, type, 1), gradient(kRows, kHeads * head_dim, type, 2);
          RopeArgs args{.x = x,
                        .heads = kHeads,
                        .head_dim = head_dim,
                        .half = half,
                        .pairing = pairing,
                        .cos = angles.cos.data(),
                        .sin = angles.sin.data(),
                        .math = FloatFormat::kBF16};
          Rope(args);
          args.x = y;
          args.inverse = true;
          Rope(args);
          for (int64_t r = 0; r < kRows; ++r) {
            double forward = 0, backward = 0;
            for (int64_t c = 0; c < kHeads * head_dim; ++c) {
              forward += x(r, c) * gradient(r, c);
              backward += before(r, c) * y(r, c);
            }
            EXPECT_NEAR(forward, backward, 0.02 * std::sqrt(static_cast<double>(kHeads * head_dim)));
            for (int64_t i = 0; i < half; ++i) {
              const int64_t a = pairing == RopePairing::kHalf ? i : 2 * i;
              const int64_t b = pairing == RopePairing::kHalf ? i + half : 2 * i + 1;
              const float cos = angles.cos[r * half + i], sin = angles.sin[r * half + i];
              const RopePair want = RotatePair(FloatFormat::kBF16, before(r, a), before(r, b), cos, sin);
              ASSERT_EQ(x(r, a), want.low);
              ASSERT_EQ(x(r, b), want.high);
              const RopePair back = RotatePair(FloatFormat::kBF16, gradient(r, a), gradient(r, b), cos, -sin);
              ASSERT_EQ(y(r, a), back.low);
              ASSERT_EQ(y(r, b), back.high);
            }
          }
        }
      }
    }
  });
}

TEST(Rope, SameForAnyNumberOfThreads) {
  const Angles angles(500, 16, 1.0);
  ExpectSameForAnyThreads([&] {
    TestMat x(500, 4 * 40, DType::kBF16, 1);
    Rope({.x = x, .heads = 4, .head_dim = 40, .half = 16, .cos = angles.cos.data(), .sin = angles.sin.data()});
    return x.Bytes();
  });
}

TEST(Glu, ForwardAgreesWithTheFormulaOutToTheExtremes) {
  ForEachTarget([] {
    for (DType type : kTypes) {
      TestMat x(13, 2 * 37, type, 1, 3.0, 3), y(13, 37, type, 2, 1.0, 5);
      const double extremes[] = {-1e30, -200.0, -104.0, -88.0, -20.0, 0.0, 20.0, 100.0, 1e30};
      for (int64_t c = 0; c < 9; ++c) x.Put(0, c, extremes[c]);
      ActForward({.in = x, .y = y});
      y.ExpectMarginUntouched();
      for (int64_t r = 0; r < 13; ++r) {
        for (int64_t c = 0; c < 37; ++c) {
          const double want = testing::ReferenceGlu(x(r, c), x(r, 37 + c));
          ASSERT_NEAR(y(r, c), want, Near(type, std::abs(want), want) + 1e-34) << x(r, c);
        }
      }
    }
  });
}

TEST(Glu, BackwardAgreesWithFiniteDifferencesAndRecomputesY) {
  ForEachTarget([] {
    for (DType type : kTypes) {
      for (int64_t cols : {1, 31, 64}) {
        TestMat x(11, 2 * cols, type, 1, 2.0, 3), dy(11, cols, type, 2), dx(11, 2 * cols, type, 3, 1.0, 1);
        TestMat y(11, cols, type, 4), want_y(11, cols, type, 5);
        ActBackward({.in = x, .dy = dy, .din = dx, .y = y});
        ActForward({.in = x, .y = want_y});
        EXPECT_EQ(y.Bytes(), want_y.Bytes());
        dx.ExpectMarginUntouched();
        for (int64_t r = 0; r < 11; ++r) {
          for (int64_t c = 0; c < cols; ++c) {
            const Values want = testing::Gradient({x(r, c), x(r, cols + c)}, [&](const Values& v) {
              return dy(r, c) * testing::ReferenceGlu(v[0], v[1]);
            });
            const double size = std::abs(dy(r, c)) * (4.0 + std::abs(x(r, c)) + std::abs(x(r, cols + c)));
            ASSERT_NEAR(dx(r, c), want[0], Near(type, size, want[0]) + 1e-8);
            ASSERT_NEAR(dx(r, cols + c), want[1], Near(type, size, want[1]) + 1e-8);
          }
        }
        TestMat alone(11, 2 * cols, type, 3, 1.0, 1);
        ActBackward({.in = x, .dy = dy, .din = alone, .y = {}});
        EXPECT_EQ(alone.Values(), dx.Values());
      }
    }
  });
}

TEST(Glu, SameForAnyNumberOfThreads) {
  ExpectSameForAnyThreads([] {
    TestMat x(300, 2 * 150, DType::kBF16, 1), dy(300, 150, DType::kBF16, 2), dx(300, 2 * 150, DType::kBF16, 3);
    TestMat y(300, 150, DType::kBF16, 4);
    ActForward({.in = x, .y = y});
    ActBackward({.in = x, .dy = dy, .din = dx, .y = {}});
    return Joined({y.Bytes(), dx.Bytes()});
  });
}

TEST(Elementwise, CopiesAddsAndFillsEveryMixOfTypes) {
  ForEachTarget([] {
    for (DType from : kTypes) {
      for (DType to : kTypes) {
        for (int64_t cols : {1, 15, 16, 67}) {
          TestMat x(19, cols, from, 1, 1.0, 3), y(19, cols, to, 2, 1.0, 2);
          x.Put(0, 0, std::numeric_limits<double>::infinity());
          x.Put(1, 0, std::numeric_limits<double>::quiet_NaN());
          x.Put(2, 0, 0x1.ffp+100);  // rounds up to the next power of two in bf16
          CopyMat(x, y);
          const auto rounded = [&](double v) { return to == DType::kBF16 ? ToF32(ToBF16(static_cast<float>(v))) : v; };
          for (int64_t r = 0; r < 19; ++r) {
            for (int64_t c = 0; c < cols; ++c) {
              if (std::isnan(x(r, c))) {
                ASSERT_TRUE(std::isnan(y(r, c)));
              } else {
                ASSERT_EQ(y(r, c), rounded(x(r, c)));
              }
            }
          }
          AddMat(x, y);
          for (int64_t c = 0; c < cols; ++c) ASSERT_EQ(y(3, c), rounded(x(3, c) + rounded(x(3, c))));
          FillMat(y, 0.3f);
          for (double v : y.Values()) ASSERT_EQ(v, rounded(0.3f));
          y.ExpectMarginUntouched();
        }
      }
    }
  });
}

TEST(Embed, TakesRowsAndAddsGradientsInRowOrder) {
  ForEachTarget([] {
    for (DType type : kTypes) {
      constexpr int64_t kRows = 200, kCols = 131, kVocab = 7;
      TestMat table(kVocab, kCols, type, 1, 1.0, 3), y(kRows, kCols, DType::kF32, 2, 1.0, 1);
      std::vector<int32_t> ids;
      Rng rng{.seed = 5};
      for (int64_t r = 0; r < kRows; ++r) ids.push_back(static_cast<int32_t>(rng.Below(kVocab - 1)));
      EmbedForward(table, ids.data(), y, 1.0f);
      y.ExpectMarginUntouched();
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < kCols; ++c) ASSERT_EQ(y(r, c), table(ids[r], c));
      }
      TestMat dy(kRows, kCols, type, 3), dtable(kVocab, kCols, DType::kF32, 4, 1.0, 5);
      std::vector<float> want;
      for (double v : dtable.Values()) want.push_back(static_cast<float>(v));
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < kCols; ++c) want[ids[r] * kCols + c] += static_cast<float>(dy(r, c));
      }
      EmbedBackward(dy, ids.data(), dtable, 1.0f);
      dtable.ExpectMarginUntouched();
      const Values got = dtable.Values();
      for (size_t i = 0; i < got.size(); ++i) ASSERT_EQ(got[i], want[i]);  // the same order of sums: the same bits
    }
  });
}

TEST(Embed, SameForAnyNumberOfThreads) {
  std::vector<int32_t> ids(400);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = static_cast<int32_t>(i * i % 11);
  ExpectSameForAnyThreads([&] {
    TestMat dy(400, 200, DType::kF32, 1), dtable(11, 200, DType::kF32, 2);
    EmbedBackward(dy, ids.data(), dtable, 1.0f);
    return dtable.Bytes();
  });
}

}  // namespace
}  // namespace hawser
