#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/norm.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/cpu/norm.h"

#include <algorithm>
#include <cmath>

#include "hawser/base/parallel.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

template <bool kPlusOne>
HWY_INLINE VF Weight(ConstRow weight, int64_t i, int64_t n) {
  const VF w = Get(weight, i, n);
  return kPlusOne ? hn::Add(Splat(1.0f), w) : w;
}

// Lanes past n as zeros.
HWY_INLINE VF Within(VF v, int64_t i, int64_t n) {
  return i + Lanes() <= n ? v : hn::IfThenElseZero(hn::FirstN(DF(), static_cast<size_t>(n - i)), v);
}

HWY_INLINE float MeanOf(ConstRow x, int64_t n) {
  return SumRow(n, [&](int64_t i) HWY_ATTR { return Get(x, i, n); }) / static_cast<float>(n);
}

// One piece of n channels. Returns rstd.
template <bool kLayer, bool kPlusOne>
float ForwardPiece(const NormArgs& args, ConstRow x, Row y, int64_t n) {
  const ConstRow weight = RowOf(args.weight, 0);
  const VF mean = Splat(kLayer ? MeanOf(x, n) : 0.0f);
  const float squares = SumRow(n, [&](int64_t i) HWY_ATTR {
    const VF v = kLayer ? Within(hn::Sub(Get(x, i, n), mean), i, n) : Get(x, i, n);
    return hn::Mul(v, v);
  });
  const float rstd = 1.0f / std::sqrt(squares / static_cast<float>(n) + args.eps);
  const VF scale = Splat(rstd);
  for (int64_t i = 0; i < n; i += Lanes()) {
    const VF v = kLayer ? hn::Sub(Get(x, i, n), mean) : Get(x, i, n);
    VF out = hn::Mul(hn::Mul(v, scale), Weight<kPlusOne>(weight, i, n));
    if (!args.bias.empty()) out = hn::Add(out, Get(RowOf(args.bias, 0), i, n));
    Put(out, y, i, n);
  }
  return rstd;
}

// With xhat = (x - mean) rstd and g = dy w':  dx = rstd (g - mean(g) - xhat mean(g xhat)), without mean(g) for kRms.
// dweight += dy xhat and, where it is given, dbias += dy.
template <bool kLayer, bool kPlusOne>
void BackwardPiece(const NormBackwardArgs& args, ConstRow x, float rstd, ConstRow dy, const ConstRow* residual, Row dx,
                   int64_t n, float* dweight, float* dbias) {
  const ConstRow weight = RowOf(args.weight, 0);
  const VF mean = Splat(kLayer ? MeanOf(x, n) : 0.0f);
  const auto centred = [&](int64_t i) HWY_ATTR { return kLayer ? hn::Sub(Get(x, i, n), mean) : Get(x, i, n); };
  const float dot = SumRow(n, [&](int64_t i) HWY_ATTR {
    return hn::Mul(hn::Mul(centred(i), Weight<kPlusOne>(weight, i, n)), Get(dy, i, n));
  });
  VF level = Zero();
  if (kLayer) {
    const float sum =
        SumRow(n, [&](int64_t i) HWY_ATTR { return hn::Mul(Weight<kPlusOne>(weight, i, n), Get(dy, i, n)); });
    level = Splat(sum / static_cast<float>(n));
  }
  const VF scale = Splat(rstd), pull = Splat(dot * rstd * rstd / static_cast<float>(n));
  const Row sum = F32Row(dweight), bias_sum = F32Row(dbias);
  for (int64_t i = 0; i < n; i += Lanes()) {
    const VF v = centred(i), d = Get(dy, i, n);
    VF g = hn::Mul(d, Weight<kPlusOne>(weight, i, n));
    if (kLayer) g = hn::Sub(g, level);
    VF out = hn::Mul(scale, hn::NegMulAdd(v, pull, g));
    if (residual != nullptr) out = hn::Add(out, Get(*residual, i, n));
    Put(hn::MulAdd(d, hn::Mul(v, scale), Get(sum, i, n)), sum, i, n);
    if (dbias != nullptr) Put(hn::Add(d, Get(bias_sum, i, n)), bias_sum, i, n);
    Put(out, dx, i, n);
  }
}

template <bool kLayer, bool kPlusOne>
void ForwardRows(const NormArgs& args, int64_t begin, int64_t end) {
  const int64_t n = args.x.cols / args.heads;
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t h = 0; h < args.heads; ++h) {
      const float rstd =
          ForwardPiece<kLayer, kPlusOne>(args, RowOf(args.x.Cols(h * n, n), r), RowOf(args.y.Cols(h * n, n), r), n);
      if (args.rstd != nullptr) args.rstd[r * args.heads + h] = rstd;
    }
  }
}

template <bool kLayer, bool kPlusOne>
void BackwardRows(const NormBackwardArgs& args, int64_t begin, int64_t end, float* dweight, float* dbias) {
  const int64_t n = args.x.cols / args.heads;
  std::fill_n(dweight, n, 0.0f);
  if (dbias != nullptr) std::fill_n(dbias, n, 0.0f);
  for (int64_t r = begin; r < end; ++r) {
    for (int64_t h = 0; h < args.heads; ++h) {
      const auto piece = [&](const auto& mat) { return RowOf(mat.Cols(h * n, n), r); };
      const ConstRow residual = args.residual.empty() ? ConstRow{} : piece(args.residual);
      BackwardPiece<kLayer, kPlusOne>(args, piece(args.x), args.rstd[r * args.heads + h], piece(args.dy),
                                      args.residual.empty() ? nullptr : &residual, piece(args.dx), n, dweight, dbias);
    }
  }
}

void NormForwardRows(const NormArgs& args, int64_t begin, int64_t end) {
  if (args.kind == NormKind::kLayer) {
    return args.plus_one ? ForwardRows<true, true>(args, begin, end) : ForwardRows<true, false>(args, begin, end);
  }
  return args.plus_one ? ForwardRows<false, true>(args, begin, end) : ForwardRows<false, false>(args, begin, end);
}

// dweight [d]: sums over these rows; dbias [d] or null.
void NormBackwardRows(const NormBackwardArgs& args, int64_t begin, int64_t end, float* dweight, float* dbias) {
  const auto rows = args.kind == NormKind::kLayer ? args.plus_one ? BackwardRows<true, true> : BackwardRows<true, false>
                    : args.plus_one ? BackwardRows<false, true>
                                                  : BackwardRows<false, false>;
  rows(args, begin, end, dweight, dbias);
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
  const int64_t rows = args.x.rows, width = args.weight.cols;
  if (args.x.empty()) return;
  const int64_t grain = std::max<int64_t>(16, RowGrain(args.x.cols));  // 16 rows: partials stay small beside x
  const int64_t blocks = (rows + grain - 1) / grain;
  float* dweight = scratch.Get<float>(2 * blocks * width);
  float* dbias = args.dbias.empty() ? nullptr : dweight + blocks * width;
  ParallelChunks(rows, grain, [&](int64_t begin, int64_t end) {
    const int64_t at = begin / grain * width;
    HWY_DYNAMIC_DISPATCH(NormBackwardRows)(args, begin, end, dweight + at, dbias == nullptr ? nullptr : dbias + at);
  });
  const auto add = [&](const float* partials, Mat to) {
    if (to.empty()) return;
    ParallelChunks(width, std::max<int64_t>(64, 65536 / blocks / 64 * 64), [&](int64_t begin, int64_t end) {
      HWY_DYNAMIC_DISPATCH(AddPartials)(partials, blocks, width, begin, end, RowOf(to, 0));
    });
  };
  add(dweight, args.dweight);
  add(dbias, args.dbias);
}

}  // namespace hawser
#endif
