// Biases by distance and soft caps of scores: forward, backward and decode against the twin.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/cpu/attention.h"
#include "hawser/cpu/subnormals.h"
#include "hawser/pos/alibi.h"
#include "hawser/testing/attention_problem.h"

namespace hawser {
namespace {

using testing::RandomLayout;
using testing::TestMat;
using testing::UseIsa;
using testing::UseThreads;
using Problem = testing::AttentionProblem;
using Shape = testing::AttentionShape;

/// Places with gaps, and now and then a jump far ahead or a little back.
std::vector<int32_t> JumpingPlaces(Rng& rng, int64_t count, int32_t first) {
  std::vector<int32_t> places;
  int32_t at = first;
  for (int64_t i = 0; i < count; ++i) {
    places.push_back(at);
    const uint64_t kind = rng.Below(20);
    at += kind == 0   ? 1000 + static_cast<int32_t>(rng.Below(100000))
          : kind == 1 ? -std::min(at - first, 30)
                      : 1 + (kind < 5);
  }
  return places;
}

/// Heads whose number is a power of two or not, both steep and flat slopes among them.
std::vector<float> RandomSlopes(Rng& rng, int heads) {
  const double factor = heads > 1 && rng.Below(2) ? 4.0 : 1.0;
  return AlibiSlopes(
      {.max_bias = 8.0, .scaling = heads > 1 ? AlibiScaling::kNtk : AlibiScaling::kLinear, .factor = factor}, heads);
}

TEST(AttentionScores, MatchTheTwinOverRandomPatterns) {
  const int dims[] = {2, 5, 8, 16, 24, 40, 64, 80, 128, 256};
  const std::pair<int, int> heads[] = {{1, 1}, {2, 1}, {6, 2}, {3, 1}, {3, 3}};
  Rng rng{.seed = 21, .stream = 1};
  for (int i = 0; i < 40 && !HasFailure(); ++i) {
    Shape shape{.dim = dims[i % 10]};
    std::tie(shape.heads, shape.kv_heads) = heads[rng.Below(shape.dim > 64 ? 2 : 5)];
    shape.dtype = rng.Below(2) ? DType::kBF16 : DType::kF32;
    shape.stored = rng.Below(2) ? DType::kBF16 : DType::kF32;
    std::vector<AttnPattern> patterns;
    std::vector<TokenLayout> layouts;
    std::vector<int> queries;
    for (int s = 1 + static_cast<int>(rng.Below(3)); s > 0; --s) {
      const int size = 2 + static_cast<int>(rng.Below(rng.Below(8) == 0 ? 300 : 50));
      const int prefix = static_cast<int>(rng.Below(3)) % size;
      layouts.push_back(RandomLayout(rng, prefix, size, rng.Below(4) == 0));
      AttnPattern& pattern = patterns.emplace_back();
      if (rng.Below(2)) pattern.scope = Scope::kDocument;
      if (rng.Below(2)) pattern.window = 1 + static_cast<int>(rng.Below(40));
      if (rng.Below(3) == 0) pattern.sinks = 1 + static_cast<int>(rng.Below(5));
      pattern.separators = rng.Below(2);
      pattern.anchors = prefix;
      queries.push_back(rng.Below(3) == 0 ? 1 + static_cast<int>(rng.Below(size)) : size);
    }
    Problem problem(shape, patterns, layouts, queries, 300 + i, 1.0 + static_cast<double>(rng.Below(3)));
    const uint64_t kind = rng.Below(3);
    if (kind != 0) problem.slopes = RandomSlopes(rng, shape.heads);
    if (kind != 1) problem.softcap = 0.5f + 4.0f * static_cast<float>(rng.Uniform());
    if (rng.Below(2)) problem.SetPlaces(JumpingPlaces(rng, problem.keys, static_cast<int32_t>(rng.Below(1 << 20))));
    problem.Check();
  }
}

TEST(AttentionScores, TilesAndBlocksOfEveryKindMeetTheTwin) {
  Rng rng{.seed = 6, .stream = 2};
  for (const char* text : {"full", "window=65 sinks=2", "scope=doc anchors=1"}) {
    const AttnPattern pattern = ParsePattern(text);
    const TokenLayout layout = RandomLayout(rng, pattern.anchors, 420, false);
    for (const DType dtype : {DType::kBF16, DType::kF32}) {
      Problem problem({.heads = 2, .kv_heads = 1, .dim = 16, .dtype = dtype}, pattern, layout, 3);
      problem.slopes = {0.01f, 0.5f};
      if (dtype == DType::kF32) problem.SetPlaces(JumpingPlaces(rng, problem.keys, 7));
      if (dtype == DType::kBF16) problem.softcap = 2.0f;
      problem.Check();
    }
  }
}

// More stacked rows to a position than a tile has.
TEST(AttentionScores, ManyHeadsShareOneKey) {
  Problem problem({.heads = 300, .kv_heads = 1, .dim = 8}, ParsePattern("window=3"), MakeLayout(0, {5}), 1);
  problem.slopes = AlibiSlopes({}, 300);
  problem.softcap = 1.0f;
  problem.Check();
}

// As Falcon has them: both factors and their product are rounded, the scale comes behind.
TEST(AttentionScores, BiasesInBf16) {
  for (const float slope : {0.3f, 0.25f, 0.00390625f}) {
    Problem problem({.heads = 1, .kv_heads = 1, .dim = 16}, ParsePattern("full"), MakeLayout(0, {700}), 1);
    problem.slopes = {slope};
    problem.bf16_bias = 0.35f;
    problem.Check();
  }
}

// The twin itself: what it calls gradients are the differences of what it calls outputs.
TEST(AttentionScores, GradientsAreTheFiniteDifferencesOfTheFormula) {
  Rng rng{.seed = 3, .stream = 3};
  for (const bool biased : {true, false}) {
    Problem problem({.heads = 2, .kv_heads = 1, .dim = 8}, ParsePattern("scope=doc anchors=1 window=5 sep"),
                    RandomLayout(rng, 1, 24, false), 9);
    if (biased) problem.slopes = {0.5f, 0.03f};
    problem.softcap = 1.5f;
    problem.SetPlaces(JumpingPlaces(rng, 24, 3));
    const std::vector<double> weights = problem.dout.Values();
    for (const Isa isa : AvailableIsas()) {
      const UseIsa use(isa);
      problem.Forward();
      problem.Backward();
      NaiveAttention twin = problem.Twin();
      const auto loss = [&] {
        twin.Forward();
        double sum = 0;
        for (size_t i = 0; i < weights.size(); ++i) sum += weights[i] * twin.out[i];
        return sum;
      };
      const auto check = [&](std::vector<double>& values, const TestMat& got) {
        for (int i = 0; i < 12; ++i) {
          const size_t at = rng.Below(values.size());
          const double before = values[at], step = 1e-5;
          values[at] = before + step;
          const double up = loss();
          values[at] = before - step;
          const double down = loss();
          values[at] = before;
          const int64_t cols = got.cols(), r = static_cast<int64_t>(at) / cols, c = static_cast<int64_t>(at) % cols;
          EXPECT_NEAR(got(r, c), (up - down) / (2 * step), 2e-5) << problem.Describe();
        }
      };
      check(twin.q, problem.dq);
      check(twin.k, problem.dk);
      check(twin.v, problem.dv);
    }
  }
}

// Only distances count, and they are exact: a stream that has come far gives the same bits.
TEST(AttentionScores, PlacesThatAllMoveGiveTheSameBits) {
  Rng rng{.seed = 4, .stream = 4};
  const TokenLayout layout = RandomLayout(rng, 1, 200, false);
  for (const Isa isa : AvailableIsas()) {
    const UseIsa use(isa);
    Problem problem({.heads = 3, .kv_heads = 1, .dim = 16}, ParsePattern("window=60 anchors=1"), layout, 5);
    problem.slopes = AlibiSlopes({}, 3);
    const auto at = [&](int32_t first) {
      std::vector<int32_t> places;
      for (int32_t i = 0; i < 200; ++i) places.push_back(first + i);
      problem.SetPlaces(places);
      return problem.Results();
    };
    const auto near = at(0);
    EXPECT_EQ(near, at(2'000'000'000));
    problem.query_place.clear(), problem.key_place.clear();
    EXPECT_EQ(near, problem.Results());
  }
}

TEST(AttentionScores, DoNotDependOnThreadsOrOnTheOtherSequences) {
  Rng rng{.seed = 8, .stream = 5};
  const std::vector<AttnPattern> patterns = {ParsePattern("scope=doc anchors=1"), ParsePattern("window=20 sep sinks=2"),
                                             ParsePattern("full")};
  std::vector<TokenLayout> layouts;
  for (const AttnPattern& pattern : patterns) layouts.push_back(RandomLayout(rng, pattern.anchors, 300, false));
  const Shape shape{.heads = 4, .kv_heads = 2, .dim = 40, .dtype = DType::kBF16};
  Problem all(shape, patterns, layouts, {300, 300, 200}, 21);
  all.slopes = AlibiSlopes({}, 4);
  all.softcap = 3.0f;
  all.SetPlaces(JumpingPlaces(rng, all.keys, 0));
  std::vector<std::vector<std::vector<char>>> results;
  for (const int threads : {1, 2, 3}) {
    const UseThreads use(threads);
    results.push_back(all.Results());
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
  const std::vector<double> out = all.out.Values(), dq = all.dq.Values();
  const std::vector<AttnSequence> sequences = all.sequences;
  all.sequences.assign(1, sequences[2]);
  all.Results();
  const std::vector<double> alone_out = all.out.Values(), alone_dq = all.dq.Values();
  for (auto i = static_cast<size_t>(600 * all.out.cols()); i < out.size(); ++i) {
    ASSERT_EQ(alone_out[i], out[i]);
    ASSERT_EQ(alone_dq[i], dq[i]);
  }
}

TEST(AttentionScores, CapsAreTanhToItsSize) {
  constexpr int kCols = 160;
  std::vector<double> x;
  for (int i = 0; i < kCols; ++i) x.push_back((i % 2 == 0 ? 1 : -1) * 1e-4 * std::pow(1.13, i / 2));  // to 1.5
  for (const Isa isa : AvailableIsas()) {
    for (const double scale : {1e-30, 1.0, 20.0, 1e30}) {
      std::vector<float> s;
      for (const double value : x) s.push_back(static_cast<float>(value * scale));
      const std::vector<float> in = s;
      GetTileKernels(isa, DType::kF32)
          .soft_cap({.s = s.data(), .lds = kCols, .rows = 1, .cols = kCols, .in = 0.5f, .out = 3.0f});
      for (size_t i = 0; i < s.size(); ++i) {
        const double want = 3.0 * std::tanh(0.5 * static_cast<double>(in[i]));
        ASSERT_NEAR(s[i], want, 5e-7 * std::abs(want)) << Name(isa) << " of " << in[i];
      }
    }
  }
}

TEST(AttentionScores, NoSlopeAndAHugeCapChangeNothing) {
  Rng rng{.seed = 9, .stream = 7};
  Problem problem({.heads = 2, .kv_heads = 1, .dim = 16}, ParsePattern("window=30"), RandomLayout(rng, 0, 100, false),
                  5);
  problem.Forward();
  const std::vector<double> plain = problem.out.Values();
  problem.slopes = {0.0f, 0.0f};
  problem.softcap = 1e6f;
  problem.Forward();
  const std::vector<double> out = problem.out.Values();
  for (size_t i = 0; i < plain.size(); ++i) ASSERT_NEAR(out[i], plain[i], 1e-5);
}

// The steepest head at a distance where nothing is left of a weight, and scores far beyond the cap.
TEST(AttentionScores, ExtremesStayFinite) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    Problem problem({.heads = 2, .kv_heads = 2, .dim = 16, .dtype = dtype}, ParsePattern("full"), MakeLayout(0, {40}),
                    5, 300.0);
    problem.slopes = {1e3f, 1e-9f};
    problem.softcap = 50.0f;
    std::vector<int32_t> places(40);
    for (int32_t i = 0; i < 40; ++i) places[static_cast<size_t>(i)] = i * 50'000'000;
    problem.SetPlaces(places);
    problem.Check();
    for (const double x : problem.dq.Values()) ASSERT_TRUE(std::isfinite(x));
    // A NaN shows.
    problem.q.Put(7, 3, std::numeric_limits<double>::quiet_NaN());
    for (const Isa isa : AvailableIsas()) {
      const UseIsa use(isa);
      problem.Forward();
      EXPECT_TRUE(std::isnan(problem.out(7, 0))) << Name(isa);
      EXPECT_FALSE(std::isnan(problem.out(6, 0))) << Name(isa);
    }
  }
}

#ifdef __x86_64__
TEST(AttentionScores, SubnormalsAreFlushedForAScopeAlone) {
  volatile float small = 1e-38f, smaller = 0;
  {
    const FlushSubnormals flush(true);
    smaller = small * 0.01f;
    EXPECT_EQ(smaller, 0.0f);
    const FlushSubnormals inner(false);
    smaller = small * 0.01f;
    EXPECT_EQ(smaller, 0.0f);
  }
  smaller = small * 0.01f;
  EXPECT_GT(smaller, 0.0f);
}
#endif

TEST(AttentionScores, WhatIsRefused) {
  const auto fails = [](const auto& edit, ErrorKind kind, const std::string& text) {
    Problem problem({.heads = 2, .kv_heads = 1, .dim = 16}, ParsePattern("full"), MakeLayout(0, {5}), 1);
    const std::vector<float> slopes = {0.5f, std::numeric_limits<float>::infinity()};
    AttentionArgs args{.shape = problem.OpShape(),
                       .q = problem.q,
                       .k = problem.k,
                       .v = problem.v,
                       .out = problem.out,
                       .sequences = problem.sequences};
    edit(args.shape, slopes.data());
    try {
      AttentionForward(args);
      ADD_FAILURE() << "took it; wanted: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind);
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  fails([](AttnShape& s, const float* slopes) { s.slopes = slopes; }, ErrorKind::kUsage, "slope 1 is inf");
  fails([](AttnShape& s, const float*) { s.softcap = -1.0f; }, ErrorKind::kUsage, "softcap must be positive");
  fails([](AttnShape& s, const float*) { s.softcap = std::nanf(""); }, ErrorKind::kUsage, "softcap must be positive");
  fails([](AttnShape& s, const float*) { s.softcap = 2.0f, s.softmax.kind = SoftmaxKind::kSelfAdjust; },
        ErrorKind::kUnsupported, "self-adjust takes neither biased nor capped");
  fails([](AttnShape& s, const float*) { s.bf16_bias = 1.0f; }, ErrorKind::kUnsupported, "a key head for each head");
}

}  // namespace
}  // namespace hawser
