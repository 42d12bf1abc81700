// What documents, anchors, windows and padding hide, and what they let through.
#include "hawser/cpu/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "hawser/testing/attention_problem.h"

namespace hawser {
namespace {

using testing::TestMat;
using testing::UseIsa;
using Problem = testing::AttentionProblem;
using Shape = testing::AttentionShape;

TEST(AttentionMasks, T11_OneDocumentBehindTheAnchorIsFullAttention) {
  const TokenLayout layout = MakeLayout(1, {150});
  const Shape shape{.heads = 2, .kv_heads = 2, .dim = 32};
  Problem anchor(shape, ParsePattern("anchor"), layout, 5), full(shape, ParsePattern("full"), layout, 5);
  anchor.Results();
  full.Results();
  for (int64_t r = 0; r < anchor.rows; ++r) {
    for (int64_t c = 0; c < anchor.out.cols(); ++c) {
      ASSERT_NEAR(anchor.out(r, c), full.out(r, c), 2e-6);
      ASSERT_NEAR(anchor.dq(r, c), full.dq(r, c), 2e-5);
      ASSERT_NEAR(anchor.dk(r, c), full.dk(r, c), 2e-4);
      ASSERT_NEAR(anchor.dv(r, c), full.dv(r, c), 2e-4);
    }
  }
}

TEST(AttentionMasks, T8_T16_DocumentsDoNotTouchEachOther) {
  // Anchor, then documents at [1, 81), [81, 121), [121, 301).
  const TokenLayout layout = MakeLayout(1, {80, 40, 180});
  for (const Isa isa : AvailableIsas()) {
    const UseIsa use(isa);
    Problem problem({.heads = 2, .kv_heads = 1, .dim = 16, .dtype = DType::kBF16}, ParsePattern("anchor"), layout, 6);
    problem.Forward();
    const std::vector<double> before = problem.out.Values();
    for (int64_t r = 81; r < 121; ++r) {
      for (int64_t c = 0; c < 16; ++c) {
        problem.k.Put(r, c, 3.0);
        problem.v.Put(r, c, -5.0);
      }
    }
    problem.Forward();
    const std::vector<double> after = problem.out.Values();
    const int64_t wide = problem.out.cols();
    bool changed = false;
    for (int64_t i = 0; i < problem.rows * wide; ++i) {
      const bool inside = i / wide >= 81 && i / wide < 121;
      ASSERT_TRUE(inside || before[i] == after[i]) << "row " << i / wide;
      changed = changed || (inside && before[i] != after[i]);
    }
    EXPECT_TRUE(changed);
    // A loss on the middle document alone: no gradient but in it and in the anchor.
    for (int64_t r = 0; r < problem.rows; ++r) {
      for (int64_t c = 0; c < wide && (r < 81 || r >= 121); ++c) problem.dout.Put(r, c, 0.0);
    }
    problem.Backward();
    for (int64_t r = 0; r < problem.rows; ++r) {
      double size = 0;
      for (int64_t c = 0; c < 16; ++c) {
        size += std::abs(problem.dq(r, c)) * (r != 0) + std::abs(problem.dk(r, c)) + std::abs(problem.dv(r, c));
      }
      const bool inside = r == 0 || (r >= 81 && r < 121);
      EXPECT_EQ(size > 0, inside) << "row " << r;
    }
  }
}

TEST(AttentionMasks, T15_EveryRowGivesTheAnchorAGradientThroughItsKeyAndValue) {
  const TokenLayout layout = MakeLayout(1, {70, 1, 30});
  for (const Isa isa : AvailableIsas()) {
    const UseIsa use(isa);
    Problem problem({.heads = 2, .kv_heads = 1, .dim = 16}, ParsePattern("anchor"), layout, 6);
    problem.Forward();
    problem.Backward();
    const int64_t wide = problem.k.cols();
    const std::vector<double> dk = problem.dk.Values(), dv = problem.dv.Values(), dout = problem.dout.Values();
    std::vector<double> sum_dk(wide, 0.0), sum_dv(wide, 0.0);
    const auto size = [](const TestMat& m, int64_t row) {
      double sum = 0;
      for (int64_t c = 0; c < m.cols(); ++c) sum += std::abs(m(row, c));
      return sum;
    };
    for (int64_t loss = 0; loss < problem.rows; ++loss) {  // a loss on one row
      for (int64_t r = 0; r < problem.rows; ++r) {
        for (int64_t c = 0; c < problem.dout.cols(); ++c) {
          problem.dout.Put(r, c, r == loss ? dout[r * problem.dout.cols() + c] : 0.0);
        }
      }
      problem.Backward();
      constexpr double kNothing = 1e-5;  // what rounding leaves of a difference that is zero
      EXPECT_GT(size(problem.dv, 0), 1e-3) << "row " << loss;
      EXPECT_EQ(size(problem.dk, 0) > kNothing, loss > 0)
          << "row " << loss;  // the anchor sees one key: no score matters
      for (int64_t r = 0; r < problem.rows; ++r) {
        EXPECT_EQ(size(problem.dq, r) > kNothing, r == loss && r > 0) << "row " << loss << " and query " << r;
      }
      for (int64_t c = 0; c < wide; ++c) sum_dk[c] += problem.dk(0, c), sum_dv[c] += problem.dv(0, c);
    }
    for (int64_t c = 0; c < wide; ++c) {
      EXPECT_NEAR(sum_dk[c], dk[c], 1e-4);
      EXPECT_NEAR(sum_dv[c], dv[c], 1e-4);
    }
  }
}

TEST(AttentionMasks, T20_FoldedAnchorsEqualTheMaskedSoftmaxFromTheFirstDocumentOn) {
  for (const std::vector<int>& lengths : std::vector<std::vector<int>>{{1}, {62, 3}, {63, 70}, {64}, {140, 5}}) {
    for (const char* text : {"anchor", "scope=doc anchors=1 window=9"}) {
      Problem({.heads = 2, .kv_heads = 1, .dim = 16}, ParsePattern(text), MakeLayout(1, lengths), 9).Check();
      Problem({.dtype = DType::kBF16}, ParsePattern(text), MakeLayout(1, lengths), 10).Check();
    }
    Problem({}, ParsePattern("scope=doc anchors=5"), MakeLayout(5, lengths), 11).Check();
  }
}

TEST(AttentionMasks, T18_T20_EqualScoresCountWhatARowSees) {
  // q = 0: lse is the log of the number of visible keys, and out of equal values is that value.
  for (const std::vector<int>& lengths : std::vector<std::vector<int>>{{1}, {63}, {64, 1, 65}, {1, 1, 127}, {128, 2}}) {
    for (const Isa isa : AvailableIsas()) {
      const UseIsa use(isa);
      Problem problem({.heads = 1, .kv_heads = 1, .dim = 8}, ParsePattern("anchor"), MakeLayout(1, lengths), 7);
      for (int64_t r = 0; r < problem.rows; ++r) {
        for (int64_t c = 0; c < 8; ++c) problem.q.Put(r, c, 0.0), problem.v.Put(r, c, 2.0);
      }
      problem.Forward();
      double seen = 0;
      for (int64_t r = 0; r < problem.rows; ++r) {
        seen += std::exp(problem.lse[r]);
        for (int64_t c = 0; c < 8; ++c) EXPECT_NEAR(problem.out(r, c), 2.0, 1e-6);
      }
      double formula = 1;
      for (const int n : lengths) formula += 0.5 * n * (n + 1) + n;
      EXPECT_NEAR(seen, formula, 1e-4 * formula);
      EXPECT_EQ(problem.schedules[0].visible_pairs, static_cast<int64_t>(formula));
    }
  }
}

TEST(AttentionMasks, T19_PaddingRowsAreZeroEverywhere) {
  TokenLayout layout = MakeLayout(1, {50, 39});
  layout.is_padding.assign(90, 0);
  for (int i = 70; i < 90; ++i) layout.is_padding[i] = 1;
  for (const Isa isa : AvailableIsas()) {
    const UseIsa use(isa);
    Problem problem({.heads = 2, .kv_heads = 1, .dim = 16, .dtype = DType::kBF16}, ParsePattern("anchor"), layout, 8);
    problem.Results();
    for (int64_t r = 70; r < 90; ++r) {
      for (int64_t c = 0; c < 32; ++c) {
        ASSERT_EQ(problem.out(r, c), 0.0);
        ASSERT_EQ(problem.dq(r, c), 0.0);
        ASSERT_EQ(problem.dk(r, c % 16), 0.0);
        ASSERT_EQ(problem.dv(r, c % 16), 0.0);
      }
      ASSERT_EQ(problem.lse[r * 2], -std::numeric_limits<float>::infinity());
    }
  }
}

TEST(AttentionMasks, E10_GradientOfAKeyComesFromItsWindowAlone) {
  TokenLayout layout = MakeLayout(0, {200});
  layout.is_separator.assign(200, 0);
  layout.is_separator[20] = 1;
  for (const Isa isa : AvailableIsas()) {
    const UseIsa use(isa);
    Problem problem({.heads = 1, .kv_heads = 1, .dim = 8, .dtype = DType::kBF16}, ParsePattern("window=16 sep"), layout,
                    19);
    problem.Forward();
    for (int64_t r = 0; r < 200; ++r) {  // a loss on rows [100, 110) only
      for (int64_t c = 0; c < 8 && (r < 100 || r >= 110); ++c) problem.dout.Put(r, c, 0.0);
    }
    problem.Backward();
    for (int64_t key = 0; key < 200; ++key) {
      double size = 0;
      for (int64_t c = 0; c < 8; ++c) size += std::abs(problem.dk(key, c)) + std::abs(problem.dv(key, c));
      EXPECT_EQ(size > 0, key == 20 || (key > 100 - 16 && key < 110)) << "key " << key;
    }
  }
}

}  // namespace
}  // namespace hawser
