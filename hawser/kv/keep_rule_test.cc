#include "hawser/kv/keep_rule.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"

namespace hawser {
namespace {

struct ScoreProblem {
  ScoreProblem(int64_t rows, int64_t clusters, uint64_t seed, double spread, bool with_empty)
      : logits(rows, clusters), counts(static_cast<size_t>(clusters)), scores(counts.size()) {
    Rng rng{.seed = seed, .stream = 4};
    for (int32_t& count : counts)
      count = with_empty && rng.Below(20) == 0 ? 0 : 1 + static_cast<int32_t>(rng.Below(40));
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < clusters; ++j) {
        // What an empty cluster has for a centroid counts nowhere.
        logits.Row<float>(i)[j] =
            counts[static_cast<size_t>(j)] == 0 ? 1e30f : static_cast<float>(spread * rng.Normal());
      }
    }
  }
  void Score() { MakeBackend("cpu")->ClusterScores(logits, counts, scores); }
  /// By the formula.
  std::vector<double> Twin() const {
    std::vector<double> mean(counts.size());
    for (int64_t i = 0; i < logits.rows(); ++i) {
      double max = -std::numeric_limits<double>::infinity(), sum = 0;
      for (size_t j = 0; j < counts.size(); ++j) {
        if (counts[j] > 0) max = std::max(max, static_cast<double>(logits.Row<float>(i)[j]));
      }
      for (size_t j = 0; j < counts.size(); ++j) {
        if (counts[j] > 0) sum += counts[j] * std::exp(logits.Row<float>(i)[j] - max);
      }
      for (size_t j = 0; j < counts.size(); ++j) {
        if (counts[j] > 0) {
          mean[j] += std::exp(logits.Row<float>(i)[j] - max) / sum / static_cast<double>(logits.rows());
        }
      }
    }
    return mean;
  }

  Matrix logits;
  std::vector<int32_t> counts;
  std::vector<float> scores;
};

TEST(KeepRuleTest, TextGoesThereAndBack) {
  for (const char* text : {"0.1", "1", "mass=0.95", "quantile=0.9", "quantile=0"}) {
    EXPECT_EQ(ToString(ParseKeepRule(text)), text);
  }
  EXPECT_EQ(ParseKeepRule("share=0.25"), (KeepRule{KeepRule::Kind::kShare, 0.25}));
  for (const char* text : {"", "0", "1.5", "-1", "nan", "inf", "mass=0", "mass=", "mass=1.01", "quantile=1",
                           "quantile=-0.1", "0.1x", "top=3", "=0.5", "0.1 ", "share=mass=0.5"}) {
    EXPECT_THROW(ParseKeepRule(text), Error) << text;
  }
}

// SQ2: the scores of all keys add up to one.
TEST(KeepRuleTest, ScoresAreThoseOfTheFormula) {
  for (const bool with_empty : {false, true}) {
    for (const int rows : {1, 3, 100}) {
      ScoreProblem problem(rows, 77, static_cast<uint64_t>(rows), 4.0, with_empty);
      problem.Score();
      const std::vector<double> twin = problem.Twin();
      double sum = 0;
      for (size_t j = 0; j < twin.size(); ++j) {
        if (problem.counts[j] == 0) {
          EXPECT_EQ(problem.scores[j], -std::numeric_limits<float>::infinity());
          continue;
        }
        EXPECT_NEAR(problem.scores[j], std::log(twin[j]), 2e-5);
        sum += problem.counts[j] * std::exp(static_cast<double>(problem.scores[j]));
      }
      EXPECT_NEAR(sum, 1.0, 1e-5);
    }
  }
}

// SQ3: a constant added to the logits of a query changes nothing, and logits of +-150 stay finite, empty clusters too.
TEST(KeepRuleTest, LargeAndShiftedLogitsStayFinite) {
  ScoreProblem problem(6, 200, 3, 60.0, true);
  for (int64_t i = 0; i < 6; ++i) {
    for (int64_t j = 0; j < 200; ++j) {
      float& logit = problem.logits.Row<float>(i)[j];
      if (logit < 1e29f) logit = std::clamp(std::round(logit), -150.0f, 150.0f);
    }
  }
  problem.Score();
  const std::vector<float> before = problem.scores;
  for (size_t j = 0; j < before.size(); ++j) EXPECT_EQ(std::isfinite(before[j]), problem.counts[j] > 0) << j;
  for (const float shift : {150.0f, -1000.0f, 4096.0f}) {
    ScoreProblem shifted(6, 200, 3, 60.0, true);
    for (int64_t i = 0; i < 6; ++i) {
      for (int64_t j = 0; j < 200; ++j) {
        const float logit = problem.logits.Row<float>(i)[j];
        shifted.logits.Row<float>(i)[j] = logit < 1e29f ? logit + shift * static_cast<float>(i) : logit;
      }
    }
    shifted.Score();
    for (size_t j = 0; j < before.size(); ++j) {
      if (problem.counts[j] > 0) {
        EXPECT_NEAR(shifted.scores[j], before[j], 1e-3f + 1e-6f * std::abs(before[j])) << j;
      }
    }
  }
}

TEST(KeepRuleTest, WhatIsNoNumberIsNotScored) {
  for (const float odd : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    ScoreProblem problem(2, 30, 5, 1.0, false);
    problem.logits.Row<float>(1)[7] = odd;
    EXPECT_THROW(problem.Score(), Error) << odd;
  }
}

TEST(KeepRuleTest, ChoicesAreThoseOfASortedList) {
  for (uint64_t seed = 0; seed < 40; ++seed) {
    ScoreProblem problem(3, 1 + static_cast<int64_t>(RandomBits(seed, 1, 1) % 90), seed, 3.0, true);
    if (std::ranges::all_of(problem.counts, [](int32_t n) { return n == 0; })) continue;
    problem.Score();
    if (seed % 3 == 0) {
      for (float& score : problem.scores) score = std::round(score);  // ties
    }
    std::vector<int32_t> order;
    for (size_t j = 0; j < problem.counts.size(); ++j) {
      if (problem.counts[j] > 0) order.push_back(static_cast<int32_t>(j));
    }
    std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return problem.scores[a] > problem.scores[b]; });
    const int64_t all = std::accumulate(problem.counts.begin(), problem.counts.end(), int64_t{0});
    ClusterChooser chooser;
    const auto first = [&](size_t count) {
      std::vector<int32_t> list(order.begin(), order.begin() + static_cast<ptrdiff_t>(count));
      std::ranges::sort(list);
      return list;
    };
    const auto list = [](std::span<const int32_t> kept) { return std::vector<int32_t>(kept.begin(), kept.end()); };
    std::vector<int32_t> before;
    for (const int64_t budget : {int64_t{-3}, int64_t{0}, all / 10, all / 3, all - 1, all, 2 * all}) {
      size_t count = 0;
      int64_t keys = 0;
      while (count < order.size() && keys + problem.counts[order[count]] <= budget)
        keys += problem.counts[order[count++]];
      const std::vector<int32_t> kept = list(chooser.Share(problem.scores, problem.counts, budget));
      EXPECT_EQ(kept, first(count)) << seed << " budget " << budget;
      EXPECT_TRUE(std::ranges::includes(kept, before));  // SQ9: more keys, never other ones
      before = kept;
    }
    if (seed % 3 == 0) continue;
    for (const double mass : {0.1, 0.5, 0.9, 0.999}) {
      size_t count = 0;
      double sum = 0;
      while (count < order.size() && sum < mass) {
        sum += problem.counts[order[count]] * std::exp(static_cast<double>(problem.scores[order[count]]));
        ++count;
      }
      EXPECT_EQ(list(chooser.Mass(problem.scores, problem.counts, mass)), first(count)) << seed << " mass " << mass;
    }
    const float threshold = problem.scores[order[order.size() / 2]];
    size_t count = 0;
    while (problem.scores[order[count]] > threshold) ++count;
    EXPECT_EQ(list(chooser.Above(problem.scores, problem.counts, threshold)), first(count));
    EXPECT_EQ(list(chooser.Above(problem.scores, problem.counts, -std::numeric_limits<float>::infinity())),
              first(order.size()));
  }
}

}  // namespace
}  // namespace hawser
