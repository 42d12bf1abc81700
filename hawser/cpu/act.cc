#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/act.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/base/parallel.h"
#include "hawser/cpu/act.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

void GluForwardRow(ConstRow gate, ConstRow up, Row y, int64_t n) {
  for (int64_t i = 0; i < n; i += Lanes()) {
    const VF g = Get(gate, i, n);
    Put(hn::Mul(hn::Mul(g, Sigmoid(g)), Get(up, i, n)), y, i, n);
  }
}

// With s = sigmoid(g): y = g s u, so du = dy g s and dg = dy u (s + g s (1 - s)).
void GluBackwardRow(ConstRow gate, ConstRow up, ConstRow dy, Row dgate, Row dup, const Row* y, int64_t n) {
  for (int64_t i = 0; i < n; i += Lanes()) {
    const VF g = Get(gate, i, n), u = Get(up, i, n), d = Get(dy, i, n);
    const VF s = Sigmoid(g);
    const VF silu = hn::Mul(g, s);
    const VF slope = hn::MulAdd(silu, hn::Sub(Splat(1.0f), s), s);
    Put(hn::Mul(d, silu), dup, i, n);
    Put(hn::Mul(hn::Mul(d, u), slope), dgate, i, n);
    if (y != nullptr) Put(hn::Mul(silu, u), *y, i, n);
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(GluForwardRow);
HWY_EXPORT(GluBackwardRow);

void ActForward(const ActArgs& args) {
  const int64_t cols = args.y.cols;
  const ConstMat gate = args.in.Cols(0, cols), up = args.in.Cols(cols, cols);
  const auto row = HWY_DYNAMIC_DISPATCH(GluForwardRow);
  ParallelChunks(args.y.rows, RowGrain(cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) row(RowOf(gate, r), RowOf(up, r), RowOf(args.y, r), cols);
  });
}

void ActBackward(const ActBackwardArgs& args) {
  const int64_t cols = args.dy.cols;
  const ConstMat gate = args.in.Cols(0, cols), up = args.in.Cols(cols, cols);
  const Mat dgate = args.din.Cols(0, cols), dup = args.din.Cols(cols, cols);
  const auto row = HWY_DYNAMIC_DISPATCH(GluBackwardRow);
  ParallelChunks(args.dy.rows, RowGrain(cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const Row y = args.y.empty() ? Row{} : RowOf(args.y, r);
      row(RowOf(gate, r), RowOf(up, r), RowOf(args.dy, r), RowOf(dgate, r), RowOf(dup, r),
          args.y.empty() ? nullptr : &y, cols);
    }
  });
}

}  // namespace hawser
#endif
