#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/elementwise.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/cpu/elementwise.h"

#include <cstring>

#include "hawser/base/parallel.h"

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

int64_t Target() { return HWY_TARGET; }

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(CopyRow);
HWY_EXPORT(AddRow);
HWY_EXPORT(FillRow);
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

const char* SimdTarget() { return hwy::TargetName(HWY_DYNAMIC_DISPATCH(Target)()); }

}  // namespace hawser
#endif
