#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/linear.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/base/parallel.h"
#include "hawser/cpu/block_kernels.h"
#include "hawser/cpu/elementwise.h"
#include "hawser/cpu/linear.h"
#include "hawser/cpu/matmul_matvec.h"
#include "hawser/quant/block.h"

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

// A row of n values, whole blocks, as Activations8. Values below 1e-30 in all of a block count as zeros.
void QuantizeActivations(ConstRow x, int64_t n, int8_t* q, float* scale, float* sum) {
  const hn::Rebind<int8_t, DF> bytes;
  for (int64_t b = 0; b < n; b += kActBlock, ++scale, ++sum) {
    VF most = Zero(), odd = Zero();
    for (int64_t i = b; i < b + kActBlock; i += Lanes()) {
      const VF v = Get(x, i, n);
      most = hn::Max(most, hn::Abs(v));
      odd = hn::Add(odd, hn::Mul(v, Zero()));  // NaN where v is not finite, which Max may lose
    }
    const bool finite = SumLanes(odd) == 0.0f;
    const float largest = finite ? MaxLanes(most) : 0.0f, d = largest < 1e-30f ? 0.0f : largest / 127.0f;
    const VF inverse = Splat(d > 0.0f ? 1.0f / d : 0.0f);
    VF total = Zero();
    for (int64_t i = b; i < b + kActBlock; i += Lanes()) {
      const VF v = finite ? Get(x, i, n) : Zero();
      const auto level = hn::NearestInt(hn::Mul(v, inverse));
      hn::StoreU(hn::DemoteTo(bytes, level), bytes, q + i);
      total = hn::Add(total, hn::ConvertTo(DF(), level));
    }
    *scale = finite ? d : std::numeric_limits<float>::quiet_NaN();
    *sum = *scale * SumLanes(total);
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
HWY_EXPORT(QuantizeActivations);
HWY_EXPORT(WidenHalves);

namespace {

/// Rows of weights a piece takes: some 10 us of work.
int64_t WeightGrain(int64_t cols) { return std::max<int64_t>(4, (131072 / std::max<int64_t>(1, cols) + 3) / 4 * 4); }

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
  const BlockType& type = *FindBlockType(from.dtype);
  const BlockKernels* kernels = FindBlockKernels(CurrentIsa(), from.dtype);
  const auto decode = kernels != nullptr ? kernels->decode : type.decode;
  ParallelChunks(from.rows, RowGrain(from.cols), [&](int64_t begin, int64_t end) {
    thread_local Scratch scratch;
    for (int64_t r = begin; r < end; ++r) {
      const bool direct = to.dtype == DType::kF32;
      float* values = direct ? to.Row<float>(r) : scratch.Get<float>(from.cols);
      decode(from.Row<std::byte>(r), from.cols / type.values, values);
      if (!direct) CopyMat({values, DType::kF32, 1, from.cols, from.cols}, to.Rows(r, 1));
    }
  });
}

bool LinearEngine::RunDots(const LinearArgs& args) {
  const int64_t rows = args.x.rows, cols = args.x.cols;
  if (!IsBlocked(args.w.dtype)) {
    if (rows > kMaxMatVecRows) return false;
    const float* bias = args.bias.empty() ? nullptr : Widened(args.bias, bias_).Row<float>(0);
    MatVec(args.x, args.w, bias, args.y, false);
    return true;
  }
  const BlockKernels* kernels = FindBlockKernels(CurrentIsa(), args.w.dtype);
  if (args.exact || rows > kMaxBlockDotRows || kernels == nullptr) return false;
  const int64_t padded = PaddedValues(cols), groups = padded / kActBlock, used = cols / kActBlock;
  int8_t* q = q_.Get<int8_t>(rows * padded);
  float* scale = scales_.Get<float>(2 * rows * groups);
  float* sum = scale + rows * groups;
  for (int64_t r = 0; r < rows; ++r) {
    std::fill(q + r * padded + cols, q + (r + 1) * padded, int8_t{0});
    for (float* array : {scale, sum}) std::fill(array + r * groups + used, array + (r + 1) * groups, 0.0f);
    HWY_DYNAMIC_DISPATCH(QuantizeActivations)
    (RowOf(args.x, r), cols, q + r * padded, scale + r * groups, sum + r * groups);
  }
  const float* bias = args.bias.empty() ? nullptr : Widened(args.bias, bias_).Row<float>(0);
  const int64_t blocks = cols / FindBlockType(args.w.dtype)->values;
  ParallelChunks(args.w.rows, WeightGrain(cols), [&](int64_t begin, int64_t end) {
    for (int64_t j = begin; j < end; ++j) {
      for (int64_t first = 0; first < rows; first += kDotRows) {
        const int count = static_cast<int>(std::min<int64_t>(kDotRows, rows - first));
        const Activations8 x{q + first * padded, scale + first * groups, sum + first * groups, padded};
        float y[kDotRows];
        kernels->dot(args.w.Row<std::byte>(j), blocks, x, count, y);
        for (int r = 0; r < count; ++r) {
          const float value = bias == nullptr ? y[r] : y[r] + bias[j];
          if (args.y.dtype == DType::kBF16) {
            args.y.Row<bf16>(first + r)[j] = ToBF16(value);
          } else {
            args.y.Row<float>(first + r)[j] = value;
          }
        }
      }
    }
  });
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
