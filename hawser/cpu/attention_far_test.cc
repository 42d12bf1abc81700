// Keys that another query reads (SplitFar, AttentionArgs::q_far): against the twin, and as folded distances
// (pos/fold.h) against a dense matrix of positions.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/cpu/attention.h"
#include "hawser/cpu/rope.h"
#include "hawser/pos/scheme.h"
#include "hawser/testing/attention_problem.h"

namespace hawser {
namespace {

using testing::RandomLayout;
using testing::TestMat;
using testing::UseIsa;
using testing::UseThreads;

/// A problem whose keys are far from `shift` tokens on. restart: positions begin anew at each document.
struct FarProblem : testing::AttentionProblem {
  FarProblem(testing::AttentionShape s, std::vector<AttnPattern> p, std::vector<TokenLayout> l,
             std::vector<int> queries, uint64_t seed, int64_t shift_, bool restart = false)
      : AttentionProblem(s, std::move(p), std::move(l), std::move(queries), seed),
        q_far(rows, s.heads * s.dim, s.dtype, seed + 9, 1.0, 2),
        shift(shift_) {
    for (size_t i = 0; i < schedules.size(); ++i) {
      std::vector<int64_t>& at = positions.emplace_back();
      for (int32_t key = 0; key < layouts[i].size; ++key) {
        const int32_t begin = restart ? layouts[i].DocBegin(key) : 0;
        at.push_back(key < patterns[i].anchors || begin == 0 ? key : patterns[i].anchors + key - begin);
      }
      SplitFar(shift, at, &schedules[i]);
    }
  }

  AttentionArgs Args() {
    return {.shape = OpShape(),
            .q = q,
            .k = k,
            .v = v,
            .out = out,
            .lse = lse.data(),
            .sequences = sequences,
            .q_far = q_far};
  }
  NaiveAttention FarTwin() const {
    NaiveAttention twin = Twin();
    twin.q_far = q_far.Values();
    twin.far = [this](int64_t row, int64_t key) {
      size_t i = sequences.size() - 1;
      while (sequences[i].query_begin > row) --i;
      const auto query = schedules[i].QueryKey(static_cast<int32_t>(row - sequences[i].query_begin));
      return positions[i][static_cast<size_t>(query)] -
                 positions[i][static_cast<size_t>(key - sequences[i].key_begin)] >=
             shift;
    };
    return twin;
  }
  void CheckFar() {
    NaiveAttention twin = FarTwin();
    twin.Forward();
    score = 0;
    for (const double x : twin.lse) score = std::isinf(x) ? score : std::max(score, std::abs(x));
    for (const Isa isa : AvailableIsas()) {
      const UseIsa use(isa);
      AttentionForward(Args());
      Compare("out", out, twin.out, twin.out_size, shape.dtype);
      for (size_t i = 0; i < lse.size(); ++i) {
        if (std::isinf(twin.lse[i])) {
          ASSERT_EQ(lse[i], static_cast<float>(twin.lse[i])) << Describe();
        } else {
          ASSERT_NEAR(lse[i], twin.lse[i], 1e-5 * (4.0 + std::abs(twin.lse[i]))) << "lse " << i << " " << Describe();
        }
      }
    }
  }

  TestMat q_far;
  int64_t shift;
  std::vector<std::vector<int64_t>> positions;
};

TEST(AttentionFar, MatchesTheTwinOverRandomPatterns) {
  const UseThreads one(1);
  const int dims[] = {8, 16, 24, 40, 64, 80, 128};
  const std::pair<int, int> heads[] = {{1, 1}, {2, 1}, {6, 2}, {3, 3}, {3, 1}};
  Rng rng{.seed = 31, .stream = 1};
  for (int i = 0; i < 60 && !HasFailure(); ++i) {
    testing::AttentionShape shape{.dim = dims[i % 7]};
    std::tie(shape.heads, shape.kv_heads) = heads[rng.Below(shape.dim > 64 ? 2 : 5)];
    shape.dtype = rng.Below(2) ? DType::kBF16 : DType::kF32;
    shape.stored = rng.Below(2) ? DType::kBF16 : DType::kF32;
    std::vector<AttnPattern> patterns;
    std::vector<TokenLayout> layouts;
    std::vector<int> queries;
    const bool documents = rng.Below(2) != 0;
    for (int s = 1 + static_cast<int>(rng.Below(3)); s > 0; --s) {
      const int size = 2 + static_cast<int>(rng.Below(rng.Below(6) == 0 ? 400 : 50));
      const int prefix = static_cast<int>(rng.Below(3)) % size;
      layouts.push_back(RandomLayout(rng, prefix, size, rng.Below(4) == 0));
      AttnPattern& pattern = patterns.emplace_back();
      if (documents) pattern.scope = Scope::kDocument;
      if (rng.Below(2)) pattern.window = 1 + static_cast<int>(rng.Below(40));
      if (rng.Below(3) == 0) pattern.sinks = 1 + static_cast<int>(rng.Below(5));
      pattern.separators = rng.Below(2);
      pattern.anchors = prefix;
      queries.push_back(rng.Below(3) == 0 ? 1 + static_cast<int>(rng.Below(size)) : size);
    }
    FarProblem problem(shape, patterns, layouts, queries, 700 + i, 1 + static_cast<int64_t>(rng.Below(60)),
                       documents && rng.Below(2));
    if (rng.Below(4) == 0) problem.softcap = 2.0f;
    problem.CheckFar();
  }
}

TEST(AttentionFar, TilesAndBlocksOfEveryKindMeetTheTwin) {
  Rng rng{.seed = 6, .stream = 2};
  for (const char* text : {"full", "window=200 sinks=2", "scope=doc anchors=1", "window=16 sep"}) {
    const AttnPattern pattern = ParsePattern(text);
    const TokenLayout layout = RandomLayout(rng, pattern.anchors, 620, false);
    FarProblem({.heads = 2, .kv_heads = 1, .dim = 16, .dtype = DType::kBF16}, {pattern}, {layout}, {620}, 3, 130)
        .CheckFar();
    FarProblem({.heads = 1, .kv_heads = 1, .dim = 24}, {pattern}, {layout}, {300}, 4, 257).CheckFar();
  }
}

/// Rotations of heads in the half pairing, in double.
std::vector<double> Rotated(const double* x, const RopeFrequencies& f, int dim, double position) {
  std::vector<double> y(x, x + dim);
  const size_t half = f.inv_freq.size();
  for (size_t i = 0; i < half; ++i) {
    const double angle = position * f.inv_freq[i], c = f.multiplier * std::cos(angle),
                 s = f.multiplier * std::sin(angle);
    y[i] = x[i] * c - x[i + half] * s;
    y[i + half] = x[i] * s + x[i + half] * c;
  }
  return y;
}

// Keys rotated once and two queries give what a matrix of distances gives that counts those from the shift on as
// shorter ones.
TEST(AttentionFar, FoldedDistancesAreThoseOfADensePositionMatrix) {
  constexpr int kDim = 16;
  Rng rng{.seed = 8, .stream = 5};
  for (const auto& [heads, kv_heads] : {std::pair(2, 2), std::pair(4, 1), std::pair(6, 2)}) {
    for (const char* text :
         {"full", "scope=doc anchors=2", "scope=doc", "window=20 sinks=3", "window=9 sep", "every=7 window=12"}) {
      for (const int size : {1, 24, 70, 200}) {
        const AttnPattern pattern = ParsePattern(text);
        const TokenLayout layout = RandomLayout(rng, std::min(pattern.anchors, size), size, false);
        RopeSpec rope{.rotary_dim = size == 70 ? kDim / 2 : kDim};
        rope.fold = {.shift = 23, .window = 5, .temperature = 1.07};
        const RopeFrequencies f = ComputeFrequencies(rope, 4096);
        const int rows = size == 200 ? 77 : size;  // a chunk of the whole
        FarProblem problem({.heads = heads, .kv_heads = kv_heads, .dim = kDim}, {pattern}, {layout}, {rows}, 40, 23);
        NaiveAttention twin = problem.Twin();
        const std::vector<double> raw_q = twin.q, raw_k = twin.k;
        const int32_t half = rope.rotary_dim / 2;
        const auto rotate = [&](TestMat& x, int of_heads, const std::vector<int64_t>& at) {
          std::vector<float> cos(at.size() * static_cast<size_t>(half)), sin(cos.size());
          FillRopeTable(f, at.data(), static_cast<int64_t>(at.size()), cos.data(), sin.data());
          RopeHere({.x = x, .heads = of_heads, .head_dim = kDim, .half = half, .cos = cos.data(), .sin = sin.data()});
        };
        std::vector<int64_t> of_rows(problem.positions[0].end() - rows, problem.positions[0].end()), of_far;
        for (const int64_t at : of_rows) of_far.push_back(rope.fold.FarPosition(at));
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t c = 0; c < problem.q.cols(); ++c) problem.q_far.Put(r, c, problem.q(r, c));
        }
        rotate(problem.q, heads, of_rows);
        rotate(problem.q_far, heads, of_far);
        rotate(problem.k, kv_heads, problem.positions[0]);
        AttentionForward(problem.Args());
        // Dense: every pair has a distance of its own, and both of it are rotated for that pair alone.
        for (int64_t row = 0; row < rows; ++row) {
          for (int head = 0; head < heads; ++head) {
            std::vector<double> weights, out(kDim);
            double sum = 0;
            const std::vector<int64_t> seen = twin.VisibleKeys(row);
            for (const int64_t key : seen) {
              const int64_t distance =
                  of_rows[static_cast<size_t>(row)] - problem.positions[0][static_cast<size_t>(key)];
              const std::vector<double> a = Rotated(&raw_q[(row * heads + head) * kDim], f, kDim,
                                                    static_cast<double>(distance < 23 ? distance : distance - 23 + 5));
              const std::vector<double> b = Rotated(&raw_k[twin.KeyAt(head, key)], f, kDim, 0);
              double dot = 0;
              for (int d = 0; d < kDim; ++d) dot += a[d] * b[d];
              weights.push_back(std::exp(dot * twin.scale));
              sum += weights.back();
            }
            for (size_t i = 0; i < seen.size(); ++i) {
              for (int d = 0; d < kDim; ++d) out[d] += weights[i] / sum * twin.v[twin.KeyAt(head, seen[i]) + d];
            }
            for (int d = 0; d < kDim; ++d) {
              ASSERT_NEAR(problem.out(row, head * kDim + d), out[d], 1e-5)
                  << text << " row " << row << " of " << size << " heads " << heads << "/" << kv_heads;
            }
          }
        }
      }
    }
  }
}

TEST(AttentionFar, WithoutFarKeysBitsArePlain) {
  Rng rng{.seed = 9, .stream = 1};
  const TokenLayout layout = RandomLayout(rng, 0, 150, false);
  for (const Isa isa : AvailableIsas()) {
    const UseIsa use(isa);
    FarProblem near({.heads = 4, .kv_heads = 2, .dim = 32}, {AttnPattern{}}, {layout}, {150}, 5, 150);
    EXPECT_FALSE(near.schedules[0].has_far());
    AttentionForward(near.Args());
    const std::vector<char> folded = near.out.Bytes();
    near.Forward();
    EXPECT_EQ(folded, near.out.Bytes()) << Name(isa);
  }
}

TEST(AttentionFar, TheSameQueryTwiceIsPlainAttention) {
  Rng rng{.seed = 9, .stream = 2};
  for (const char* text : {"full", "window=30 sinks=2", "scope=doc anchors=1"}) {
    const AttnPattern pattern = ParsePattern(text);
    const TokenLayout layout = RandomLayout(rng, pattern.anchors, 330, false);
    FarProblem problem({.heads = 2, .kv_heads = 1, .dim = 32}, {pattern}, {layout}, {330}, 6, 20);
    AttentionArgs args = problem.Args();
    args.q_far = args.q;
    AttentionForward(args);
    const std::vector<double> folded = problem.out.Values();
    problem.Forward();
    const std::vector<double> plain = problem.out.Values();
    for (size_t i = 0; i < plain.size(); ++i) ASSERT_NEAR(folded[i], plain[i], 2e-6) << text << " " << i;
  }
}

TEST(AttentionFar, DoesNotDependOnThreadsOrOnTheOtherSequences) {
  Rng rng{.seed = 10, .stream = 1};
  std::vector<TokenLayout> layouts;
  for (const int size : {300, 40, 310}) layouts.push_back(RandomLayout(rng, 0, size, false));
  FarProblem all({.heads = 4, .kv_heads = 2, .dim = 40, .dtype = DType::kBF16},
                 {AttnPattern{}, AttnPattern{}, ParsePattern("window=60 sinks=3 sep")}, layouts, {300, 40, 200}, 7, 90);
  EXPECT_FALSE(all.schedules[1].has_far());  // a sequence without far keys beside others
  std::vector<std::vector<char>> results;
  for (const int threads : {1, 2, 3}) {
    const UseThreads use(threads);
    AttentionForward(all.Args());
    results.push_back(all.out.Bytes());
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
  const std::vector<AttnSequence> sequences = all.sequences;
  for (const AttnSequence& sequence : sequences) {
    all.sequences = {sequence};
    AttentionForward(all.Args());
  }
  EXPECT_EQ(results[0], all.out.Bytes());
}

TEST(AttentionFar, DecodeMatchesTheTwin) {
  constexpr int kHeads = 6, kKvHeads = 2, kDim = 24;
  const std::vector<std::pair<int, int>> slots_and_far = {{1, 0},   {7, 7},       {200, 130},  {300, 128},
                                                          {129, 1}, {2100, 2048}, {2100, 700}, {2500, 2499}};
  for (const DType dtype : {DType::kF32, DType::kBF16}) {
    const auto count = static_cast<int64_t>(slots_and_far.size());
    TestMat q(count, kHeads * kDim, dtype, 1, 1.0, 3), q_far(count, kHeads * kDim, dtype, 2, 1.0, 1);
    TestMat out(count, kHeads * kDim, dtype, 3, 1.0, 3);
    std::vector<TestMat> keys, values;
    keys.reserve(slots_and_far.size()), values.reserve(slots_and_far.size());
    std::vector<DecodeArgs::Row> rows;
    std::vector<NaiveAttention> twins;
    const AttnShape shape{.heads = kHeads, .kv_heads = kKvHeads, .head_dim = kDim, .scale = 0.2f};
    for (const auto& [slots, far] : slots_and_far) {
      const auto r = static_cast<int64_t>(rows.size());
      keys.emplace_back(slots, kKvHeads * kDim, dtype, 4 + rows.size(), 1.0, 5);
      values.emplace_back(slots, kKvHeads * kDim, dtype, 40 + rows.size(), 1.0, 7);
      rows.push_back({.k = keys.back(), .v = values.back(), .far = far});
      NaiveAttention& twin = twins.emplace_back();
      twin = {.rows = 1,
              .keys = slots,
              .heads = kHeads,
              .kv_heads = kKvHeads,
              .dim = kDim,
              .scale = shape.scale,
              .visible = [](int64_t, int64_t) { return true; },
              .q = {},
              .k = keys.back().Values(),
              .v = values.back().Values(),
              .far = [far = far](int64_t, int64_t key) { return key < far; }};
      for (int64_t c = 0; c < q.cols(); ++c) twin.q.push_back(q(r, c)), twin.q_far.push_back(q_far(r, c));
      twin.Forward();
    }
    for (const Isa isa : AvailableIsas()) {
      const UseIsa use(isa);
      AttentionDecode({.shape = shape, .q = q, .out = out, .rows = rows, .q_far = q_far});
      out.ExpectMarginUntouched();
      for (size_t r = 0; r < rows.size(); ++r) {
        for (int64_t c = 0; c < q.cols(); ++c) {
          const double want = twins[r].out[c];
          const double bound = testing::AttentionTolerance(DType::kF32, dtype, kDim, 20.0, twins[r].out_size[c], want);
          ASSERT_NEAR(out(static_cast<int64_t>(r), c), want, bound) << Name(isa) << " row " << r;
        }
      }
    }
  }
}

TEST(AttentionFar, WhatIsRefused) {
  Rng rng{.seed = 11, .stream = 1};
  const std::vector<float> slopes = {0.5f, 0.25f};
  FarProblem problem({.heads = 2, .kv_heads = 1, .dim = 16}, {AttnPattern{}}, {RandomLayout(rng, 0, 9, false)}, {9}, 1,
                     4);
  const auto fails = [&](const auto& edit, ErrorKind kind, const std::string& text) {
    AttentionArgs args = problem.Args();
    edit(args);
    try {
      AttentionForward(args);
      ADD_FAILURE() << "took it; wanted: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind);
      EXPECT_NE(std::string(error.what()).find(text), std::string::npos) << error.what();
    }
  };
  fails([&](AttentionArgs& a) { a.shape.slopes = slopes.data(); }, ErrorKind::kUnsupported, "no biases by distance");
  fails([](AttentionArgs& a) { a.shape.softmax.kind = SoftmaxKind::kSelfAdjust; }, ErrorKind::kUnsupported,
        "the standard softmax alone");
  fails([](AttentionArgs& a) { a.q_far.rows = 8; }, ErrorKind::kUsage, "q_far");
  const DecodeArgs::Row row{.k = problem.k, .v = problem.v, .far = 3};
  EXPECT_THROW(AttentionDecode({.shape = problem.OpShape(),
                                .q = ConstMat(problem.q).Rows(0, 1),
                                .out = problem.out.view().Rows(0, 1),
                                .rows = {&row, 1}}),
               Error);
}

}  // namespace
}  // namespace hawser
