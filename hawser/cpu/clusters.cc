#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/clusters.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/cpu/clusters.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/cpu/tile_kernels.h"

#ifndef HAWSER_CPU_CLUSTERS_ONCE
#define HAWSER_CPU_CLUSTERS_ONCE
namespace hawser {

/// Of a row of logits: the greatest of clusters with keys, and sum_j n_j exp(a_j - max).
struct ExpSum {
  float max, sum;
};

}  // namespace hawser
#endif

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

ExpSum ExpRow(const float* logits, const float* counts, float* exps, int64_t n) {
  const VF none = Splat(-std::numeric_limits<float>::infinity());
  VF most = none;
  for (int64_t j = 0; j < n; j += Lanes()) {
    const auto there = hn::Gt(Get(F32Row(counts), j, n), Zero());
    most = hn::Max(most, hn::IfThenElse(there, Get(F32Row(logits), j, n), none));
  }
  const float max = MaxLanes(most);
  const float sum = SumRow(n, [&](int64_t j) {
    const VF count = Get(F32Row(counts), j, n);
    const VF below = hn::Sub(Get(F32Row(logits), j, n), Splat(max));
    const VF e =
        hn::IfThenElseZero(hn::Gt(count, Zero()), hn::IfThenElse(hn::IsNaN(below), below, Exp(below)));  // NaN stays
    Put(e, F32Row(exps), j, n);
    return hn::Mul(count, e);
  });
  return {max, sum};
}

void AddScaled(const float* x, float scale, float* y, int64_t n) {
  for (int64_t j = 0; j < n; j += Lanes()) {
    Put(hn::MulAdd(Get(F32Row(x), j, n), Splat(scale), Get(F32Row(y), j, n)), F32Row(y), j, n);
  }
}

/// y = log y where y >= least; whether that was so for every cluster that has keys.
bool LogRow(float* y, const float* counts, float least, int64_t n) {
  bool all = true;
  for (int64_t j = 0; j < n; j += Lanes()) {
    const VF v = Get(F32Row(y), j, n);
    const auto enough = hn::Ge(v, Splat(least));
    all = all && hn::AllTrue(DF(), hn::Or(enough, hn::Not(hn::Gt(Get(F32Row(counts), j, n), Zero()))));
    Put(hn::IfThenElse(enough, hn::Log(DF(), hn::IfThenElse(enough, v, Splat(1.0f))), v), F32Row(y), j, n);
  }
  return all;
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(ExpRow);
HWY_EXPORT(AddScaled);
HWY_EXPORT(LogRow);

void DotRows(ConstMat x, ConstMat rows, std::span<const KvRange> runs, Mat to) {
  if (x.rows == 0) return;
  constexpr int32_t kTile = 32;  // rows; those of the next tile are asked for beside them
  const TileKernels& t = GetTileKernels(CurrentIsa(), DType::kF32);
  int64_t column = 0;
  for (size_t i = 0; i < runs.size(); ++i) {
    for (int32_t row = runs[i].begin, n = 0; row < runs[i].end; row += n, column += n) {
      n = std::min(kTile, runs[i].end - row);
      const int32_t next = row + n < runs[i].end ? row + n : i + 1 < runs.size() ? runs[i + 1].begin : -1;
      t.decode_scores({.x = const_cast<float*>(x.Row<float>(0)),  // only read here
                       .ldx = x.ld,
                       .count = static_cast<int32_t>(x.rows),
                       .rows = rows.Row<float>(row),
                       .dtype = DType::kF32,
                       .ld = rows.ld,
                       .n = n,
                       .dim = static_cast<int32_t>(x.cols),
                       .s = to.Row<float>(0) + column,
                       .lds = to.ld,
                       .next = next < 0 ? nullptr : rows.Row<float>(next)});
    }
  }
}

void ClusterScores(ConstMat logits, std::span<const int32_t> counts, std::span<float> scores) {
  constexpr float kLeast = 1e-30f, kNone = -std::numeric_limits<float>::infinity();
  const auto n = static_cast<int64_t>(counts.size());
  if (n == 0) return;
  thread_local std::vector<float> weights, exps, log_sums, means;  // n_j; exp(A_ij - max_i); log Z_i; exp(scores)
  weights.assign(counts.begin(), counts.end());
  exps.resize(counts.size());
  log_sums.clear();
  std::ranges::fill(scores, 0.0f);
  const auto exp_row = HWY_DYNAMIC_DISPATCH(ExpRow);
  const auto add_scaled = HWY_DYNAMIC_DISPATCH(AddScaled);
  for (int64_t i = 0; i < logits.rows; ++i) {
    const ExpSum of_row = exp_row(logits.Row<float>(i), weights.data(), exps.data(), n);
    log_sums.push_back(of_row.max + std::log(of_row.sum));
    add_scaled(exps.data(), 1.0f / (of_row.sum * static_cast<float>(logits.rows)), scores.data(), n);
  }
  means.assign(scores.begin(), scores.end());
  const bool all = HWY_DYNAMIC_DISPATCH(LogRow)(scores.data(), weights.data(), kLeast, n);
  for (size_t j = 0; j < scores.size(); ++j) {
    if (counts[j] == 0) {
      scores[j] = kNone;
    } else if (!all && !(means[j] >= kLeast)) {  // f32 has lost digits: once more around the greatest term
      float max = kNone;
      const auto term = [&](int64_t i) { return logits.Row<float>(i)[j] - log_sums[static_cast<size_t>(i)]; };
      for (int64_t i = 0; i < logits.rows; ++i) max = std::max(max, term(i));
      double sum = 0;
      for (int64_t i = 0; i < logits.rows; ++i) sum += std::exp(static_cast<double>(term(i)) - max);
      scores[j] = max + static_cast<float>(std::log(sum / static_cast<double>(logits.rows)));
      if (!std::isfinite(scores[j])) {
        Fail(ErrorKind::kNumeric, "a cluster of a prefix has the score {}; the prefix or the weights may be damaged",
             scores[j]);
      }
    }
  }
}

}  // namespace hawser
#endif
