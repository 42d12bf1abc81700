#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/linear.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/base/parallel.h"
#include "hawser/cpu/linear.h"

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

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(AddColumnSums);

void Linear(const LinearArgs& args, MatMulEngine& matmul) {
  matmul.Run({.a = args.x, .b = args.w, .trans_b = true, .c = args.y}, args.bias);
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
