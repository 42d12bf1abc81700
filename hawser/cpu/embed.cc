#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/embed.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/base/parallel.h"
#include "hawser/cpu/embed.h"
#include "hawser/cpu/linear.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

void EmbedForwardRows(const ConstMat& table, const int32_t* ids, const Mat& y, float scale, int64_t begin,
                      int64_t end) {
  const VF by = Splat(scale);
  for (int64_t r = begin; r < end; ++r) {
    const ConstRow from = RowOf(table, ids[r]);
    const Row to = RowOf(y, r);
    for (int64_t i = 0; i < y.cols; i += Lanes()) Put(hn::Mul(by, Get(from, i, y.cols)), to, i, y.cols);
  }
}

void EmbedBackwardRows(const ConstMat& dy, const int32_t* ids, const Mat& dtable, float scale) {
  const VF by = Splat(scale);
  for (int64_t r = 0; r < dy.rows; ++r) {
    const ConstRow from = RowOf(dy, r);
    const Row to = RowOf(dtable, ids[r]);
    for (int64_t i = 0; i < dy.cols; i += Lanes()) {
      Put(hn::MulAdd(by, Get(from, i, dy.cols), Get(to, i, dy.cols)), to, i, dy.cols);
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(EmbedForwardRows);
HWY_EXPORT(EmbedBackwardRows);

void EmbedForward(ConstMat table, const int32_t* ids, Mat y, float scale) {
  if (table.dtype != DType::kF32 && table.dtype != DType::kBF16) {
    return ParallelChunks(y.rows, RowGrain(y.cols), [&](int64_t begin, int64_t end) {
      thread_local Scratch scratch;
      const Mat row{scratch.Get<float>(y.cols), DType::kF32, 1, y.cols, y.cols};
      for (int64_t r = begin; r < end; ++r) {
        constexpr int32_t kOnly = 0;
        DecodeMat(table.Rows(ids[r], 1), row);
        HWY_DYNAMIC_DISPATCH(EmbedForwardRows)(row, &kOnly, y.Rows(r, 1), scale, 0, 1);
      }
    });
  }
  ParallelChunks(y.rows, RowGrain(y.cols), [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(EmbedForwardRows)(table, ids, y, scale, begin, end);
  });
}

void EmbedBackward(ConstMat dy, const int32_t* ids, Mat dtable, float scale) {
  ParallelChunks(dy.cols, 64, [&](int64_t begin, int64_t end) {
    HWY_DYNAMIC_DISPATCH(EmbedBackwardRows)(dy.Cols(begin, end - begin), ids, dtable.Cols(begin, end - begin), scale);
  });
}

}  // namespace hawser
#endif
