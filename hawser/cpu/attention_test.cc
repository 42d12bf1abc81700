#include "hawser/cpu/attention.h"

#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/ops/attention_reference.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser {
namespace {

using testing::AttentionTolerance;
using testing::TestMat;

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

  /// Runs forward and backward and compares everything with the twin.
  void Check() {
    Forward();
    NaiveAttention twin = Twin();
    twin.Forward();
    double score = 0;
    for (const double x : twin.lse) score = std::isinf(x) ? score : std::max(score, std::abs(x));
    const auto compare = [&](const char* name, const TestMat& got, const std::vector<double>& want,
                             const std::vector<double>& size, DType operands) {
      int bad = 0;
      for (int64_t r = 0; r < got.rows(); ++r) {
        for (int64_t c = 0; c < got.cols(); ++c) {
          const size_t i = static_cast<size_t>(r * got.cols() + c);
          const double bound = AttentionTolerance(operands, shape.stored, shape.dim, score, size[i], want[i]);
          if (!(std::abs(got(r, c) - want[i]) <= bound) && ++bad <= 3) {
            ADD_FAILURE() << name << "[" << r << "," << c << "] = " << got(r, c) << ", want " << want[i] << " +- "
                          << bound << "\n"
                          << Describe();
          }
        }
      }
      EXPECT_EQ(bad, 0) << name << " of " << got.rows() * got.cols();
      got.ExpectMarginUntouched();
    };
    compare("out", out, twin.out, twin.out_size, shape.dtype);
    for (size_t i = 0; i < lse.size(); ++i) {
      if (std::isinf(twin.lse[i])) {
        ASSERT_EQ(lse[i], static_cast<float>(twin.lse[i])) << Describe();
      } else {
        ASSERT_NEAR(lse[i], twin.lse[i], 1e-5 * (4.0 + std::abs(twin.lse[i]))) << "lse of row " << i << Describe();
      }
    }
    Backward();
    twin.Backward(dout.Values());
    // delta comes from `out` as it was stored.
    const DType coarser = shape.dtype == DType::kBF16 || shape.stored == DType::kBF16 ? DType::kBF16 : DType::kF32;
    compare("dq", dq, twin.dq, twin.dq_size, coarser);
    compare("dk", dk, twin.dk, twin.dk_size, coarser);
    compare("dv", dv, twin.dv, twin.dv_size, coarser);
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
};

class AttentionTest : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    before_ = CurrentIsa();
    SetIsa(GetParam());
  }
  void TearDown() override { SetIsa(before_); }

 private:
  Isa before_;
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

TEST_P(AttentionTest, MatchesTheTwinOverRandomPatterns) {
  const int dims[] = {8, 16, 24, 40, 64, 80, 128, 256};
  const std::pair<int, int> heads[] = {{1, 1}, {2, 1}, {4, 2}, {3, 1}};
  Rng rng{.seed = 11, .stream = 1};
  for (int i = 0; i < 60 && !HasFailure(); ++i) {
    Shape shape{.dim = dims[i % 8]};
    std::tie(shape.heads, shape.kv_heads) = heads[rng.Below(4)];
    shape.dtype = rng.Below(2) ? DType::kBF16 : DType::kF32;
    shape.stored = rng.Below(2) ? DType::kBF16 : DType::kF32;
    std::vector<AttnPattern> patterns;
    std::vector<TokenLayout> layouts;
    std::vector<int> queries;
    for (int s = 1 + static_cast<int>(rng.Below(3)); s > 0; --s) {
      const int size = 2 + static_cast<int>(rng.Below(rng.Below(4) == 0 ? 300 : 70));
      const int prefix = static_cast<int>(rng.Below(3)) % size;
      layouts.push_back(RandomLayout(rng, prefix, size, rng.Below(4) == 0));
      patterns.push_back(RandomPattern(rng, prefix));
      queries.push_back(rng.Below(3) == 0 ? 1 + static_cast<int>(rng.Below(size)) : size);
    }
    Problem(shape, patterns, layouts, queries, 100 + i).Check();
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, AttentionTest, ::testing::ValuesIn(AvailableIsas()),
                         [](const auto& info) { return std::string(Name(info.param)); });

}  // namespace
}  // namespace hawser
