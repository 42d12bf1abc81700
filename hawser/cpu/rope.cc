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

// (a, b) -> (a cos - b sin, b cos + a sin), pairs (i, i + half).
void RotateHalves(Row head, const float* cos, const float* sin, float sign, int64_t half) {
  const Row low = head, high = Offset(head, half);
  const VF direction = Splat(sign);
  for (int64_t i = 0; i < half; i += Lanes()) {
    const VF a = Get(low, i, half), b = Get(high, i, half);
    const VF c = Get(F32Row(cos), i, half), s = hn::Mul(direction, Get(F32Row(sin), i, half));
    Put(hn::NegMulAdd(b, s, hn::Mul(a, c)), low, i, half);
    Put(hn::MulAdd(a, s, hn::Mul(b, c)), high, i, half);
  }
}

// The same with pairs (2i, 2i + 1): both channels of a pair in one vector, their partners swapped, the cosine doubled
// and the sine doubled with alternating sign.
void RotatePairs(Row head, const float* cos, const float* sin, float sign, int64_t half) {
  const DF d;
  const VF direction = Splat(sign);
  const int64_t n = 2 * half;
  for (int64_t i = 0; i < half; i += Lanes()) {
    const VF c = Get(F32Row(cos), i, half), s = hn::Mul(direction, Get(F32Row(sin), i, half));
    HWY_ALIGN float twice[4][HWY_MAX_BYTES / sizeof(float)];
    hn::StoreInterleaved2(c, c, d, twice[0]);  // fills twice[0] and twice[1]
    hn::StoreInterleaved2(hn::Neg(s), s, d, twice[2]);
    for (int64_t part = 0; part < 2; ++part) {
      const int64_t at = 2 * i + part * Lanes();
      if (at >= n) break;
      const VF v = Get(head, at, n);
      const VF cc = hn::Load(d, twice[0] + part * Lanes()), ss = hn::Load(d, twice[2] + part * Lanes());
      Put(hn::MulAdd(hn::Reverse2(d, v), ss, hn::Mul(v, cc)), head, at, n);
    }
  }
}

void RopeRows(const RopeArgs& args, int64_t begin, int64_t end) {
  const float sign = args.inverse ? -1.0f : 1.0f;
  const auto rotate = args.pairing == RopePairing::kHalf ? RotateHalves : RotatePairs;
  for (int64_t r = begin; r < end; ++r) {
    const Row row = RowOf(args.x, r);
    const float* cos = args.cos + r * args.half;
    const float* sin = args.sin + r * args.half;
    for (int64_t h = 0; h < args.heads; ++h) rotate(Offset(row, h * args.head_dim), cos, sin, sign, args.half);
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

}  // namespace hawser
#endif
