#include "hawser/cpu/matmul.h"

#include <gtest/gtest.h>

#include "hawser/cpu/matmul_matvec.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/testing/cpu_runs.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser {
namespace {

using testing::TestMat;

struct Case {
  int64_t m, n, k;
  DType in, out;
  bool trans_a, trans_b, accumulate;
};

void ExpectProduct(MatMulEngine& engine, const Case& t) {
  SCOPED_TRACE(fmt::format("{} x {} x {} {} -> {} trans {} {} accumulate {}", t.m, t.n, t.k, Name(t.in), Name(t.out),
                           t.trans_a, t.trans_b, t.accumulate));
  TestMat a(t.trans_a ? t.k : t.m, t.trans_a ? t.m : t.k, t.in, 1, 1.0, 5);
  TestMat b(t.trans_b ? t.n : t.k, t.trans_b ? t.k : t.n, t.in, 2, 1.0, 3);
  TestMat c(t.m, t.n, t.out, 3, 1.0, 7);
  const std::vector<double> before = c.Values();
  engine.Run({.a = a, .trans_a = t.trans_a, .b = b, .trans_b = t.trans_b, .c = c, .accumulate = t.accumulate});
  c.ExpectMarginUntouched();
  for (int64_t i = 0; i < t.m; ++i) {
    for (int64_t j = 0; j < t.n; ++j) {
      double want = t.accumulate ? before[static_cast<size_t>(i * t.n + j)] : 0.0, magnitude = std::abs(want);
      for (int64_t q = 0; q < t.k; ++q) {
        const double product = (t.trans_a ? a(q, i) : a(i, q)) * (t.trans_b ? b(j, q) : b(q, j));
        want += product;
        magnitude += std::abs(product);
      }
      ASSERT_NEAR(c(i, j), want, testing::SumTolerance(t.out, t.k + 1, magnitude, want)) << i << ", " << j;
    }
  }
}

TEST(MatMul, AgreesWithTheFormulaForAllTransposesTypesAndOddSizes) {
  MatMulEngine engine;
  const int64_t sizes[][3] = {{1, 1, 1},    {1, 37, 65}, {2, 70, 33}, {3, 5, 130},
                              {4, 129, 31}, {5, 17, 19}, {63, 65, 67}};
  for (const auto& [m, n, k] : sizes) {
    for (DType in : {DType::kF32, DType::kBF16}) {
      for (int flags = 0; flags < 16; ++flags) {
        const bool accumulate = flags & 4;
        const DType out = flags & 8 ? DType::kBF16 : DType::kF32;
        if (accumulate && out != DType::kF32) continue;
        ExpectProduct(engine, {m, n, k, in, out, (flags & 1) != 0, (flags & 2) != 0, accumulate});
      }
    }
  }
}

TEST(MatMul, AgreesWithTheFormulaWhereTheProductIsCutInPieces) {
  MatMulEngine engine;
  ExpectProduct(engine, {300, 530, 40, DType::kF32, DType::kF32, false, true, false});
  ExpectProduct(engine, {520, 200, 70, DType::kBF16, DType::kF32, true, false, true});
  ExpectProduct(engine, {1100, 40, 130, DType::kF32, DType::kF32, true, false, true});
  ExpectProduct(engine, {1100, 20, 190, DType::kF32, DType::kBF16, true, true, false});
  ExpectProduct(engine, {257, 513, 64, DType::kBF16, DType::kBF16, false, false, false});
  ExpectProduct(engine, {260, 513, 33, DType::kF32, DType::kBF16, false, true, false});
  ExpectProduct(engine, {20, 600, 260, DType::kF32, DType::kF32, false, true, true});
  ExpectProduct(engine, {20, 600, 260, DType::kBF16, DType::kBF16, false, true, false});
  ExpectProduct(engine, {16500, 9, 20, DType::kBF16, DType::kF32, true, false, true});  // gathered columns
}

TEST(MatMul, MatVecAgreesOnEveryInstructionSet) {
  MatMulEngine engine;
  testing::ForEachTarget([&] {
    for (int64_t m = 1; m <= kMaxMatVecRows; ++m) {
      for (DType in : {DType::kF32, DType::kBF16}) {
        ExpectProduct(engine, {m, 67, 133, in, DType::kF32, false, true, m % 2 == 0});
        ExpectProduct(engine, {m, 6, 7, in, DType::kBF16, false, true, false});
      }
    }
  });
}

TEST(MatMul, MatVecAgreesWithAndWithoutProductsOfBF16) {
  MatMulEngine engine;
  const Isa before = CurrentIsa();
  for (Isa isa : AvailableIsas()) {
    SetIsa(isa);
    SCOPED_TRACE(Name(isa));
    for (int64_t m = 1; m <= kMaxMatVecRows; ++m) {
      for (int64_t k : {7, 32, 133, 576}) {
        ExpectProduct(engine, {m, 67, k, DType::kBF16, DType::kF32, false, true, m % 2 == 0});
        ExpectProduct(engine, {m, 6, k, DType::kBF16, DType::kBF16, false, true, false});
      }
    }
  }
  SetIsa(before);
}

// A row's result must not depend on which other rows share the call: then decoding one sequence or many is the same.
TEST(MatMul, MatVecRowsDoNotDependOnTheirNumber) {
  MatMulEngine engine;
  constexpr int64_t kAll = kMaxMatVecRows;
  for (DType in : {DType::kF32, DType::kBF16}) {
    TestMat a(kAll, 301, in, 1), b(70, 301, in, 2), all(kAll, 70, DType::kF32, 3);
    engine.Run({.a = a, .b = b, .trans_b = true, .c = all});
    for (int64_t m = 1; m < kAll; ++m) {
      TestMat some(m, 70, DType::kF32, 4);
      engine.Run({.a = a.view().Rows(0, m), .b = b, .trans_b = true, .c = some});
      for (int64_t r = 0; r < m; ++r) {
        for (int64_t j = 0; j < 70; ++j) ASSERT_EQ(some(r, j), all(r, j)) << m << " rows, row " << r;
      }
    }
  }
}

TEST(MatMul, SameForAnyNumberOfThreads) {
  for (const Case& t : {Case{600, 700, 300, DType::kF32, DType::kF32, false, true, false},
                        Case{600, 700, 300, DType::kBF16, DType::kBF16, false, true, false},
                        Case{128, 192, 1100, DType::kF32, DType::kF32, true, false, true},
                        Case{64, 96, 1500, DType::kBF16, DType::kF32, true, false, true},
                        Case{75, 32, 9000, DType::kBF16, DType::kF32, false, false, false},  // one piece, long k
                        Case{2, 1000, 700, DType::kBF16, DType::kF32, false, true, false}}) {
    testing::ExpectSameForAnyThreads([&] {
      MatMulEngine engine;
      TestMat a(t.trans_a ? t.k : t.m, t.trans_a ? t.m : t.k, t.in, 1);
      TestMat b(t.trans_b ? t.n : t.k, t.trans_b ? t.k : t.n, t.in, 2);
      TestMat c(t.m, t.n, t.out, 3);
      engine.Run({.a = a, .trans_a = t.trans_a, .b = b, .trans_b = t.trans_b, .c = c, .accumulate = t.accumulate});
      return c.Bytes();
    });
  }
}

TEST(MatMul, AnyNumberOfRowsMakesFewPrimitives) {
  MatMulEngine engine;
  for (DType in : {DType::kF32, DType::kBF16}) {
    TestMat a(520, 24, in, 1), b(40, 24, in, 2), c(520, 40, DType::kF32, 3);
    for (int64_t m = 1; m <= 520; ++m) {
      engine.Run({.a = a.view().Rows(0, m), .b = b, .trans_b = true, .c = c.view().Rows(0, m)});
    }
  }
  EXPECT_LE(engine.primitives(), 100u);
}

TEST(MatMul, EmptySumsAreZeroOrLeaveTheAccumulatorAlone) {
  MatMulEngine engine;
  TestMat c(3, 5, DType::kF32, 1);
  const auto before = c.Bytes();
  const ConstMat a{nullptr, DType::kF32, 3, 0, 0}, b{nullptr, DType::kF32, 0, 5, 5};
  engine.Run({.a = a, .b = b, .c = c, .accumulate = true});
  EXPECT_EQ(c.Bytes(), before);
  engine.Run({.a = a, .b = b, .c = c});
  for (double v : c.Values()) EXPECT_EQ(v, 0.0);
}

}  // namespace
}  // namespace hawser
