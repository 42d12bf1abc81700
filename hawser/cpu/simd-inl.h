// cpu/simd-inl.h - the Highway spellings the kernels use, so that a change of Highway (Debian 12 has 1.0.3) lands here.
// Kernels walk a row in whole vectors; Get and Put take the row's length and deal with a short last vector themselves,
// so no kernel has a tail loop. Lanes past the end read as zero and are not written.
#if defined(HAWSER_CPU_SIMD_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef HAWSER_CPU_SIMD_INL_H_
#undef HAWSER_CPU_SIMD_INL_H_
#else
#define HAWSER_CPU_SIMD_INL_H_
#endif

#include <cstdint>

#include "hawser/cpu/row.h"
#include "hwy/contrib/math/math-inl.h"
#include "hwy/highway.h"

/// Before a loop over an array of vectors: unrolled, so that the vectors stay in registers.
#ifndef HAWSER_UNROLL
#ifdef __clang__
#define HAWSER_UNROLL _Pragma("unroll")
#else
#define HAWSER_UNROLL _Pragma("GCC unroll 8")
#endif
#endif

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using DF = hn::ScalableTag<float>;
using DU = hn::RebindToUnsigned<DF>;
using DH = hn::Rebind<uint16_t, DF>;
using VF = hn::Vec<DF>;
using VU = hn::Vec<DU>;

HWY_INLINE int64_t Lanes() { return static_cast<int64_t>(hn::Lanes(DF())); }

HWY_INLINE VF Zero() { return hn::Zero(DF()); }
HWY_INLINE VF Splat(float x) { return hn::Set(DF(), x); }

HWY_INLINE VF LoadBF16(const void* from) {
  const VU bits = hn::PromoteTo(DU(), hn::LoadU(DH(), static_cast<const uint16_t*>(from)));
  return hn::BitCast(DF(), hn::ShiftLeft<16>(bits));
}

/// Round to nearest even, NaN stays NaN: the vector form of ToBF16.
HWY_INLINE void StoreBF16(VF v, void* to) {
  const DU du;
  const VU bits = hn::BitCast(du, v);
  const VU upper = hn::ShiftRight<16>(bits);
  const VU odd = hn::And(upper, hn::Set(du, 1u));
  const VU rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu))));
  const VU nan = hn::Or(upper, hn::Set(du, 0x40u));
  const VU result = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), nan, rounded);
  hn::StoreU(hn::TruncateTo(DH(), result), DH(), static_cast<uint16_t*>(to));
}

/// The value that StoreBF16 stores.
HWY_INLINE VF RoundBF16(VF v) {
  const DU du;
  const VU bits = hn::BitCast(du, v);
  const VU odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  const VU rounded = hn::And(hn::Add(bits, hn::Add(odd, hn::Set(du, 0x7fffu))), hn::Set(du, 0xffff0000u));
  return hn::IfThenElse(hn::IsNaN(v), v, hn::BitCast(DF(), rounded));
}

/// Elements [i, i + Lanes()) of a row of n.
HWY_INLINE VF Get(ConstRow row, int64_t i, int64_t n) {
  if (HWY_LIKELY(i + Lanes() <= n)) {
    if (row.low) return LoadBF16(static_cast<const uint16_t*>(row.data) + i);
    return hn::LoadU(DF(), static_cast<const float*>(row.data) + i);
  }
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)] = {};
  for (int64_t j = i; j < n; ++j) {
    lanes[j - i] = row.low ? ToF32(static_cast<const bf16*>(row.data)[j]) : static_cast<const float*>(row.data)[j];
  }
  return hn::Load(DF(), lanes);
}

HWY_INLINE void Put(VF v, Row row, int64_t i, int64_t n) {
  if (HWY_LIKELY(i + Lanes() <= n)) {
    if (row.low) return StoreBF16(v, static_cast<uint16_t*>(row.data) + i);
    return hn::StoreU(v, DF(), static_cast<float*>(row.data) + i);
  }
  HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)];
  hn::Store(v, DF(), lanes);
  for (int64_t j = i; j < n; ++j) {
    if (row.low) {
      static_cast<bf16*>(row.data)[j] = ToBF16(lanes[j - i]);
    } else {
      static_cast<float*>(row.data)[j] = lanes[j - i];
    }
  }
}

HWY_INLINE ConstRow F32Row(const float* data) { return {data, false}; }
HWY_INLINE Row F32Row(float* data) { return {data, false}; }

HWY_INLINE float SumLanes(VF v) { return hn::GetLane(hn::SumOfLanes(DF(), v)); }
HWY_INLINE float MaxLanes(VF v) { return hn::GetLane(hn::MaxOfLanes(DF(), v)); }

/// e^x to 1 ulp; x <= 104, and 0 below -104.
HWY_INLINE VF Exp(VF x) { return hn::Exp(DF(), x); }

/// 1 / (1 + e^-x).
HWY_INLINE VF Sigmoid(VF x) {
  return hn::Div(Splat(1.0f), hn::Add(Splat(1.0f), Exp(hn::Min(hn::Neg(x), Splat(104.0f)))));
}

/// Sum of body(i) over the vectors of a row of n, in an order that depends on n and the vector length alone. Lanes past
/// n must come out of body as zero.
template <class Body>
HWY_INLINE float SumRow(int64_t n, Body&& body) {
  VF even = Zero(), odd = Zero();
  const int64_t step = Lanes();
  int64_t i = 0;
  for (; i + step < n; i += 2 * step) {
    even = hn::Add(even, body(i));
    odd = hn::Add(odd, body(i + step));
  }
  if (i < n) even = hn::Add(even, body(i));
  return SumLanes(hn::Add(even, odd));
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();
#endif
