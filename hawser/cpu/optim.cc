#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/optim.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/cpu/optim.h"

#include <array>
#include <cmath>
#include <vector>

#include "hawser/base/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

// keep_* are 1 - beta; step_size = lr / (1 - beta1^t) and root = 1 / sqrt(1 - beta2^t) fold the bias corrections in:
// lr * mhat / (sqrt(vhat) + eps) = step_size * m / (sqrt(v) * root + eps).
void AdamWRange(const AdamWArgs& args, float step_size, float root, int64_t begin, int64_t end) {
  const VF beta1 = Splat(args.beta1), keep1 = Splat(1.0f - args.beta1);
  const VF beta2 = Splat(args.beta2), keep2 = Splat(1.0f - args.beta2);
  const VF scale = Splat(args.grad_scale), shrink = Splat(args.lr * args.decay);
  const Row w = F32Row(args.w), m = F32Row(args.m), v = F32Row(args.v);
  for (int64_t i = begin; i < end; i += Lanes()) {
    const VF g = hn::Mul(Get(F32Row(args.grad), i, end), scale);
    const VF mean = hn::MulAdd(beta1, Get(m, i, end), hn::Mul(keep1, g));
    const VF square = hn::MulAdd(beta2, Get(v, i, end), hn::Mul(keep2, hn::Mul(g, g)));
    const VF old = Get(w, i, end);
    const VF ratio = hn::Div(mean, hn::MulAdd(hn::Sqrt(square), Splat(root), Splat(args.eps)));
    const VF fresh = hn::Sub(old, hn::MulAdd(ratio, Splat(step_size), hn::Mul(shrink, old)));
    Put(mean, m, i, end);
    Put(square, v, i, end);
    Put(fresh, w, i, end);
    if (args.low != nullptr) Put(fresh, Row{args.low, true}, i, end);
  }
}

double SumSquaresRange(const float* x, int64_t n) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<float, decltype(d)> half;
  const int64_t step = static_cast<int64_t>(hn::Lanes(d));
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0;  // four chains hide the latency of the FMA
  const auto load = [&](int64_t at) HWY_ATTR { return hn::PromoteTo(d, hn::LoadU(half, x + at)); };
  int64_t i = 0;
  for (; i + 4 * step <= n; i += 4 * step) {
    const auto a = load(i), b = load(i + step), c = load(i + 2 * step), e = load(i + 3 * step);
    s0 = hn::MulAdd(a, a, s0);
    s1 = hn::MulAdd(b, b, s1);
    s2 = hn::MulAdd(c, c, s2);
    s3 = hn::MulAdd(e, e, s3);
  }
  double sum = hn::GetLane(hn::SumOfLanes(d, hn::Add(hn::Add(s0, s1), hn::Add(s2, s3))));
  for (; i < n; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(AdamWRange);
HWY_EXPORT(SumSquaresRange);

void AdamW(const AdamWArgs& args) {
  const double t = static_cast<double>(args.step);
  const float step_size = static_cast<float>(args.lr / (1.0 - std::pow(static_cast<double>(args.beta1), t)));
  const float root = static_cast<float>(1.0 / std::sqrt(1.0 - std::pow(static_cast<double>(args.beta2), t)));
  ParallelChunks(args.n, 16384, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(AdamWRange)(args, step_size, root, begin, end);
  });
}

double SumSquares(const float* x, int64_t n) {
  constexpr int64_t kGrain = 16384, kBlocks = 256;  // partial sums of one round live on the stack
  double total = 0.0;
  for (int64_t round = 0; round < n; round += kGrain * kBlocks) {
    std::array<double, kBlocks> partial{};
    ParallelChunks(std::min(n - round, kGrain * kBlocks), kGrain, [&](int64_t begin, int64_t end) {
      partial[static_cast<size_t>(begin / kGrain)] =
          HWY_DYNAMIC_DISPATCH(SumSquaresRange)(x + round + begin, end - begin);
    });
    for (double sum : partial) total += sum;
  }
  return total;
}

}  // namespace hawser
#endif
