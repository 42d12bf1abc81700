#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/loss.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/cpu/loss.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "hawser/base/parallel.h"
#include "hawser/cpu/elementwise.h"
#include "hawser/cpu/linear.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

// Folds a row's logits into the running `top` = max and `sum` = sum of exp(logit - top); with `keep` the row becomes
// those powers.
void FoldLogits(float* logits, int64_t n, float& top, float& sum, bool keep) {
  const DF d;
  const float before = top;
  VF largest = Splat(top);
  int64_t i = 0;
  for (; i + Lanes() <= n; i += Lanes()) largest = hn::Max(largest, hn::LoadU(d, logits + i));
  top = MaxLanes(largest);
  for (; i < n; ++i) top = std::max(top, logits[i]);
  const VF shift = Splat(top);
  const float added = SumRow(n, [&](int64_t at) HWY_ATTR {
    const VF e = Exp(hn::Sub(Get(F32Row(logits), at, n), shift));
    if (keep) Put(e, F32Row(logits), at, n);
    return at + Lanes() <= n ? e : hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(n - at)), e);
  });
  sum = (sum == 0.0f ? 0.0f : sum * std::exp(before - top)) + added;
}

// The row, logits or with `kept` their powers from above, becomes coefficient * exp(logit - top): as f32 in place or,
// with `low`, as bf16 in the first half of the same memory (element i is written at byte 2i after everything up to byte
// 4i + 3 was read). What is below 2^-100 of the largest becomes 0: products of subnormal numbers are a hundred times
// slower and nothing of them would remain.
// With a cap the row holds capped logits l, and what comes out is also multiplied by the slope of the cap, 1 -
// (l/cap)^2.
void SoftmaxRow(float* logits, int64_t n, float top, float coefficient, float cap, bool low, bool kept) {
  const VF shift = Splat(top), scale = Splat(coefficient), inverse = Splat(cap > 0.0f ? 1.0f / cap : 0.0f);
  const hawser::Row to{logits, low};
  for (int64_t i = 0; i < n; i += Lanes()) {
    const VF v = Get(F32Row(logits), i, n);
    const VF e = kept ? v : Exp(hn::Sub(v, shift));
    VF out = hn::Mul(e, scale);
    if (cap > 0.0f) {
      const VF part = hn::Mul(v, inverse);
      out = hn::Mul(out, hn::NegMulAdd(part, part, Splat(1.0f)));
    }
    Put(hn::IfThenZeroElse(hn::Lt(e, Splat(0x1p-100f)), out), to, i, n);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(FoldLogits);
HWY_EXPORT(SoftmaxRow);

CrossEntropyTile ChooseCrossEntropyTile(int64_t tokens, int64_t vocab, bool gradients) {
  constexpr int64_t kElements = (int64_t{8} << 20) / 4, kMostElements = 16 * kElements;
  constexpr int64_t kFewTokens = 256, kBlock = 1024;
  for (const int64_t elements : {kElements, kMostElements}) {
    const int64_t whole = std::max<int64_t>(1, elements / std::max<int64_t>(1, vocab));  // tokens with all their logits
    if (whole >= kFewTokens || whole >= tokens) {
      return {std::min({whole, tokens, elements == kElements ? whole : kBlock}), vocab};
    }
    if (!gradients) break;
  }
  const int64_t block = std::min(kBlock, tokens);
  return {block, std::min(vocab, kElements / block / 64 * 64)};
}

namespace {

/// min(exp(gained), most), without ever forming more.
float Gain(float gained, float most, GainCounts* counts) {
  const bool at_most = gained >= std::log(most);
  const float gain = at_most ? most : std::exp(gained);
  ++counts->rows;
  counts->at_most += at_most ? 1 : 0;
  counts->below_one += gain < 1 ? 1 : 0;
  counts->sum += static_cast<double>(gain);
  return gain;
}

}  // namespace

struct CrossEntropyEngine::Row {
  float weight;  // 0: left out
  float top, sum, picked;
};

CrossEntropyResult CrossEntropyEngine::Run(const CrossEntropyArgs& args, MatMulEngine& matmul) {
  const int64_t tokens = args.x.rows, width = args.x.cols, vocab = args.weight.rows;
  const bool low = args.x.dtype == DType::kBF16;
  const bool want_dx = !args.dx.empty(), want_dweight = !args.dweight.empty();
  const auto weight = [&](int64_t t) {
    return args.targets[t] < 0 ? 0.0f : args.weights == nullptr ? 1.0f : args.weights[t];
  };
  if (args.nll != nullptr) std::fill_n(args.nll, tokens, 0.0f);
  if (args.greatest != nullptr) std::fill_n(args.greatest, tokens, uint8_t{0});
  if (want_dx) FillMat(args.dx, 0.0f);

  const CrossEntropyTile tile = ChooseCrossEntropyTile(tokens, vocab, want_dx || want_dweight);
  const int64_t panels = tile.panel == 0 ? 0 : (vocab + tile.panel - 1) / tile.panel;
  // Powers once, where no second product overwrites them and the slope of a cap does not ask for the logits.
  const bool keep = panels == 1 && (want_dx || want_dweight) && args.logit_cap == 0.0f;
  float* logits = logits_.Get<float>(tile.tokens * tile.panel);
  Row* rows = rows_.Get<Row>(tile.tokens);
  const auto fold = HWY_DYNAMIC_DISPATCH(FoldLogits);
  const auto softmax = HWY_DYNAMIC_DISPATCH(SoftmaxRow);

  CrossEntropyResult result;
  for (int64_t begin = 0; begin < tokens;) {
    if (weight(begin) == 0.0f) {  // runs of tokens left out cost nothing
      ++begin;
      continue;
    }
    int64_t end = std::min(begin + tile.tokens, tokens);
    const int64_t most = end;
    while (weight(end - 1) == 0.0f) --end;
    end = std::min(most, begin + (end - begin + 63) / 64 * 64);  // few row counts, so few primitives
    const int64_t count = end - begin;
    const ConstMat x = args.x.Rows(begin, count);
    // Rows of the head in the dtype of x.
    const auto head = [&](int64_t first, int64_t n) -> ConstMat {
      if (args.weight.dtype == args.x.dtype) return args.weight.Rows(first, n);
      const Mat panel{head_.Get<float>(n * width), args.x.dtype, n, width, width};
      DecodeMat(args.weight.Rows(first, n), panel);
      return panel;
    };
    const auto multiply = [&](int64_t first, int64_t n) {
      const Mat to{logits, DType::kF32, count, n, n};
      matmul.Run({.a = x, .b = head(first, n), .trans_b = true, .c = to});
      CapMat(to, args.logit_scale, args.logit_cap);
    };

    for (int64_t r = 0; r < count; ++r)
      rows[r] = {weight(begin + r), -std::numeric_limits<float>::infinity(), 0.0f, 0.0f};
    for (int64_t p = 0; p < panels; ++p) {
      const int64_t first = p * tile.panel, n = std::min(tile.panel, vocab - first);
      multiply(first, n);
      ParallelChunks(count, RowGrain(n), [&](int64_t from, int64_t until) {
        for (int64_t r = from; r < until; ++r) {
          if (rows[r].weight == 0.0f) continue;
          const int64_t target = args.targets[begin + r] - first;
          if (target >= 0 && target < n) rows[r].picked = logits[r * n + target];
          fold(logits + r * n, n, rows[r].top, rows[r].sum, keep);
        }
      });
    }
    for (int64_t r = 0; r < count; ++r) {
      if (rows[r].weight == 0.0f) continue;
      const float nll = rows[r].top - rows[r].picked + std::log(rows[r].sum);
      result.nats += static_cast<double>(rows[r].weight) * static_cast<double>(nll);
      result.weight += static_cast<double>(rows[r].weight);
      if (args.reference != nullptr && !std::isnan(args.reference[begin + r])) {
        rows[r].weight *= Gain(args.reference[begin + r] - nll, args.most, &result.gains);
      }
      result.loss += static_cast<double>(rows[r].weight) * static_cast<double>(nll);
      if (args.nll != nullptr) args.nll[begin + r] = nll;
      if (args.greatest != nullptr) args.greatest[begin + r] = rows[r].picked >= rows[r].top ? 1 : 0;
    }

    // The gradient of x is summed over panels in f32, beside dx where that is narrower.
    const Mat to = want_dx ? args.dx.Rows(begin, count) : Mat{};
    const bool beside = want_dx && panels > 1 && to.dtype != DType::kF32;
    const Mat dx = beside ? Mat{dx_.Get<float>(count * width), DType::kF32, count, width, width} : to;
    for (int64_t p = 0; p < panels && (want_dx || want_dweight); ++p) {
      const int64_t first = p * tile.panel, n = std::min(tile.panel, vocab - first);
      if (panels > 1) multiply(first, n);
      ParallelChunks(count, RowGrain(n), [&](int64_t from, int64_t until) {
        for (int64_t r = from; r < until; ++r) {
          float* row = logits + r * n;
          if (rows[r].weight == 0.0f) {
            std::fill_n(row, n, 0.0f);
            continue;
          }
          const float scale = rows[r].weight * args.grad_scale * args.logit_scale;
          softmax(row, n, rows[r].top, scale / rows[r].sum, args.logit_cap, low, keep);
          const int64_t target = args.targets[begin + r] - first;
          if (target < 0 || target >= n) continue;
          const float part = args.logit_cap > 0.0f ? rows[r].picked / args.logit_cap : 0.0f, slope = 1.0f - part * part;
          const float at_target = scale * slope * (std::exp(rows[r].picked - rows[r].top) / rows[r].sum - 1.0f);
          if (low) {
            reinterpret_cast<bf16*>(row)[target] = ToBF16(at_target);
          } else {
            row[target] = at_target;
          }
        }
      });
      const ConstMat dlogits{logits, args.x.dtype, count, n, low ? 2 * n : n};
      if (want_dx) matmul.Run({.a = dlogits, .b = head(first, n), .c = dx, .accumulate = p > 0});
      if (want_dweight) {
        matmul.Run({.a = dlogits, .trans_a = true, .b = x, .c = args.dweight.Rows(first, n), .accumulate = true});
      }
    }
    if (beside) CopyMat(dx, to);
    begin = end;
  }
  return result;
}

}  // namespace hawser
#endif
