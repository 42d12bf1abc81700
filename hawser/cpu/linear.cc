#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/linear.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/base/parallel.h"
#include "hawser/cpu/elementwise.h"
#include "hawser/cpu/linear.h"
#include "hawser/cpu/matmul_matvec.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

// Sums of kBlock rows, added in order: an error that grows with the root of the number of blocks.
void AddColumnSums(const ConstMat& from, const Mat& to) {
  constexpr int64_t kBlock = 64;
  const Row sums = RowOf(to, 0);
  for (int64_t i = 0; i < from.cols; i += Lanes()) {
    VF sum = Get(sums, i, from.cols);
    for (int64_t begin = 0; begin < from.rows; begin += kBlock) {
      VF block = Zero();
      const int64_t end = std::min(begin + kBlock, from.rows);
      for (int64_t r = begin; r < end; ++r) block = hn::Add(block, Get(RowOf(from, r), i, from.cols));
      sum = hn::Add(sum, block);
    }
    Put(sum, sums, i, from.cols);
  }
}

void WidenHalves(const uint16_t* from, hawser::Row to, int64_t n) {
  const hn::Rebind<hwy::float16_t, DF> halves;
  int64_t i = 0;
  for (; i + Lanes() <= n; i += Lanes()) {
    const auto v = hn::LoadU(halves, reinterpret_cast<const hwy::float16_t*>(from + i));
    Put(hn::PromoteTo(DF(), v), to, i, n);
  }
  for (; i < n; ++i) {
    const float v = F16ToF32(from[i]);
    if (to.low) {
      static_cast<bf16*>(to.data)[i] = ToBF16(v);
    } else {
      static_cast<float*>(to.data)[i] = v;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(AddColumnSums);
HWY_EXPORT(WidenHalves);

namespace {

Mat Widened(ConstMat from, Scratch& scratch) {
  const Mat to{scratch.Get<float>(from.rows * from.cols), DType::kF32, from.rows, from.cols, from.cols};
  CopyMat(from, to);
  return to;
}

}  // namespace

void DecodeMat(ConstMat from, Mat to) {
  if (from.dtype == DType::kF32 || from.dtype == DType::kBF16) return CopyMat(from, to);
  if (from.dtype == DType::kF16) {
    const auto widen = HWY_DYNAMIC_DISPATCH(WidenHalves);
    return ParallelChunks(from.rows, RowGrain(from.cols), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) widen(from.Row<uint16_t>(r), RowOf(to, r), from.cols);
    });
  }
  constexpr int64_t kTogether = 16;
  const int64_t grain = (RowGrain(from.cols) + kTogether - 1) / kTogether * kTogether;
  ParallelChunks(from.rows, grain, [&](int64_t begin, int64_t end) {
    if (to.dtype == DType::kF32) return DecodeBlocks(from.Rows(begin, end - begin), to.Rows(begin, end - begin));
    thread_local Scratch scratch;
    for (int64_t r = begin; r < end; r += kTogether) {
      const int64_t rows = std::min(kTogether, end - r);
      const Mat values{scratch.Get<float>(rows * from.cols), DType::kF32, rows, from.cols, from.cols};
      DecodeBlocks(from.Rows(r, rows), values);
      CopyMat(values, to.Rows(r, rows));
    }
  });
}

bool LinearEngine::RunDots(const LinearArgs& args) {
  if (IsBlocked(args.w.dtype)) {
    if (args.exact || args.x.rows > MaxBlockDotRows(CurrentIsa(), args.x.dtype)) return false;
    blocks_.Run(args);
    return true;
  }
  if (args.x.rows > kMaxMatVecRows) return false;
  const float* bias = args.bias.empty() ? nullptr : Widened(args.bias, bias_).Row<float>(0);
  MatVec(args.x, args.w, bias, args.y, false);
  return true;
}

void LinearEngine::RunPanels(const LinearArgs& args, MatMulEngine& matmul) {
  const int64_t rows = args.w.rows, cols = args.w.cols;
  const DType math = args.exact || args.x.rows <= kMaxMatVecRows ? DType::kF32 : args.x.dtype;
  const ConstMat x = math == args.x.dtype ? args.x : Widened(args.x, wide_);
  // 8 MiB of BF16: wide enough for products at full speed; where each weight is used a few times, what caches hold.
  const int64_t values = int64_t{1} << (args.x.rows <= kMaxMatVecRows ? 18 : 22);
  const int64_t most = std::min(rows, std::max<int64_t>(64, values / std::max<int64_t>(1, cols) / 64 * 64));
  char* memory = panel_.Get<char>(most * cols * static_cast<int64_t>(SizeOf(math)));
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    const Mat panel{memory, math, count, cols, cols};
    DecodeMat(args.w.Rows(first, count), panel);
    matmul.Run({.a = x, .b = panel, .trans_b = true, .c = args.y.Cols(first, count)},
               args.bias.empty() ? ConstMat{} : args.bias.Cols(first, count));
  }
}

void LinearEngine::Run(const LinearArgs& args, MatMulEngine& matmul) {
  if (args.y.empty()) return;
  if (args.w.dtype == args.x.dtype) {
    return matmul.Run({.a = args.x, .b = args.w, .trans_b = true, .c = args.y}, args.bias);
  }
  if (!RunDots(args)) RunPanels(args, matmul);
}

void LinearBackward(const LinearBackwardArgs& args, MatMulEngine& matmul) {
  if (!args.dw.empty()) {
    matmul.Run({.a = args.dy, .trans_a = true, .b = args.x, .c = args.dw, .accumulate = true});
  }
  if (!args.dx.empty()) matmul.Run({.a = args.dy, .b = args.w, .c = args.dx});
  if (args.dbias.empty()) return;
  const auto add = HWY_DYNAMIC_DISPATCH(AddColumnSums);
  ParallelChunks(args.dy.cols, 64, [&](int64_t begin, int64_t end) {
    add(args.dy.Cols(begin, end - begin), args.dbias.Cols(begin, end - begin));
  });
}

}  // namespace hawser
#endif
