#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/norm.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/cpu/norm.h"

#include <cmath>
#include <cstring>

#include "hawser/base/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

void NormForwardRows(const NormArgs& args, int64_t begin, int64_t end) {
  const int64_t cols = args.x.cols;
  const ConstRow weight = RowOf(args.weight, 0);
  for (int64_t r = begin; r < end; ++r) {
    const ConstRow x = RowOf(args.x, r);
    const Row y = RowOf(args.y, r);
    const float squares = SumRow(cols, [&](int64_t i) HWY_ATTR {
      const VF v = Get(x, i, cols);
      return hn::Mul(v, v);
    });
    const float rstd = 1.0f / std::sqrt(squares / static_cast<float>(cols) + args.eps);
    if (args.rstd != nullptr) args.rstd[r] = rstd;
    const VF scale = Splat(rstd);
    for (int64_t i = 0; i < cols; i += Lanes()) {
      Put(hn::Mul(hn::Mul(Get(x, i, cols), scale), Get(weight, i, cols)), y, i, cols);
    }
  }
}

// With xhat = x * rstd and g = dy * w:  dx = rstd * (g - xhat * mean(g * xhat)),  dweight = sum over rows of dy * xhat.
void NormBackwardRows(const NormBackwardArgs& args, int64_t begin, int64_t end, float* dweight) {
  const int64_t cols = args.x.cols;
  const ConstRow weight = RowOf(args.weight, 0);
  std::memset(dweight, 0, static_cast<size_t>(cols) * sizeof(float));
  for (int64_t r = begin; r < end; ++r) {
    const ConstRow x = RowOf(args.x, r), dy = RowOf(args.dy, r);
    const bool add = !args.residual.empty();
    const ConstRow residual = add ? RowOf(args.residual, r) : x;
    const Row dx = RowOf(args.dx, r);
    const float dot = SumRow(cols, [&](int64_t i) HWY_ATTR {
      return hn::Mul(hn::Mul(Get(x, i, cols), Get(weight, i, cols)), Get(dy, i, cols));
    });
    const VF rstd = Splat(args.rstd[r]);
    const VF pull = Splat(dot * args.rstd[r] * args.rstd[r] / static_cast<float>(cols));
    for (int64_t i = 0; i < cols; i += Lanes()) {
      const VF v = Get(x, i, cols), g = Get(dy, i, cols);
      const VF xhat = hn::Mul(v, rstd);
      VF out = hn::Mul(rstd, hn::NegMulAdd(v, pull, hn::Mul(g, Get(weight, i, cols))));
      if (add) out = hn::Add(out, Get(residual, i, cols));
      const Row sum = F32Row(dweight);
      Put(hn::MulAdd(g, xhat, Get(sum, i, cols)), sum, i, cols);
      Put(out, dx, i, cols);
    }
  }
}

void AddPartials(const float* partials, int64_t count, int64_t cols, int64_t begin, int64_t end, Row to) {
  for (int64_t i = begin; i < end; i += Lanes()) {
    VF sum = Zero();
    for (int64_t p = 0; p < count; ++p) sum = hn::Add(sum, Get(F32Row(partials + p * cols), i, end));
    Put(hn::Add(Get(to, i, end), sum), to, i, end);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(NormForwardRows);
HWY_EXPORT(NormBackwardRows);
HWY_EXPORT(AddPartials);

void NormForward(const NormArgs& args) {
  ParallelChunks(args.x.rows, RowGrain(args.x.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(NormForwardRows)(args, begin, end);
  });
}

void NormBackward(const NormBackwardArgs& args, Scratch& scratch) {
  const int64_t rows = args.x.rows, cols = args.x.cols;
  if (args.x.empty()) return;
  const int64_t grain = std::max<int64_t>(16, RowGrain(cols));  // at least 16 rows: partials stay small beside x
  const int64_t blocks = (rows + grain - 1) / grain;
  float* partials = scratch.Get<float>(blocks * cols);
  ParallelChunks(rows, grain, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(NormBackwardRows)(args, begin, end, partials + begin / grain * cols);
  });
  if (args.dweight.empty()) return;
  ParallelChunks(cols, std::max<int64_t>(64, 65536 / blocks / 64 * 64), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(AddPartials)(partials, blocks, cols, begin, end, RowOf(args.dweight, 0));
  });
}

}  // namespace hawser
#endif
