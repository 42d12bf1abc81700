// The kernels of attention against the twin; what masks mean is in attention_masks_test.cc.
#include "hawser/cpu/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <vector>

#include "hawser/testing/attention_problem.h"

namespace hawser {
namespace {

using testing::RandomLayout;
using testing::TestMat;
using testing::UseIsa;
using testing::UseThreads;
using Problem = testing::AttentionProblem;
using Shape = testing::AttentionShape;

AttnPattern RandomPattern(Rng& rng, int anchors) {
  AttnPattern pattern;
  if (rng.Below(2)) pattern.scope = Scope::kDocument;
  if (rng.Below(2)) pattern.window = 1 + static_cast<int>(rng.Below(40));
  if (rng.Below(3) == 0) pattern.sinks = 1 + static_cast<int>(rng.Below(5));
  pattern.separators = rng.Below(2);
  pattern.anchors = anchors;
  return pattern;
}

TEST(AttentionTest, MatchesTheTwinOverRandomPatterns) {
  const int dims[] = {1, 2, 4, 7, 8, 16, 24, 40, 64, 80, 128, 256};
  const std::pair<int, int> heads[] = {{1, 1}, {2, 1}, {4, 2}, {3, 1}};
  Rng rng{.seed = 11, .stream = 1};
  for (int i = 0; i < 200 && !HasFailure(); ++i) {
    Shape shape{.dim = dims[i % 12]};
    std::tie(shape.heads, shape.kv_heads) = heads[rng.Below(shape.dim > 64 ? 2 : 4)];
    shape.dtype = rng.Below(2) ? DType::kBF16 : DType::kF32;
    shape.stored = rng.Below(2) ? DType::kBF16 : DType::kF32;
    std::vector<AttnPattern> patterns;
    std::vector<TokenLayout> layouts;
    std::vector<int> queries;
    for (int s = 1 + static_cast<int>(rng.Below(3)); s > 0; --s) {
      const int size = 2 + static_cast<int>(rng.Below(rng.Below(12) == 0 ? 300 : 50));
      const int prefix = static_cast<int>(rng.Below(3)) % size;
      layouts.push_back(RandomLayout(rng, prefix, size, rng.Below(4) == 0));
      patterns.push_back(RandomPattern(rng, prefix));
      queries.push_back(rng.Below(3) == 0 ? 1 + static_cast<int>(rng.Below(size)) : size);
    }
    Problem(shape, patterns, layouts, queries, 100 + i).Check();
  }
}

TEST(AttentionTest, TilesAndBlocksOfEveryKindMeetTheTwin) {
  // Longer than a tile, a block and a panel in both directions; windows around their edges.
  Rng rng{.seed = 5, .stream = 2};
  for (const char* text : {"full", "window=64", "window=65 sinks=2", "scope=doc anchors=1", "window=16 sep"}) {
    const AttnPattern pattern = ParsePattern(text);
    const TokenLayout layout = RandomLayout(rng, pattern.anchors, 420, false);
    Problem({.heads = 2, .kv_heads = 1, .dim = 16, .dtype = DType::kBF16}, pattern, layout, 3).Check();
    Problem({.heads = 1, .kv_heads = 1, .dim = 24}, pattern, layout, 4).Check();
  }
}

TEST(AttentionTest, ManyHeadsShareOneKey) {
  // More stacked rows per position than a tile has.
  Problem({.heads = 300, .kv_heads = 1, .dim = 8}, ParsePattern("window=3"), MakeLayout(0, {5}), 1).Check();
  Problem({.heads = 66, .kv_heads = 2, .dim = 8, .dtype = DType::kBF16}, ParsePattern("full"), MakeLayout(0, {9}), 2)
      .Check();
}

TEST(AttentionTest, E10_GradientsAreTheFiniteDifferencesOfTheFormula) {
  const AttnPattern pattern = ParsePattern("scope=doc anchors=1 window=5 sep");
  Rng rng{.seed = 2, .stream = 3};
  Problem problem({.heads = 2, .kv_heads = 1, .dim = 8}, pattern, RandomLayout(rng, 1, 24, false), 9);
  const std::vector<double> weights = problem.dout.Values();
  const auto loss = [&](NaiveAttention& twin) {
    twin.Forward();
    double sum = 0;
    for (size_t i = 0; i < weights.size(); ++i) sum += weights[i] * twin.out[i];
    return sum;
  };
  for (const Isa isa : AvailableIsas()) {
    const UseIsa use(isa);
    problem.Forward();
    problem.Backward();
    NaiveAttention twin = problem.Twin();
    const auto check = [&](std::vector<double>& values, const TestMat& got) {
      for (int i = 0; i < 12; ++i) {
        const size_t at = rng.Below(values.size());
        const double before = values[at], step = 1e-5;
        values[at] = before + step;
        const double up = loss(twin);
        values[at] = before - step;
        const double down = loss(twin);
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

TEST(AttentionTest, DoesNotDependOnThreadsOrOnTheOtherSequences) {
  Rng rng{.seed = 8, .stream = 4};
  const Shape shape{.heads = 4, .kv_heads = 2, .dim = 40, .dtype = DType::kBF16};
  const std::vector<AttnPattern> patterns = {ParsePattern("scope=doc anchors=1"), ParsePattern("window=20 sep sinks=2"),
                                             ParsePattern("full")};
  std::vector<TokenLayout> layouts;
  for (const AttnPattern& pattern : patterns) layouts.push_back(RandomLayout(rng, pattern.anchors, 300, false));
  for (const Isa isa : AvailableIsas()) {
    const UseIsa use(isa);
    Problem all(shape, patterns, layouts, {300, 300, 200}, 21);
    std::vector<std::vector<char>> one, two, three;
    {
      const UseThreads threads(1);
      one = all.Results();
    }
    {
      const UseThreads threads(2);
      two = all.Results();
    }
    {
      const UseThreads threads(3);
      three = all.Results();
    }
    EXPECT_EQ(one, two) << Name(isa);
    EXPECT_EQ(one, three) << Name(isa);
    // One sequence at a time, on the same memory: every byte the same again.
    const std::vector<AttnSequence> sequences = all.sequences;
    std::vector<std::vector<char>> single;
    for (const AttnSequence& sequence : sequences) {
      all.sequences = {sequence};
      all.Forward();
    }
    for (const AttnSequence& sequence : sequences) {
      all.sequences = {sequence};
      single = all.Results();
    }
    EXPECT_EQ(one, single) << Name(isa);
  }
}

TEST(AttentionTest, LongSequencesAddTheirChunksInOrder) {
  // Enough work for several chunks of key blocks. dout is 0 but in a few rows, so that the twin needs only those.
  constexpr int kTokens = 5300;
  const Shape shape{.heads = 2, .kv_heads = 1, .dim = 64};
  Problem problem(shape, ParsePattern("sep"), MakeLayout(0, {kTokens}), 31);
  const std::vector<int> rows = {0, 63, 64, 1000, 2047, 5299};
  for (int64_t r = 0; r < kTokens; ++r) {
    const bool chosen = std::find(rows.begin(), rows.end(), r) != rows.end();
    for (int64_t c = 0; c < problem.dout.cols() && !chosen; ++c) problem.dout.Put(r, c, 0.0);
  }
  NaiveAttention twin = problem.Twin();
  twin.rows = static_cast<int64_t>(rows.size());
  twin.visible = [&](int64_t row, int64_t key) { return key <= rows[row]; };
  std::vector<double> q, dout;
  const std::vector<double> all_dout = problem.dout.Values();
  const int64_t wide = shape.heads * shape.dim;
  for (const int row : rows) {
    q.insert(q.end(), twin.q.begin() + row * wide, twin.q.begin() + (row + 1) * wide);
    dout.insert(dout.end(), all_dout.begin() + row * wide, all_dout.begin() + (row + 1) * wide);
  }
  twin.q = q;
  twin.Forward();
  twin.Backward(dout);
  problem.score = 12.0;
  std::vector<std::vector<char>> one;
  {
    const UseThreads threads(1);
    one = problem.Results();
  }
  problem.Compare("dk", problem.dk, twin.dk, twin.dk_size, DType::kF32);
  problem.Compare("dv", problem.dv, twin.dv, twin.dv_size, DType::kF32);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int64_t c = 0; c < wide; ++c) {
      EXPECT_NEAR(problem.dq(rows[i], c), twin.dq[i * wide + c], 1e-5);
      EXPECT_NEAR(problem.out(rows[i], c), twin.out[i * wide + c], 1e-5);
    }
  }
  const UseThreads threads(2);
  EXPECT_EQ(one, problem.Results());
}

TEST(AttentionTest, ChunksOfQueriesEqualTheWhole) {
  Rng rng{.seed = 3, .stream = 6};
  for (const char* text : {"full", "anchor", "sinks=4 window=32 sep", "scope=doc window=7 sep"}) {
    const AttnPattern pattern = ParsePattern(text);
    const TokenLayout layout = RandomLayout(rng, pattern.anchors, 230, false);
    const Shape shape{.heads = 2, .kv_heads = 1, .dim = 32};
    Problem whole(shape, pattern, layout, 13);
    whole.Forward();
    for (int begin = 0; begin < 230; begin += 77) {
      const int end = std::min(230, begin + 77);
      TokenLayout prefix = layout;
      prefix.size = end;
      for (auto* v : {&prefix.is_separator, &prefix.is_padding}) v->resize(std::min<size_t>(v->size(), end));
      prefix.doc_begin.resize(std::min<size_t>(prefix.doc_begin.size(), end));
      const AttnSchedule schedule = CompileSchedule(pattern, prefix, end - begin);
      const AttnSequence sequence{.query_begin = begin, .key_begin = 0, .schedule = &schedule};
      Problem part(shape, pattern, layout, 13);
      part.sequences = {sequence};
      part.Forward();
      for (int64_t r = begin; r < end; ++r) {
        for (int64_t c = 0; c < 64; ++c) ASSERT_NEAR(part.out(r, c), whole.out(r, c), 2e-6) << text << " row " << r;
        ASSERT_NEAR(part.lse[r * 2], whole.lse[r * 2], 2e-6 * 10);
      }
    }
  }
}

TEST(AttentionTest, SurvivesScoresThatRiseOrAreHugeOrEqual) {
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const Shape shape{.heads = 1, .kv_heads = 1, .dim = 16, .dtype = dtype};
    const auto with = [&](auto key_value, double query_value) {
      Problem problem(shape, ParsePattern("full"), MakeLayout(0, {600}), 17);
      for (int64_t r = 0; r < problem.rows; ++r) {
        for (int64_t c = 0; c < 16; ++c) problem.q.Put(r, c, query_value), problem.k.Put(r, c, key_value(r));
      }
      problem.Check();
    };
    with([](int64_t r) { return 0.02 * static_cast<double>(r); }, 1.0);   // the maximum moves in every block
    with([](int64_t r) { return -0.02 * static_cast<double>(r); }, 1.0);  // the first key keeps it
    with([](int64_t r) { return r == 300 ? 30.0 : -30.0; }, 8.0);         // one key takes all: 2^-1000 elsewhere
    with([](int64_t) { return 1.5; }, 1.0);
  }
}

TEST(AttentionTest, NotANumberIsNotHidden) {
  for (const Isa isa : AvailableIsas()) {
    const UseIsa use(isa);
    Problem problem({.heads = 1, .kv_heads = 1, .dim = 8}, ParsePattern("full"), MakeLayout(0, {40}), 23);
    problem.q.Put(7, 3, std::nan(""));
    problem.Forward();
    EXPECT_TRUE(std::isnan(problem.out(7, 0))) << Name(isa);
    EXPECT_FALSE(std::isnan(problem.out(8, 0))) << Name(isa);
  }
}

TEST(AttentionTest, RefusesArgumentsThatDoNotFit) {
  Problem problem({.heads = 2, .kv_heads = 1, .dim = 8}, ParsePattern("full"), MakeLayout(0, {4}), 1);
  const auto fails = [&](auto change, const char* text) {
    AttentionArgs args{.shape = {.heads = 2, .kv_heads = 1, .head_dim = 8, .scale = 1.0f},
                       .q = problem.q,
                       .k = problem.k,
                       .v = problem.v,
                       .out = problem.out,
                       .lse = problem.lse.data(),
                       .sequences = problem.sequences};
    change(args);
    try {
      AttentionForward(args);
      ADD_FAILURE() << "took it; wanted: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  fails([](AttentionArgs& a) { a.shape.heads = 3, a.shape.kv_heads = 2; }, "multiple of kv_heads");
  fails([](AttentionArgs& a) { a.shape.head_dim = 0; }, "head_dim must be in [1, 256]");
  fails([](AttentionArgs& a) { a.shape.scale = 0.0f; }, "scale must be positive");
  fails([](AttentionArgs& a) { a.shape.head_dim = 16; }, "q");
  fails([](AttentionArgs& a) { a.k.m.dtype = DType::kF16; }, "k must be f32 or bf16");
  fails([](AttentionArgs& a) { a.v.m.rows = 3; }, "rows of k");
  std::vector<AttnSequence> moved = problem.sequences;
  moved[0].query_begin = 1;
  fails([&](AttentionArgs& a) { a.sequences = moved; }, "needs query rows [1, 5)");
  const std::vector<AttnSequence> twice = {problem.sequences[0], problem.sequences[0]};
  fails([&](AttentionArgs& a) { a.sequences = twice; }, "share query row");
}

}  // namespace
}  // namespace hawser
