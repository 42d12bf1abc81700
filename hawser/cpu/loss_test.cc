#include "hawser/cpu/loss.h"

#include <gtest/gtest.h>

#include "hawser/testing/cpu_runs.h"
#include "hawser/testing/ops_reference.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser {
namespace {

using testing::TestMat;
using testing::Values;

struct Problem {
  Problem(int64_t rows, int64_t width, int64_t vocab, DType type, DType dx_type)
      : x(rows, width, type, 1, 1.0, 3),
        w(vocab, width, type, 2, 0.5, 1),
        dx(rows, width, dx_type, 3, 1.0, 2),
        dw(vocab, width, DType::kF32, 4, 1.0, 5),
        nll(static_cast<size_t>(rows), -1.0f) {
    Rng rng{.seed = 9};
    for (int64_t r = 0; r < rows; ++r) {
      targets.push_back(r % 5 == 2 ? -1 : static_cast<int32_t>(rng.Below(static_cast<uint64_t>(vocab))));
      weights.push_back(r % 7 == 3 ? 0.0f : static_cast<float>(0.25 + rng.Uniform()));
    }
  }
  CrossEntropyArgs Args(bool gradient) {
    return {.x = x,
            .weight = w,
            .targets = targets.data(),
            .weights = weights.data(),
            .nll = nll.data(),
            .dx = gradient ? dx.view() : Mat{},
            .dweight = gradient ? dw.view() : Mat{},
            .grad_scale = 0.125f,
            .logit_scale = logit_scale,
            .logit_cap = logit_cap};
  }
  double Nll(const Values& row, const Values& head, int32_t target) const {
    return testing::ReferenceNll(row, head, target, logit_scale, logit_cap);
  }
  double Weight(int64_t r) const { return targets[r] < 0 ? 0.0 : weights[r]; }
  Values RowOf(int64_t r) const {
    Values row;
    for (int64_t c = 0; c < x.cols(); ++c) row.push_back(x(r, c));
    return row;
  }

  float logit_scale = 1.0f, logit_cap = 0.0f;
  TestMat x, w, dx, dw;
  std::vector<int32_t> targets;
  std::vector<float> weights, nll;
  MatMulEngine matmul;
  CrossEntropyEngine engine;
};

double Logit(const Values& x, const Values& w, int64_t v) {
  double sum = 0.0;
  for (size_t i = 0; i < x.size(); ++i) sum += x[i] * w[static_cast<size_t>(v) * x.size() + i];
  return sum;
}

TEST(CrossEntropy, LossAndGradientsAgreeWithTheFormulaAndFiniteDifferences) {
  testing::ForEachTarget([] {
    for (auto [type, dx_type] : {std::pair{DType::kF32, DType::kF32},
                                 {DType::kBF16, DType::kBF16},
                                 {DType::kBF16, DType::kF32},
                                 {DType::kF32, DType::kBF16}}) {
      constexpr int64_t kRows = 23, kWidth = 11, kVocab = 37;
      for (auto [scale, cap] : {std::pair{1.0f, 0.0f}, {0.5f, 0.0f}, {1.0f, 3.0f}, {2.0f, 1.5f}}) {
        Problem p(kRows, kWidth, kVocab, type, dx_type);
        p.logit_scale = scale, p.logit_cap = cap;
        const Values dw_before = p.dw.Values(), w = p.w.Values();
        const CrossEntropyResult result = p.engine.Run(p.Args(true), p.matmul);
        p.dx.ExpectMarginUntouched();
        p.dw.ExpectMarginUntouched();
        double loss = 0.0, weight = 0.0;
        for (int64_t r = 0; r < kRows; ++r) {
          const double counted = p.Weight(r);
          const double want = counted == 0.0 ? 0.0 : p.Nll(p.RowOf(r), w, p.targets[r]);
          EXPECT_NEAR(p.nll[r], want, testing::SumTolerance(DType::kF32, kVocab, 4.0 + want, want));
          loss += counted * want;
          weight += counted;
          const Values dx = counted == 0.0 ? Values(kWidth) : testing::Gradient(p.RowOf(r), [&](const Values& row) {
            return 0.125 * counted * p.Nll(row, w, p.targets[r]);
          });
          // The row of logit gradients is stored in the dtype of x; each of its kVocab entries is rounded once.
          for (int64_t c = 0; c < kWidth; ++c) {
            EXPECT_NEAR(p.dx(r, c), dx[c],
                        0.125 * scale * counted * 2.0 * testing::RoundingUnit(type) +
                            testing::SumTolerance(dx_type, kVocab, 1.0, dx[c]))
                << "row " << r;
          }
        }
        EXPECT_NEAR(result.loss, loss, 1e-5 * loss);
        EXPECT_NEAR(result.weight, weight, 1e-12);
        const Values dw = testing::Gradient(w, [&](const Values& v) {
          double sum = 0.0;
          for (int64_t r = 0; r < kRows; ++r) {
            if (p.Weight(r) != 0.0) sum += 0.125 * p.Weight(r) * p.Nll(p.RowOf(r), v, p.targets[r]);
          }
          return sum;
        });
        const Values got = p.dw.Values();
        for (size_t i = 0; i < got.size(); ++i) {
          EXPECT_NEAR(got[i], dw_before[i] + dw[i], 2.0 * scale * testing::RoundingUnit(type) + 1e-6) << i;
        }
      }
    }
  });
}

// Gradients are those of the weights that the gains make, held fixed.
TEST(CrossEntropy, GainsMultiplyWeightsWithoutAGradient) {
  testing::ForEachTarget([] {
    for (const DType type : {DType::kF32, DType::kBF16}) {
      constexpr int64_t kRows = 40, kWidth = 11, kVocab = 37;
      Problem plain(kRows, kWidth, kVocab, type, type), gained(kRows, kWidth, kVocab, type, type);
      Problem by_hand(kRows, kWidth, kVocab, type, type);
      const CrossEntropyResult before = plain.engine.Run(plain.Args(false), plain.matmul);
      std::vector<float> reference;
      GainCounts counts;
      double loss = 0;
      for (int64_t r = 0; r < kRows; ++r) {
        const float off[] = {0.5f, -1.5f, 0.0f, 300.0f, -200.0f, std::nanf(""), 1.6f, 1.7f};
        reference.push_back(plain.nll[r] + off[r % 8]);
        if (plain.Weight(r) != 0 && r % 8 != 5) {
          const double gain = std::min(std::exp(static_cast<double>(reference[r]) - plain.nll[r]), 5.0);
          by_hand.weights[r] = static_cast<float>(gain * plain.weights[r]);
          ++counts.rows;
          counts.at_most += gain == 5.0;
          counts.below_one += gain < 1.0;
          counts.sum += gain;
        }
        loss += plain.Weight(r) == 0 ? 0.0 : static_cast<double>(by_hand.weights[r]) * plain.nll[r];
      }
      CrossEntropyArgs args = gained.Args(true);
      args.reference = reference.data();
      const CrossEntropyResult result = gained.engine.Run(args, gained.matmul);
      by_hand.engine.Run(by_hand.Args(true), by_hand.matmul);
      EXPECT_EQ(result.weight, before.weight) << "what the loss is divided by";
      EXPECT_EQ(result.nats, before.loss);
      EXPECT_EQ(before.nats, before.loss);
      EXPECT_NEAR(result.loss, loss, 1e-5 * loss);
      EXPECT_EQ(gained.nll, plain.nll);
      EXPECT_EQ(result.gains.rows, counts.rows);
      EXPECT_EQ(result.gains.at_most, counts.at_most);
      EXPECT_NEAR(static_cast<double>(result.gains.below_one), static_cast<double>(counts.below_one), 5)
          << "a gain of one may fall on either side";
      EXPECT_NEAR(result.gains.sum, counts.sum, 1e-5 * counts.sum);
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < kWidth; ++c) {
          EXPECT_NEAR(gained.dx(r, c), by_hand.dx(r, c), 8 * testing::RoundingUnit(type)) << r;
        }
      }
      const Values dw = gained.dw.Values(), want = by_hand.dw.Values();
      for (size_t i = 0; i < dw.size(); ++i) EXPECT_NEAR(dw[i], want[i], 16 * testing::RoundingUnit(type)) << i;
    }
  });
}

TEST(CrossEntropy, TilesStayWithinTheirMemory) {
  for (int64_t tokens : {0, 1, 7, 300, 1000, 100000}) {
    for (int64_t vocab : {1, 256, 8192, 8193, 49152, 128256, 3000000}) {
      for (const bool gradients : {false, true}) {
        const CrossEntropyTile tile = ChooseCrossEntropyTile(tokens, vocab, gradients);
        EXPECT_LE(tile.tokens * tile.panel, std::max<int64_t>(int64_t{gradients ? 32 : 2} << 20, vocab))
            << tokens << ", " << vocab;
        EXPECT_TRUE(tile.panel >= 1 && tile.panel <= vocab && tile.tokens <= tokens);
      }
    }
  }
}

// Large enough for several panels of the vocabulary, so that every product and both sums over panels are walked.
TEST(CrossEntropy, PanelsAgreeWithTheSoftmaxInF64) {
  constexpr int64_t kRows = 260, kVocab = 140000, kWidth = 4;
  ASSERT_LT(ChooseCrossEntropyTile(kRows, kVocab, true).panel, kVocab);
  for (DType type : {DType::kF32, DType::kBF16}) {
    Problem p(kRows, kWidth, kVocab, type, type);
    if (type == DType::kF32) p.logit_scale = 1.5f, p.logit_cap = 2.0f;
    const double cap = p.logit_cap;
    for (int64_t r = 10; r < (cap > 0.0 ? 250 : 120); ++r) p.targets[r] = -1;
    Values dw = p.dw.Values();
    const Values w = p.w.Values();
    const CrossEntropyResult result = p.engine.Run(p.Args(true), p.matmul);
    double loss = 0.0;
    for (int64_t r = 0; r < kRows; ++r) {
      const double scale = 0.125 * p.Weight(r);
      Values dx(kWidth);
      if (scale != 0.0) {
        const Values x = p.RowOf(r);
        const auto logit = [&](int64_t v) { return testing::ReferenceCap(Logit(x, w, v), p.logit_scale, cap); };
        const double log_sum = p.Nll(x, w, 0) + logit(0);
        const double want = log_sum - logit(p.targets[r]);
        loss += p.Weight(r) * want;
        ASSERT_NEAR(p.nll[r], want, 1e-5) << r;
        for (int64_t v = 0; v < kVocab; ++v) {
          const double l = logit(v), bend = cap > 0.0 ? 1.0 - l * l / cap / cap : 1.0;
          const double slope = scale * p.logit_scale * bend * (std::exp(l - log_sum) - (v == p.targets[r] ? 1.0 : 0.0));
          for (int64_t c = 0; c < kWidth; ++c) {
            dx[c] += slope * w[v * kWidth + c];
            dw[v * kWidth + c] += slope * x[c];
          }
        }
      } else {
        ASSERT_EQ(p.nll[r], 0.0f);
      }
      for (int64_t c = 0; c < kWidth; ++c) {
        ASSERT_NEAR(p.dx(r, c), dx[c], scale * 4.0 * testing::RoundingUnit(type) + 1e-6) << r;
      }
    }
    EXPECT_NEAR(result.loss, loss, 1e-6 * loss);
    const Values got = p.dw.Values();
    for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], dw[i], testing::RoundingUnit(type) + 1e-6) << i;
  }
}

TEST(CrossEntropy, OutliersDoNotOverflow) {
  for (DType type : {DType::kF32, DType::kBF16}) {
    Problem p(8, 4, 50, type, type);
    for (int64_t c = 0; c < 4; ++c) p.x.Put(0, c, 1e4 * p.x(0, c));
    p.targets.assign(8, 3);
    const Values w = p.w.Values();
    p.engine.Run(p.Args(true), p.matmul);
    const double want = testing::ReferenceNll(p.RowOf(0), w, 3);
    EXPECT_NEAR(p.nll[0], want, 1e-5 * (1.0 + want));
    for (double v : p.dx.Values()) EXPECT_TRUE(std::isfinite(v));
  }
}

TEST(CrossEntropy, NothingCountedIsNothing) {
  Problem p(30, 8, 40, DType::kF32, DType::kF32);
  p.targets.assign(30, -1);
  const auto dw = p.dw.Bytes();
  const CrossEntropyResult result = p.engine.Run(p.Args(true), p.matmul);
  EXPECT_EQ(result.loss, 0.0);
  EXPECT_EQ(result.weight, 0.0);
  EXPECT_EQ(p.dw.Bytes(), dw);
  for (double v : p.dx.Values()) EXPECT_EQ(v, 0.0);
}

TEST(CrossEntropy, AScaleOfZeroGivesZeroGradients) {
  Problem p(9, 8, 40, DType::kF32, DType::kF32);
  CrossEntropyArgs args = p.Args(true);
  args.grad_scale = 0.0f;
  p.engine.Run(args, p.matmul);
  for (double v : p.dx.Values()) EXPECT_EQ(v, 0.0);
}

TEST(CrossEntropy, SameForAnyNumberOfThreads) {
  for (DType type : {DType::kF32, DType::kBF16}) {
    testing::ExpectSameForAnyThreads([&] {
      Problem p(300, 32, 9000, type, DType::kBF16);
      const CrossEntropyResult result = p.engine.Run(p.Args(true), p.matmul);
      std::vector<char> bytes = p.dx.Bytes();
      for (char c : p.dw.Bytes()) bytes.push_back(c);
      const char* loss = reinterpret_cast<const char*>(&result.loss);
      bytes.insert(bytes.end(), loss, loss + sizeof(double));
      return bytes;
    });
  }
}

}  // namespace
}  // namespace hawser
