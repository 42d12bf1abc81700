#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/rope.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/base/parallel.h"
#include "hawser/cpu/rope.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

HWY_INLINE Row Offset(Row row, int64_t elements) {
  return {static_cast<char*>(row.data) + elements * (row.low ? 2 : 4), row.low};
}

// (a, b) -> (a c - b s, b c + a s); kLow: operands, products and sums in bf16.
template <bool kLow>
HWY_INLINE void Rotate(VF& a, VF& b, VF c, VF s) {
  if constexpr (kLow) {
    const VF x = RoundBF16(a), y = RoundBF16(b);
    a = RoundBF16(hn::Sub(RoundBF16(hn::Mul(x, c)), RoundBF16(hn::Mul(y, s))));
    b = RoundBF16(hn::Add(RoundBF16(hn::Mul(y, c)), RoundBF16(hn::Mul(x, s))));
  } else {
    const VF x = a;
    a = hn::NegMulAdd(b, s, hn::Mul(x, c));
    b = hn::MulAdd(x, s, hn::Mul(b, c));
  }
}

// Pairs (i, i + half).
template <bool kLow>
void RotateHalves(Row head, const float* cos, const float* sin, float sign, float scale, int64_t half) {
  const Row low = head, high = Offset(head, half);
  const VF direction = Splat(sign), factor = Splat(scale);
  for (int64_t i = 0; i < half; i += Lanes()) {
    VF a = Get(low, i, half), b = Get(high, i, half);
    Rotate<kLow>(a, b, Get(F32Row(cos), i, half), hn::Mul(direction, Get(F32Row(sin), i, half)));
    Put(hn::Mul(a, factor), low, i, half);
    Put(hn::Mul(b, factor), high, i, half);
  }
}

// The same with pairs (2i, 2i + 1), taken apart and put together again by way of the stack.
template <bool kLow>
void RotatePairs(Row head, const float* cos, const float* sin, float sign, float scale, int64_t half) {
  const DF d;
  const VF direction = Splat(sign), factor = Splat(scale);
  const int64_t n = 2 * half, lanes = Lanes();
  HWY_ALIGN float pairs[2 * HWY_MAX_BYTES / sizeof(float)] = {};
  for (int64_t i = 0; i < half; i += lanes) {
    const bool both = 2 * i + lanes < n;
    hn::Store(Get(head, 2 * i, n), d, pairs);
    if (both) hn::Store(Get(head, 2 * i + lanes, n), d, pairs + lanes);
    VF a, b;
    hn::LoadInterleaved2(d, pairs, a, b);
    Rotate<kLow>(a, b, Get(F32Row(cos), i, half), hn::Mul(direction, Get(F32Row(sin), i, half)));
    hn::StoreInterleaved2(hn::Mul(a, factor), hn::Mul(b, factor), d, pairs);
    Put(hn::Load(d, pairs), head, 2 * i, n);
    if (both) Put(hn::Load(d, pairs + lanes), head, 2 * i + lanes, n);
  }
}

void ScaleChannels(Row row, int64_t n, float scale) {
  const VF factor = Splat(scale);
  for (int64_t i = 0; i < n; i += Lanes()) Put(hn::Mul(Get(row, i, n), factor), row, i, n);
}

void RopeRows(const RopeArgs& args, int64_t begin, int64_t end) {
  const float sign = args.inverse ? -1.0f : 1.0f;
  const bool low = args.math == FloatFormat::kBF16;
  const auto rotate = args.pairing == RopePairing::kHalf ? (low ? RotateHalves<true> : RotateHalves<false>)
                                                         : (low ? RotatePairs<true> : RotatePairs<false>);
  for (int64_t r = begin; r < end; ++r) {
    const Row row = RowOf(args.x, r);
    const float* cos = args.cos + r * args.half;
    const float* sin = args.sin + r * args.half;
    const float scale = args.row_scale == nullptr ? 1.0f : args.row_scale[r];
    for (int64_t h = 0; h < args.heads; ++h) {
      const Row head = Offset(row, h * args.head_dim);
      rotate(head, cos, sin, sign, scale, args.half);
      if (args.row_scale != nullptr) ScaleChannels(Offset(head, 2 * args.half), args.head_dim - 2 * args.half, scale);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(RopeRows);

void Rope(const RopeArgs& args) {
  ParallelChunks(args.x.rows, RowGrain(args.x.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(RopeRows)(args, begin, end);
  });
}

void RopeHere(const RopeArgs& args) { HWY_DYNAMIC_DISPATCH(RopeRows)(args, 0, args.x.rows); }

}  // namespace hawser
#endif
