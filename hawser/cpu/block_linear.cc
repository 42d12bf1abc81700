#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/block_linear.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/base/parallel.h"
#include "hawser/cpu/block_kernels.h"
#include "hawser/cpu/block_linear.h"
#include "hawser/cpu/elementwise.h"
#include "hawser/quant/block.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

// A row of n values, whole blocks, as q and scale of Activations8. Values below 1e-30 in all of a block count as zeros.
void QuantizeActivations(ConstRow x, int64_t n, int8_t* q, float* scale) {
  const hn::Rebind<int8_t, DF> bytes;
  for (int64_t b = 0; b < n; b += kActBlock, ++scale) {
    VF most = Zero(), odd = Zero();
    for (int64_t i = b; i < b + kActBlock; i += Lanes()) {
      const VF v = Get(x, i, n);
      most = hn::Max(most, hn::Abs(v));
      odd = hn::Add(odd, hn::Mul(v, Zero()));  // NaN where v is not finite, which Max may lose
    }
    const bool finite = SumLanes(odd) == 0.0f;
    const float largest = finite ? MaxLanes(most) : 0.0f, d = largest < 1e-30f ? 0.0f : largest / 127.0f;
    const VF inverse = Splat(d > 0.0f ? 1.0f / d : 0.0f);
    for (int64_t i = b; i < b + kActBlock; i += Lanes()) {
      const VF v = finite ? Get(x, i, n) : Zero();
      hn::StoreU(hn::DemoteTo(bytes, hn::NearestInt(hn::Mul(v, inverse))), bytes, q + i);
    }
    *scale = finite ? d : std::numeric_limits<float>::quiet_NaN();
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(QuantizeActivations);

namespace {

/// Rows of weights a piece takes: whole tiles, some 20 us of work.
int64_t WeightGrain(int64_t cols, int64_t tile) {
  return std::max<int64_t>(1, 262144 / std::max<int64_t>(1, cols) / tile) * tile;
}

void Put(const Mat& y, int64_t row, int64_t col, float value) {
  if (y.dtype == DType::kBF16) {
    y.Row<bf16>(row)[col] = ToBF16(value);
  } else {
    y.Row<float>(row)[col] = value;
  }
}

}  // namespace

void DecodeBlocks(ConstMat from, Mat to) {
  const BlockType& type = *FindBlockType(from.dtype);
  const BlockKernels& kernels = GetBlockKernels(CurrentIsa(), from.dtype);
  const int64_t blocks = from.cols / type.values;
  if (from.rows >= kernels.tile || blocks == 1) {
    for (int64_t r = 0; r < from.rows; r += kernels.tile) {
      const int rows = static_cast<int>(std::min<int64_t>(kernels.tile, from.rows - r));
      for (int64_t b = 0; b < blocks; ++b) {
        kernels.decode(from.Row<std::byte>(r) + b * type.bytes, from.ld, rows, to.Row<float>(r) + b * type.values,
                       to.ld);
      }
    }
    return;
  }
  for (int64_t r = 0; r < from.rows; ++r) {  // the blocks of a row stand in for the rows of a tile
    for (int64_t b = 0; b < blocks; b += kernels.tile) {
      const int count = static_cast<int>(std::min<int64_t>(kernels.tile, blocks - b));
      kernels.decode(from.Row<std::byte>(r) + b * type.bytes, type.bytes, count, to.Row<float>(r) + b * type.values,
                     type.values);
    }
  }
}

void BlockLinear::Run(const LinearArgs& args) {
  const BlockType& type = *FindBlockType(args.w.dtype);
  const BlockKernels& kernels = GetBlockKernels(CurrentIsa(), args.w.dtype);
  const int64_t rows = args.x.rows, cols = args.x.cols, scales = cols / kActBlock, groups = cols / type.group;
  int8_t* q = q_.Get<int8_t>(rows * cols);
  float* scale = scales_.Get<float>(rows * (scales + groups));
  float* sum = scale + rows * scales;
  int32_t* begin = sums_.Get<int32_t>(rows * groups);
  ParallelChunks(rows, RowGrain(cols), [&](int64_t first, int64_t end) {
    for (int64_t r = first; r < end; ++r) {
      HWY_DYNAMIC_DISPATCH(QuantizeActivations)(RowOf(args.x, r), cols, q + r * cols, scale + r * scales);
      for (int64_t g = 0; g < groups; ++g) {
        int32_t total = 0;
        for (int64_t i = 0; i < type.group; ++i) total += q[r * cols + g * type.group + i];
        begin[r * groups + g] = -type.offset * total;
        sum[r * groups + g] = scale[r * scales + g * type.group / kActBlock] * static_cast<float>(total);
      }
    }
  });
  const float* bias = nullptr;
  if (!args.bias.empty()) {
    const Mat wide{bias_.Get<float>(args.bias.cols), DType::kF32, 1, args.bias.cols, args.bias.cols};
    CopyMat(args.bias, wide);
    bias = wide.Row<float>(0);
  }
  const int64_t blocks = cols / type.values, row_bytes = blocks * type.bytes, tile = kernels.tile;
  ParallelChunks(args.w.rows, WeightGrain(cols, tile), [&](int64_t from, int64_t end) {
    thread_local Scratch padded, sums;
    float* y = sums.Get<float>(kDotRows * tile);
    for (int64_t j = from; j < end; j += tile) {
      const int64_t count = std::min(tile, end - j);
      const std::byte* w = args.w.Row<std::byte>(j);
      const std::byte* next = w + tile * args.w.ld;
      int64_t stride = args.w.ld;
      if (count < tile) {  // rows of zeros make the tile whole
        std::byte* whole = padded.Get<std::byte>(tile * row_bytes);
        for (int64_t r = 0; r < count; ++r) std::memcpy(whole + r * row_bytes, w + r * stride, row_bytes);
        std::memset(whole + count * row_bytes, 0, (tile - count) * row_bytes);
        w = next = whole, stride = row_bytes;
      }
      for (int64_t first = 0; first < rows; first += kDotRows) {
        const int here = static_cast<int>(std::min<int64_t>(kDotRows, rows - first));
        const Activations8 x{q + first * cols, scale + first * scales, sum + first * groups, begin + first * groups,
                             cols};
        kernels.dot(w, stride, blocks, x, here, y, next);
        for (int r = 0; r < here; ++r) {
          for (int64_t i = 0; i < count; ++i) {
            const float value = y[r * tile + i];
            Put(args.y, first + r, j + i, bias == nullptr ? value : value + bias[j + i]);
          }
        }
      }
    }
  });
}

}  // namespace hawser
#endif
