// testing/attention_problem.h - attention over random operands, held against its f64 twin.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/cpu/attention.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/ops/attention_reference.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser::testing {

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

struct AttentionShape {
  int heads = 2, kv_heads = 1, dim = 16;
  DType dtype = DType::kF32;   // q, k, v
  DType stored = DType::kF32;  // out and gradients
};

/// Sequences with their own layouts, laid out one after the other in q and k.
struct AttentionProblem {
  AttentionProblem(AttentionShape s, std::vector<AttnPattern> p, std::vector<TokenLayout> l, std::vector<int> queries,
                   uint64_t seed, double deviation = 1.0)
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
  AttentionProblem(AttentionShape s, const AttnPattern& pattern, const TokenLayout& layout, uint64_t seed,
                   double deviation = 1.0)
      : AttentionProblem(s, std::vector{pattern}, std::vector{layout}, std::vector{layout.size}, seed, deviation) {}
  AttentionProblem(const AttentionProblem&) = delete;

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

  AttnShape OpShape() const {
    return {.heads = shape.heads,
            .kv_heads = shape.kv_heads,
            .head_dim = shape.dim,
            .scale = scale,
            .slopes = slopes.empty() ? nullptr : slopes.data(),
            .softcap = softcap,
            .bf16_bias = bf16_bias};
  }
  static const int32_t* OrNull(const std::vector<int32_t>& places) { return places.empty() ? nullptr : places.data(); }
  /// Places of the keys, those of the queries being the same.
  void SetPlaces(std::vector<int32_t> places) {
    key_place = std::move(places);
    query_place.clear();
    for (size_t i = 0; i < sequences.size(); ++i) {
      for (int32_t r = 0; r < schedules[i].num_queries; ++r) {
        query_place.push_back(key_place[static_cast<size_t>(sequences[i].key_begin + schedules[i].QueryKey(r))]);
      }
    }
  }

  void Forward() {
    AttentionForward({.shape = OpShape(),
                      .q = q,
                      .k = k,
                      .v = v,
                      .out = out,
                      .lse = lse.data(),
                      .sequences = sequences,
                      .query_place = OrNull(query_place),
                      .key_place = OrNull(key_place)});
  }
  void Backward() {
    AttentionBackward({.shape = OpShape(),
                       .q = q,
                       .k = k,
                       .v = v,
                       .out = out,
                       .dout = dout,
                       .lse = lse.data(),
                       .dq = dq,
                       .dk = dk,
                       .dv = dv,
                       .sequences = sequences,
                       .query_place = OrNull(query_place),
                       .key_place = OrNull(key_place)});
  }

  /// The twin, with the mask from the predicate of attn/pattern.h and not from the schedule.
  NaiveAttention Twin() const {
    return {
        .rows = rows,
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
        .v = v.Values(),
        .softcap = softcap,
        .slopes = bf16_bias == 0.0f ? std::vector<double>(slopes.begin(), slopes.end()) : std::vector{1.0 * bf16_bias},
        .distance = [this](int64_t row, int64_t key) { return Distance(row, key); }};
  }
  /// Of a query row from a key row of its sequence, in places; with biases in BF16, for one head, in biases.
  double Distance(int64_t row, int64_t key) const {
    size_t i = sequences.size() - 1;
    while (sequences[i].query_begin > row) --i;
    const int64_t query = schedules[i].QueryKey(static_cast<int32_t>(row - sequences[i].query_begin));
    const int64_t query_at = query_place.empty() ? query : query_place[static_cast<size_t>(row)];
    const int64_t key_at = key_place.empty() ? key - sequences[i].key_begin : key_place[static_cast<size_t>(key)];
    if (bf16_bias == 0.0f) return static_cast<double>(query_at - key_at);
    const auto rounded = [](double x) { return static_cast<double>(ToF32(ToBF16(static_cast<float>(x)))); };
    const auto bias = [&](int64_t at) { return rounded(rounded(slopes[0]) * rounded(static_cast<double>(at))); };
    return bias(query_at) - bias(key_at);
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
    if (!slopes.empty()) text += fmt::format("; slopes, places {}", key_place.empty() ? "of keys" : "given");
    if (softcap > 0) text += fmt::format("; softcap {}", softcap);
    return text;
  }

  AttentionShape shape;
  std::vector<AttnPattern> patterns;
  std::vector<TokenLayout> layouts;
  std::vector<AttnSchedule> schedules;
  std::vector<AttnSequence> sequences;
  int64_t rows, keys;
  TestMat q, k, v, out, dout, dq, dk, dv;
  std::vector<float> lse;
  float scale;
  float bf16_bias = 0.0f;     // of AttnShape; not 0 with one head alone
  std::vector<float> slopes;  // of AttnShape and AttentionArgs, empty for null
  float softcap = 0;
  std::vector<int32_t> query_place, key_place;
  double score = 0;  // largest |lse|
};

/// Documents of random lengths behind `prefix` tokens, every eighth token or so a separator.
inline TokenLayout RandomLayout(Rng& rng, int prefix, int size, bool padding) {
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

}  // namespace hawser::testing
