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

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

// Returns log sum exp(logits) - logits[target]. With `gradient` the row becomes coefficient * (softmax - onehot): as
// f32 in place or, with `low`, as bf16 in the first half of the same memory (element i is written at byte 2i after
// everything up to byte 4i + 3 was read).
float SoftmaxRow(float* logits, int64_t n, int64_t target, bool gradient, float coefficient, bool low) {
  const Row row = F32Row(logits);
  const DF d;
  const float picked = logits[target];
  VF largest = Splat(-std::numeric_limits<float>::infinity());
  int64_t i = 0;
  for (; i + Lanes() <= n; i += Lanes()) largest = hn::Max(largest, hn::LoadU(d, logits + i));
  float top = MaxLanes(largest);
  for (; i < n; ++i) top = std::max(top, logits[i]);
  const VF shift = Splat(top);
  const float sum = SumRow(n, [&](int64_t at) HWY_ATTR {
    VF e = Exp(hn::Sub(Get(row, at, n), shift));
    if (at + Lanes() > n) e = hn::IfThenElseZero(hn::FirstN(d, static_cast<size_t>(n - at)), e);
    if (gradient) Put(e, row, at, n);
    return e;
  });
  if (gradient) {
    const float at_target = coefficient * (logits[target] / sum - 1.0f);
    const VF scale = Splat(coefficient / sum);
    const Row to{logits, low};
    for (int64_t at = 0; at < n; at += Lanes()) Put(hn::Mul(Get(row, at, n), scale), to, at, n);
    if (low) {
      reinterpret_cast<bf16*>(logits)[target] = ToBF16(at_target);
    } else {
      logits[target] = at_target;
    }
  }
  return top + std::log(sum) - picked;
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(SoftmaxRow);

int64_t CrossEntropyChunk(int64_t vocab) {
  const int64_t rows = (int64_t{8} << 20) / 4 / std::max<int64_t>(1, vocab);
  return rows > 16 ? rows / 16 * 16 : std::max<int64_t>(1, rows);
}

CrossEntropyResult CrossEntropy(const CrossEntropyArgs& args, MatMulEngine& matmul, Scratch& scratch) {
  const int64_t rows = args.x.rows, vocab = args.weight.rows;
  const bool gradient = !args.dx.empty() || !args.dweight.empty();
  const bool low = args.x.dtype == DType::kBF16;
  const auto weight = [&](int64_t t) {
    return args.targets[t] < 0 ? 0.0f : args.weights == nullptr ? 1.0f : args.weights[t];
  };
  if (args.nll != nullptr) std::fill_n(args.nll, rows, 0.0f);
  if (!args.dx.empty()) FillMat(args.dx, 0.0f);

  CrossEntropyResult result;
  const int64_t chunk = std::min(CrossEntropyChunk(vocab), std::max<int64_t>(1, rows));
  float* logits = scratch.Get<float>(chunk * (vocab + 1));
  float* nll = logits + chunk * vocab;
  const auto softmax = HWY_DYNAMIC_DISPATCH(SoftmaxRow);
  for (int64_t begin = 0; begin < rows;) {
    if (weight(begin) == 0.0f) {
      ++begin;
      continue;
    }
    int64_t end = std::min(begin + chunk, rows);
    while (weight(end - 1) == 0.0f) --end;
    const int64_t count = end - begin;
    matmul.Run({.a = args.x.Rows(begin, count),
                .b = args.weight,
                .trans_b = true,
                .c = {logits, DType::kF32, count, vocab, vocab}});
    ParallelChunks(count, RowGrain(vocab), [&](int64_t from, int64_t to) {
      for (int64_t r = from; r < to; ++r) {
        const float w = weight(begin + r);
        float* row = logits + r * vocab;
        if (w == 0.0f) {
          std::fill_n(row, vocab, 0.0f);
          nll[r] = 0.0f;
        } else {
          nll[r] = softmax(row, vocab, args.targets[begin + r], gradient, w * args.grad_scale, low);
        }
      }
    });
    for (int64_t r = 0; r < count; ++r) {
      const double w = weight(begin + r);
      if (w == 0.0) continue;
      result.loss += w * static_cast<double>(nll[r]);
      result.weight += w;
      if (args.nll != nullptr) args.nll[begin + r] = nll[r];
    }
    if (gradient) {
      const ConstMat dlogits{logits, args.x.dtype, count, vocab, low ? 2 * vocab : vocab};
      if (!args.dx.empty()) matmul.Run({.a = dlogits, .b = args.weight, .c = args.dx.Rows(begin, count)});
      if (!args.dweight.empty()) {
        matmul.Run(
            {.a = dlogits, .trans_a = true, .b = args.x.Rows(begin, count), .c = args.dweight, .accumulate = true});
      }
    }
    begin = end;
  }
  return result;
}

}  // namespace hawser
#endif
