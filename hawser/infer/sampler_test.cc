#include "hawser/infer/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "hawser/base/error.h"

namespace hawser {
namespace {

std::vector<float> RandomLogits(uint64_t seed, size_t n) {
  Rng rng{.seed = seed, .stream = 3};
  std::vector<float> logits(n);
  for (float& l : logits) l = static_cast<float>(2 * rng.Normal());
  return logits;
}

/// Probabilities after all filters, from the definitions: sort everything, renormalise after every filter.
std::vector<double> Filtered(const std::vector<float>& logits, const SamplerOptions& o) {
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  const auto softmax = [&] {
    std::vector<double> p(logits.size());
    double sum = 0;
    for (int i : order) sum += p[i] = std::exp(logits[i] / o.temperature);
    for (double& x : p) x /= sum;
    return p;
  };
  if (o.top_k > 0) order.resize(std::min<size_t>(order.size(), o.top_k));
  std::vector<double> p = softmax();
  size_t kept = 0;
  for (double mass = 0; kept < order.size() && mass < o.top_p; ++kept) mass += p[order[kept]];
  if (o.top_p < 1) order.resize(kept);
  p = softmax();
  while (p[order.back()] < o.min_p * p[order[0]]) order.pop_back();
  return softmax();
}

TEST(Sampler, DrawsFromTheFilteredDistribution) {
  const std::vector<SamplerOptions> cases = {
      {.temperature = 1, .top_p = 1},
      {.temperature = 0.7, .top_p = 1},
      {.temperature = 1.5, .top_k = 5, .top_p = 1},
      {.temperature = 1, .top_p = 0.8},
      {.temperature = 1, .top_p = 1, .min_p = 0.1},
      {.temperature = 1.2, .top_k = 12, .top_p = 0.9, .min_p = 0.05},
      {.temperature = 1, .top_k = 1000, .top_p = 0.999},
  };
  const std::vector<float> logits = RandomLogits(1, 40);
  for (size_t c = 0; c < cases.size(); ++c) {
    SamplerOptions options = cases[c];
    options.seed = c;
    Sampler sampler(options, 40);
    const std::vector<double> want = Filtered(logits, options);
    constexpr int kDraws = 20000;
    std::vector<int> count(40);
    for (int i = 0; i < kDraws; ++i) ++count[sampler.Sample(logits)];
    double chi2 = 0;
    int cells = 0;
    for (size_t i = 0; i < 40; ++i) {
      if (want[i] == 0) {
        EXPECT_EQ(count[i], 0) << "case " << c << " token " << i;
      } else {
        chi2 += (count[i] - kDraws * want[i]) * (count[i] - kDraws * want[i]) / (kDraws * want[i]);
        ++cells;
      }
    }
    // Seeded, so it always gives the same value; a wrong distribution is hundreds off.
    EXPECT_LT(chi2, cells + 5 * std::sqrt(2.0 * cells)) << "case " << c;
    EXPECT_GT(cells, 1);
  }
}

TEST(Sampler, GreedyTakesTheFirstOfEquals) {
  Sampler sampler({.temperature = 0}, 4);
  EXPECT_EQ(sampler.Sample(std::vector<float>{1, 3, 3, 2}), 1);
  EXPECT_EQ(sampler.Sample(std::vector<float>{-5, -INFINITY, -5, -6}), 0);
}

TEST(Sampler, RepeatPenaltyPushesDownOnBothSidesOfZero) {
  Sampler sampler({.temperature = 0, .repeat_penalty = 2}, 3);
  EXPECT_EQ(sampler.Sample(std::vector<float>{4, 3, 1}), 0);
  sampler.Accept(std::vector<int32_t>{0});
  EXPECT_EQ(sampler.Sample(std::vector<float>{4, 3, 1}), 1);
  EXPECT_EQ(sampler.Sample(std::vector<float>{-1, -1.5, -3}), 1);  // -1 becomes -2
  sampler.Accept(std::vector<int32_t>{-1, 3, 99});                 // not tokens of this vocabulary: no effect
}

TEST(Sampler, SameSeedSameTokens) {
  const auto draw = [](uint64_t seed) {
    Sampler sampler({.seed = seed}, 200);
    std::vector<int32_t> ids;
    for (uint64_t i = 0; i < 50; ++i) ids.push_back(sampler.Sample(RandomLogits(i, 200)));
    return ids;
  };
  EXPECT_EQ(draw(1), draw(1));
  EXPECT_NE(draw(1), draw(2));
}

TEST(Sampler, MistakesAreNamed) {
  const double nan = std::numeric_limits<double>::quiet_NaN();
  for (const SamplerOptions& bad : {SamplerOptions{.temperature = -1},
                                    {.temperature = nan},
                                    {.top_k = -1},
                                    {.top_p = 0},
                                    {.top_p = 1.5},
                                    {.top_p = nan},
                                    {.min_p = -0.1},
                                    {.min_p = 2},
                                    {.repeat_penalty = 0},
                                    {.repeat_penalty = INFINITY}}) {
    try {
      Sampler(bad, 4);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << error.what();
    }
  }
  Sampler sampler({}, 2);
  for (const std::vector<float>& bad : {std::vector<float>{1, NAN}, {NAN, 1}, {INFINITY, 0}, {-INFINITY, -INFINITY}}) {
    try {
      sampler.Sample(bad);
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kNumeric) << error.what();
    }
  }
}

TEST(Sampler, PenaltiesCountTheLastTokens) {
  const std::vector<float> logits = {3, 2.5, 2, 1};
  const auto best = [&](SamplerOptions options, const std::vector<int32_t>& seen) {
    options.temperature = 0;
    Sampler sampler(options, 4);
    sampler.Accept(seen);
    return sampler.Sample(logits);
  };
  EXPECT_EQ(best({.frequency_penalty = 0.3}, {0}), 0);       // 2.7
  EXPECT_EQ(best({.frequency_penalty = 0.3}, {0, 0}), 1);    // 2.4
  EXPECT_EQ(best({.presence_penalty = 0.4}, {0, 0, 0}), 0);  // 2.6, however often
  EXPECT_EQ(best({.presence_penalty = 0.6}, {0}), 1);
  EXPECT_EQ(best({.frequency_penalty = 0.3, .presence_penalty = 0.3}, {0}), 1);
  EXPECT_EQ(best({.presence_penalty = -1}, {2, 2}), 0);  // 3 and 3: the smaller id
  EXPECT_EQ(best({.presence_penalty = -1.5}, {2, 2}), 2);
  for (const int64_t n : {1, 2, 3}) {
    const int32_t want = n < 3 ? 0 : 1;  // the 0 is the third from the end
    EXPECT_EQ(best({.presence_penalty = 5, .repeat_last_n = n}, {0, 3, 3}), want) << n;
  }
  EXPECT_EQ(best({.repeat_penalty = 10, .repeat_last_n = 0}, {0}), 0);
  EXPECT_EQ(best({.repeat_penalty = 10}, {0}), 1);
  EXPECT_EQ(best({.never = {0, 1, -7, 99}}, {}), 2);
  EXPECT_THROW(best({.never = {0, 1, 2, 3}}, {}), Error);
  EXPECT_THROW(best({.repeat_last_n = -2}, {}), Error);
  EXPECT_THROW(best({.frequency_penalty = NAN}, {}), Error);
}

TEST(Sampler, WhatWasSeenGoesOnInAnother) {
  const std::vector<float> logits = RandomLogits(7, 12);
  for (const int64_t n : {-1, 0, 1, 4, 100}) {
    const SamplerOptions options = {
        .temperature = 0, .repeat_penalty = 1.3, .frequency_penalty = 0.4, .presence_penalty = 0.2, .repeat_last_n = n};
    Sampler whole(options, 12), first(options, 12);
    for (int i = 0; i < 40; ++i) {
      const int32_t id = whole.Sample(logits);
      EXPECT_EQ(id, first.Sample(logits)) << n << " at " << i;
      whole.Accept(std::span(&id, 1));
      first.Accept(std::span(&id, 1));
      Sampler second(options, 12);
      second.Accept(first.seen());
      first = second;
    }
  }
}

}  // namespace
}  // namespace hawser
