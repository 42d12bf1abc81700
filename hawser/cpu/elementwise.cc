#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/elementwise.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/cpu/elementwise.h"

#include <algorithm>
#include <cstring>

#include "hawser/base/parallel.h"
#include "hawser/base/q8.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

void CopyRow(ConstRow from, Row to, int64_t n) {
  if (from.low == to.low) {
    std::memcpy(to.data, from.data, static_cast<size_t>(n) * (from.low ? sizeof(bf16) : sizeof(float)));
    return;
  }
  for (int64_t i = 0; i < n; i += Lanes()) Put(Get(from, i, n), to, i, n);
}

void AddRow(ConstRow x, Row y, int64_t n) {
  for (int64_t i = 0; i < n; i += Lanes()) Put(hn::Add(Get(y, i, n), Get(x, i, n)), y, i, n);
}

void FillRow(Row to, float value, int64_t n) {
  for (int64_t i = 0; i < n; i += Lanes()) Put(Splat(value), to, i, n);
}

void ClampRow(Row x, float limit, int64_t n) {
  const VF most = Splat(limit);
  for (int64_t i = 0; i < n; i += Lanes()) {
    const VF v = Get(x, i, n);  // comparisons, as Min and Max of NaN differ between machines
    Put(hn::IfThenElse(hn::Gt(hn::Abs(v), most), hn::CopySign(most, v), v), x, i, n);
  }
}

void ClampBackwardRow(ConstRow x, float limit, Row dx, int64_t n) {
  const VF most = Splat(limit);
  for (int64_t i = 0; i < n; i += Lanes()) {
    Put(hn::IfThenZeroElse(hn::Gt(hn::Abs(Get(x, i, n)), most), Get(dx, i, n)), dx, i, n);
  }
}

void ScaleRow(Row x, float scale, int64_t n) {
  for (int64_t i = 0; i < n; i += Lanes()) Put(hn::Mul(Get(x, i, n), Splat(scale)), x, i, n);
}

void CapRow(Row x, float scale, float cap, int64_t n) {
  const VF inner = Splat(scale / cap), outer = Splat(cap);
  for (int64_t i = 0; i < n; i += Lanes()) {
    Put(hn::Mul(outer, hn::Tanh(DF(), hn::Mul(Get(x, i, n), inner))), x, i, n);
  }
}

int64_t Target() { return HWY_TARGET; }

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(CopyRow);
HWY_EXPORT(AddRow);
HWY_EXPORT(FillRow);
HWY_EXPORT(ClampRow);
HWY_EXPORT(ClampBackwardRow);
HWY_EXPORT(ScaleRow);
HWY_EXPORT(CapRow);
HWY_EXPORT(Target);

namespace {

template <class Body>
void ForRows(ConstMat mat, const Body& body) {
  ParallelChunks(mat.rows, RowGrain(mat.cols), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) body(r);
  });
}

}  // namespace

void CopyMat(ConstMat from, Mat to) {
  if (from.empty()) return;
  const auto copy = HWY_DYNAMIC_DISPATCH(CopyRow);
  ForRows(from, [&](int64_t r) { copy(RowOf(from, r), RowOf(to, r), from.cols); });
}

void AddMat(ConstMat x, Mat y) {
  const auto add = HWY_DYNAMIC_DISPATCH(AddRow);
  ForRows(x, [&](int64_t r) { add(RowOf(x, r), RowOf(y, r), x.cols); });
}

void FillMat(Mat to, float value) {
  const auto fill = HWY_DYNAMIC_DISPATCH(FillRow);
  ForRows(to, [&](int64_t r) { fill(RowOf(to, r), value, to.cols); });
}

void ClampMat(Mat x, float limit) {
  const auto clamp = HWY_DYNAMIC_DISPATCH(ClampRow);
  ForRows(x, [&](int64_t r) { clamp(RowOf(x, r), limit, x.cols); });
}

void ClampBackwardMat(ConstMat x, float limit, Mat dx) {
  const auto clamp = HWY_DYNAMIC_DISPATCH(ClampBackwardRow);
  ForRows(dx, [&](int64_t r) { clamp(RowOf(x, r), limit, RowOf(dx, r), dx.cols); });
}

void CapMat(Mat logits, float scale, float cap) {
  if (cap > 0.0f) {
    const auto row = HWY_DYNAMIC_DISPATCH(CapRow);
    ForRows(logits, [&](int64_t r) { row(RowOf(logits, r), scale, cap, logits.cols); });
  } else if (scale != 1.0f) {
    const auto row = HWY_DYNAMIC_DISPATCH(ScaleRow);
    ForRows(logits, [&](int64_t r) { row(RowOf(logits, r), scale, logits.cols); });
  }
}

void QuantizeMat(ConstMat from, int32_t head_dim, Mat to) {
  const int64_t heads = from.cols / head_dim;
  ForRows(from, [&](int64_t r) {
    const ConstRow row = RowOf(from, r);
    auto* block = static_cast<std::byte*>(to.Rows(r, 1).data);
    for (int64_t head = 0, channel = 0; head < heads; ++head) {
      for (int64_t begin = 0; begin < head_dim; begin += kQ8Block) {
        const int64_t n = std::min(kQ8Block, head_dim - begin);
        float x[kQ8Block];
        for (int64_t i = 0; i < n; ++i, ++channel) {
          x[i] = row.low ? ToF32(static_cast<const bf16*>(row.data)[channel])
                         : static_cast<const float*>(row.data)[channel];
        }
        QuantizeQ8(x, n, block);
        block += Q8Bytes(n);
      }
    }
  });
}

const char* SimdTarget() { return hwy::TargetName(HWY_DYNAMIC_DISPATCH(Target)()); }

}  // namespace hawser
#endif
