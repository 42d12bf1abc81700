#include "hawser/cpu/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <tuple>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/ops/attention_reference.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser {
namespace {

using ::hawser::testing::AttentionTolerance;
using ::hawser::testing::TestMat;

/// Kernels of one instruction set, for a scope.
class UseIsa {
 public:
  explicit UseIsa(Isa isa) : before_(CurrentIsa()) { SetIsa(isa); }
  ~UseIsa() { SetIsa(before_); }

 private:
  Isa before_;
};

class UseThreads {
 public:
  explicit UseThreads(int threads) : before_(NumThreads()) { SetThreads(threads); }
  ~UseThreads() { SetThreads(before_); }

 private:
  int before_;
};

struct Shape {
  int heads = 2, kv_heads = 1, dim = 16;
  DType dtype = DType::kF32;   // q, k, v
  DType stored = DType::kF32;  // out and gradients
};

/// Sequences with their own layouts, laid out one after the other in q and k.
struct Problem {
  Problem(Shape s, std::vector<AttnPattern> p, std::vector<TokenLayout> l, std::vector<int> queries, uint64_t seed,
          double deviation = 1.0)
      : shape(s),
        patterns(std::move(p)),
        layouts(std::move(l)),
        rows(Sum(queries)),
        keys(SumSizes(layouts)),
        q(rows, s.heads * s.dim, s.dtype, seed, deviation, 5),
        k(keys, s.kv_heads * s.dim, s.dtype, seed + 1, deviation, 3),
        v(keys, s.kv_heads * s.dim, s.dtype, seed + 2, 1.0, 1),
        out(rows, s.heads * s.dim, s.stored, seed + 3, 1.0, 2),
        dout(rows, s.heads * s.dim, s.stored, seed + 4, 1.0, 2),
        dq(rows, s.heads * s.dim, s.stored, seed + 5, 1.0, 1),
        dk(keys, s.kv_heads * s.dim, s.stored, seed + 6, 1.0, 1),
        dv(keys, s.kv_heads * s.dim, s.stored, seed + 7, 1.0, 4),
        lse(static_cast<size_t>(rows * s.heads), -7.0f),
        scale(static_cast<float>(1.0 / std::sqrt(s.dim))) {
    int64_t row = 0, key = 0;
    schedules.reserve(patterns.size());
    for (size_t i = 0; i < patterns.size(); ++i) {
      schedules.push_back(CompileSchedule(patterns[i], layouts[i], queries[i]));
      sequences.push_back({.query_begin = row, .key_begin = key, .schedule = &schedules.back()});
      row += queries[i];
      key += layouts[i].size;
    }
  }
  Problem(Shape s, const AttnPattern& pattern, const TokenLayout& layout, uint64_t seed, double deviation = 1.0)
      : Problem(s, std::vector{pattern}, std::vector{layout}, std::vector{layout.size}, seed, deviation) {}
  Problem(const Problem&) = delete;

  static int64_t Sum(const std::vector<int>& v) {
    int64_t sum = 0;
    for (const int x : v) sum += x;
    return sum;
  }
  static int64_t SumSizes(const std::vector<TokenLayout>& layouts) {
    int64_t sum = 0;
    for (const TokenLayout& layout : layouts) sum += layout.size;
    return sum;
  }

  void Forward() {
    AttentionForward({.q = q,
                      .k = k,
                      .v = v,
                      .out = out,
                      .lse = lse.data(),
                      .heads = shape.heads,
                      .kv_heads = shape.kv_heads,
                      .head_dim = shape.dim,
                      .scale = scale,
                      .sequences = sequences});
  }
  void Backward() {
    AttentionBackward({.q = q,
                       .k = k,
                       .v = v,
                       .out = out,
                       .dout = dout,
                       .lse = lse.data(),
                       .dq = dq,
                       .dk = dk,
                       .dv = dv,
                       .heads = shape.heads,
                       .kv_heads = shape.kv_heads,
                       .head_dim = shape.dim,
                       .scale = scale,
                       .sequences = sequences});
  }

  /// The twin, with the mask from the predicate of attn/pattern.h and not from the schedule.
  NaiveAttention Twin() const {
    return {.rows = rows,
            .keys = keys,
            .heads = shape.heads,
            .kv_heads = shape.kv_heads,
            .dim = shape.dim,
            .scale = scale,
            .visible =
                [this](int64_t row, int64_t key) {
                  for (size_t i = 0; i < sequences.size(); ++i) {
                    const int64_t r = row - sequences[i].query_begin, c = key - sequences[i].key_begin;
                    if (r < 0 || r >= schedules[i].num_queries) continue;
                    if (c < 0 || c >= schedules[i].num_keys) return false;
                    const int32_t query = schedules[i].QueryKey(static_cast<int32_t>(r));
                    return Visible(patterns[i], layouts[i], query, static_cast<int32_t>(c));
                  }
                  return false;
                },
            .q = q.Values(),
            .k = k.Values(),
            .v = v.Values()};
  }

  /// Every instruction set against the twin, forward and backward.
  void Check() {
    const UseThreads one(1);  // other tests show that their number does not matter
    NaiveAttention twin = Twin();
    twin.Forward();
    twin.Backward(dout.Values());
    score = 0;
    for (const double x : twin.lse) score = std::isinf(x) ? score : std::max(score, std::abs(x));
    // delta comes from `out` as it was stored.
    const DType coarser = shape.dtype == DType::kBF16 || shape.stored == DType::kBF16 ? DType::kBF16 : DType::kF32;
    for (const Isa isa : AvailableIsas()) {
      const UseIsa use(isa);
      Forward();
      Compare("out", out, twin.out, twin.out_size, shape.dtype);
      for (size_t i = 0; i < lse.size(); ++i) {
        if (std::isinf(twin.lse[i])) {
          ASSERT_EQ(lse[i], static_cast<float>(twin.lse[i])) << Describe();
        } else {
          ASSERT_NEAR(lse[i], twin.lse[i], 1e-5 * (4.0 + std::abs(twin.lse[i]))) << "lse " << i << " " << Describe();
        }
      }
      Backward();
      Compare("dq", dq, twin.dq, twin.dq_size, coarser);
      Compare("dk", dk, twin.dk, twin.dk_size, coarser);
      Compare("dv", dv, twin.dv, twin.dv_size, coarser);
    }
  }

  void Compare(const char* name, const TestMat& got, const std::vector<double>& want, const std::vector<double>& size,
               DType operands) const {
    int bad = 0;
    for (int64_t r = 0; r < got.rows(); ++r) {
      for (int64_t c = 0; c < got.cols(); ++c) {
        const size_t i = static_cast<size_t>(r * got.cols() + c);
        const double bound = AttentionTolerance(operands, shape.stored, shape.dim, score, size[i], want[i]);
        if (!(std::abs(got(r, c) - want[i]) <= bound) && ++bad <= 2) {
          ADD_FAILURE() << name << "[" << r << "," << c << "] = " << got(r, c) << ", want " << want[i] << " +- "
                        << bound << "\n"
                        << Describe();
        }
      }
    }
    EXPECT_EQ(bad, 0) << name << " of " << got.rows() * got.cols();
    got.ExpectMarginUntouched();
  }

  /// Everything that forward and backward write, as bytes.
  std::vector<std::vector<char>> Results() {
    Forward();
    Backward();
    const char* begin = reinterpret_cast<const char*>(lse.data());
    return {out.Bytes(), {begin, begin + lse.size() * sizeof(float)}, dq.Bytes(), dk.Bytes(), dv.Bytes()};
  }

  std::string Describe() const {
    std::string text = fmt::format("isa {} {}->{} heads {}/{} dim {}", Name(CurrentIsa()), Name(shape.dtype),
                                   Name(shape.stored), shape.heads, shape.kv_heads, shape.dim);
    for (size_t i = 0; i < patterns.size(); ++i) {
      text += fmt::format("; '{}' {} of {} keys", ToString(patterns[i]), schedules[i].num_queries, layouts[i].size);
    }
    return text;
  }

  Shape shape;
  std::vector<AttnPattern> patterns;
  std::vector<TokenLayout> layouts;
  std::vector<AttnSchedule> schedules;
  std::vector<AttnSequence> sequences;
  int64_t rows, keys;
  TestMat q, k, v, out, dout, dq, dk, dv;
  std::vector<float> lse;
  float scale;
  double score = 0;  // largest |lse|
};

TokenLayout RandomLayout(Rng& rng, int prefix, int size, bool padding) {
  std::vector<int> lengths;
  for (int left = size - prefix; left > 0;) {
    const int length = std::min<int>(left, 1 + static_cast<int>(rng.Below(rng.Below(3) == 0 ? 90 : 20)));
    lengths.push_back(length);
    left -= length;
  }
  TokenLayout layout = MakeLayout(prefix, lengths);
  layout.is_separator.resize(layout.size);
  for (auto& flag : layout.is_separator) flag = rng.Below(8) == 0;
  if (padding) {  // at the end, where a batch row is shorter than the others
    layout.is_padding.assign(layout.size, 0);
    for (int i = 1 + static_cast<int>(rng.Below(size / 2)); i > 0; --i) layout.is_padding[layout.size - i] = 1;
  }
  return layout;
}

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
  const int dims[] = {8, 16, 24, 40, 64, 80, 128, 256};
  const std::pair<int, int> heads[] = {{1, 1}, {2, 1}, {4, 2}, {3, 1}};
  Rng rng{.seed = 11, .stream = 1};
  for (int i = 0; i < 200 && !HasFailure(); ++i) {
    Shape shape{.dim = dims[i % 8]};
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

TEST(AttentionTest, T11_OneDocumentBehindTheAnchorIsFullAttention) {
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

TEST(AttentionTest, T8_T16_DocumentsDoNotTouchEachOther) {
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

TEST(AttentionTest, T15_EveryRowGivesTheAnchorAGradientThroughItsKeyAndValue) {
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

TEST(AttentionTest, T20_FoldedAnchorsEqualTheMaskedSoftmaxFromTheFirstDocumentOn) {
  for (const std::vector<int>& lengths : std::vector<std::vector<int>>{{1}, {62, 3}, {63, 70}, {64}, {140, 5}}) {
    for (const char* text : {"anchor", "scope=doc anchors=1 window=9"}) {
      Problem({.heads = 2, .kv_heads = 1, .dim = 16}, ParsePattern(text), MakeLayout(1, lengths), 9).Check();
      Problem({.dtype = DType::kBF16}, ParsePattern(text), MakeLayout(1, lengths), 10).Check();
    }
    Problem({}, ParsePattern("scope=doc anchors=5"), MakeLayout(5, lengths), 11).Check();
  }
}

TEST(AttentionTest, T18_T20_EqualScoresCountWhatARowSees) {
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

TEST(AttentionTest, T19_PaddingRowsAreZeroEverywhere) {
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

TEST(AttentionTest, E10_GradientOfAKeyComesFromItsWindowAlone) {
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
    AttentionArgs args{.q = problem.q,
                       .k = problem.k,
                       .v = problem.v,
                       .out = problem.out,
                       .lse = problem.lse.data(),
                       .heads = 2,
                       .kv_heads = 1,
                       .head_dim = 8,
                       .scale = 1.0f,
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
  fails([](AttentionArgs& a) { a.heads = 3, a.kv_heads = 2; }, "multiple of kv_heads");
  fails([](AttentionArgs& a) { a.head_dim = 4; }, "head_dim must be in [8, 256]");
  fails([](AttentionArgs& a) { a.scale = 0.0f; }, "scale must be positive");
  fails([](AttentionArgs& a) { a.head_dim = 16; }, "q");
  fails([](AttentionArgs& a) { a.k.dtype = DType::kBF16; }, "share a dtype");
  fails([](AttentionArgs& a) { a.v.rows = 3; }, "rows of k");
  std::vector<AttnSequence> moved = problem.sequences;
  moved[0].query_begin = 1;
  fails([&](AttentionArgs& a) { a.sequences = moved; }, "needs query rows [1, 5)");
  const std::vector<AttnSequence> twice = {problem.sequences[0], problem.sequences[0]};
  fails([&](AttentionArgs& a) { a.sequences = twice; }, "share query row");
}

}  // namespace
}  // namespace hawser
