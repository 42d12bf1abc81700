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

// A row of n values, whole blocks, as q and scale of Activations8, `height` apart. Values below 1e-30 in all of a block
// count as zeros.
void QuantizeActivations(ConstRow x, int64_t n, int64_t height, int8_t* q, float* scale) {
  const hn::Rebind<int8_t, DF> bytes;
  for (int64_t b = 0; b < n; b += kActBlock, q += height * kActBlock, scale += height) {
    VF most = Zero(), odd = Zero();
    for (int64_t i = 0; i < kActBlock; i += Lanes()) {
      const VF v = Get(x, b + i, n);
      most = hn::Max(most, hn::Abs(v));
      odd = hn::Add(odd, hn::Mul(v, Zero()));  // NaN where v is not finite, which Max may lose
    }
    const bool finite = SumLanes(odd) == 0.0f;
    const float largest = finite ? MaxLanes(most) : 0.0f, d = largest < 1e-30f ? 0.0f : largest / 127.0f;
    const VF inverse = Splat(d > 0.0f ? 1.0f / d : 0.0f);
    for (int64_t i = 0; i < kActBlock; i += Lanes()) {
      const VF v = finite ? Get(x, b + i, n) : Zero();
      hn::StoreU(hn::DemoteTo(bytes, hn::NearestInt(hn::Mul(v, inverse))), bytes, q + i);
    }
    *scale = finite ? d : std::numeric_limits<float>::quiet_NaN();
  }
}

// y [rows, cols] = from [tiles, rows, tile] + bias; of the last tile the first columns.
void StoreTiles(const float* from, int64_t tile, const float* bias, const Mat& y) {
  for (int64_t first = 0; first < y.cols; first += tile) {
    const int64_t end = std::min(first + tile, y.cols);
    for (int64_t r = 0; r < y.rows; ++r, from += tile) {
      for (int64_t i = first; i < end; i += Lanes()) {
        VF v = Get(F32Row(from - first), i, end);
        if (bias != nullptr) v = hn::Add(v, Get(F32Row(bias), i, end));
        Put(v, RowOf(y, r), i, end);
      }
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(QuantizeActivations);
HWY_EXPORT(StoreTiles);

namespace {

constexpr int64_t kPanelValues = 512;  // of a row of weights, taken apart at a time: what first caches hold

/// Rows of weights a piece takes, whole tiles: some 20 us of work; for few rows of activations 3 us or more.
int64_t WeightGrain(int64_t rows, const ConstMat& w, int64_t tile) {
  const int64_t cols = std::max<int64_t>(1, w.cols);
  if (rows <= kDotRows) return StreamGrain(w.rows, (1 << 16) / cols, tile);
  return std::max<int64_t>(1, (int64_t{1} << 22) / rows / cols / tile) * tile;
}

/// A tile of rows of weights, whole: where there are fewer, rows of zeros behind copies of them.
struct Tile {
  Tile(ConstMat w, int64_t row_bytes, int64_t tile, Scratch& scratch)
      : at(w.Row<std::byte>(0)), stride(w.ld), next(at + tile * w.ld) {
    if (w.rows >= tile) return;
    auto* whole = scratch.Get<std::byte>(tile * row_bytes);
    for (int64_t r = 0; r < w.rows; ++r) std::memcpy(whole + r * row_bytes, at + r * stride, row_bytes);
    std::memset(whole + w.rows * row_bytes, 0, (tile - w.rows) * row_bytes);
    at = next = whole, stride = row_bytes;
  }
  const std::byte* at;
  int64_t stride;
  const std::byte* next;  // what lies behind it
};

/// x in 8 bits: whole tiles of `height` rows, each as Activations8.
struct Quantized {
  Activations8 Tile(int64_t tile) const {
    return {q + tile * height * cols, scale + tile * height * (cols / kActBlock), sum + tile * height * groups,
            begin + tile * height * groups, height};
  }
  int64_t cols, groups, height;
  int8_t* q = nullptr;
  float *scale = nullptr, *sum = nullptr;
  int32_t* begin = nullptr;
};

Activations8 From(const Activations8& x, int64_t value, int32_t group) {
  const int64_t block = value / kActBlock * x.height, at = value / group * x.height;
  return {x.q + block * kActBlock, x.scale + block, x.sum + at, x.begin + at, x.height};
}

void Quantize(ConstMat x, const BlockType& type, const Quantized& to) {
  ParallelChunks(x.rows, RowGrain(x.cols), [&](int64_t first, int64_t end) {
    for (int64_t row = first; row < end; ++row) {
      const Activations8 tile = to.Tile(row / to.height);
      const int64_t r = row % to.height;
      auto* q = const_cast<int8_t*>(tile.q) + r * kActBlock;
      auto* scale = const_cast<float*>(tile.scale) + r;
      HWY_DYNAMIC_DISPATCH(QuantizeActivations)(RowOf(x, row), x.cols, to.height, q, scale);
      for (int64_t g = 0; g < to.groups; ++g) {
        const Activations8 at = From(tile, g * type.group, type.group);
        const int8_t* levels = at.q + r * kActBlock + g * type.group % kActBlock;
        int32_t total = 0;
        for (int64_t i = 0; i < type.group; ++i) total += levels[i];
        const_cast<int32_t*>(at.begin)[r] = -type.offset * total;
        const_cast<float*>(at.sum)[r] = at.scale[r] * static_cast<float>(total);
      }
    }
  });
}

/// Reads memory from end to end, as fast as it comes. Nobody has fetched the first tile of a piece.
void Touch(const std::byte* at, int64_t bytes) {
  constexpr int64_t kLine = 64;
  for (int64_t i = 0; i < bytes; i += kLine) (void)*static_cast<const volatile std::byte*>(at + i);
}

/// Weights times few rows.
void FewRows(const BlockKernels& kernels, ConstMat w, int64_t row_bytes, int64_t blocks, const Quantized& x,
             const float* bias, Mat y) {
  constexpr int64_t kTiles = 16;  // whose sums stay in a first cache
  thread_local Scratch sums, padding;
  const int64_t tile = kernels.tile, rows = y.rows;
  float* to = sums.Get<float>(kTiles * kDotRows * tile);
  const Activations8 of = x.Tile(0);
  const auto* at = w.Row<std::byte>(0);
  Touch(at, std::min(tile, w.rows) * row_bytes);
  for (int64_t first = 0; first < w.rows; first += kTiles * tile) {
    const int64_t end = std::min(first + kTiles * tile, w.rows);
    for (int64_t j = first; j < end; j += tile, at += tile * w.ld) {
      float* sum = to + (j - first) * rows;
      if (j + tile <= end) {
        kernels.dot(at, w.ld, blocks, of, static_cast<int>(rows), sum, at + tile * w.ld);
      } else {
        const Tile last(w.Rows(j, end - j), row_bytes, tile, padding);
        kernels.dot(last.at, last.stride, blocks, of, static_cast<int>(rows), sum, last.next);
      }
    }
    HWY_DYNAMIC_DISPATCH(StoreTiles)(to, tile, bias == nullptr ? nullptr : bias + first, y.Cols(first, end - first));
  }
}

/// One tile of weights, taken apart piece by piece, times many rows; y.rows and `first` count from a whole tile of x.
void ManyRows(const BlockKernels& kernels, const BlockType& type, const Tile& w, const Quantized& x, int64_t first,
              const float* bias, Mat y) {
  thread_local Scratch q, scales, sums;
  const int64_t tile = kernels.tile, groups = kPanelValues / type.group, tiles = (y.rows + kPanelRows - 1) / kPanelRows;
  float* scale = scales.Get<float>(2 * groups * tile);
  const WeightPanel panel{q.Get<uint8_t>(kPanelValues * tile), scale, scale + groups * tile};
  float* to = sums.Get<float>(tiles * kPanelRows * tile);
  for (int64_t value = 0; value < x.cols; value += kPanelValues) {
    const int64_t values = std::min(kPanelValues, x.cols - value);
    kernels.unpack(w.at + value / type.values * type.bytes, w.stride, values / type.values, panel);
    for (int64_t t = 0; t < tiles; ++t) {
      const int rows = static_cast<int>(std::min<int64_t>(kPanelRows, y.rows - t * kPanelRows));
      kernels.panel(panel, From(x.Tile(first / kPanelRows + t), value, type.group), values / type.group, rows,
                    value == 0, to + t * kPanelRows * tile);
    }
  }
  HWY_DYNAMIC_DISPATCH(StoreTiles)(to, tile, bias, y);
}

}  // namespace

int64_t MaxBlockDotRows(Isa isa, DType x) {
  if (isa == Isa::kScalar) return 8;
  return isa == Isa::kAmx && x == DType::kBF16 ? 64 : INT64_MAX;
}

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
  constexpr int64_t kAmxRows = 9;  // fewer leave its tiles too empty
  const BlockType& type = *FindBlockType(args.w.dtype);
  const int64_t rows = args.x.rows, cols = args.x.cols;
  const Isa isa = rows < kAmxRows ? std::min(CurrentIsa(), Isa::kAvx512Bf16) : CurrentIsa();
  const BlockKernels& kernels = GetBlockKernels(isa, args.w.dtype);
  const int64_t height = rows <= kDotRows ? rows : kPanelRows, padded = (rows + height - 1) / height * height;
  Quantized x{.cols = cols, .groups = cols / type.group, .height = height};
  x.q = q_.Get<int8_t>(padded * cols);
  x.scale = scales_.Get<float>(padded * (cols / kActBlock + x.groups));
  x.sum = x.scale + padded * (cols / kActBlock);
  x.begin = begins_.Get<int32_t>(padded * x.groups);
  Quantize(args.x, type, x);
  const float* bias = nullptr;
  if (!args.bias.empty()) {
    const Mat wide{bias_.Get<float>(args.bias.cols), DType::kF32, 1, args.bias.cols, args.bias.cols};
    CopyMat(args.bias, wide);
    bias = wide.Row<float>(0);
  }
  // Rows of x at a time, so that they stay in second caches.
  const int64_t most = std::max<int64_t>(1, (int64_t{1} << 20) / std::max<int64_t>(1, cols) / kPanelRows) * kPanelRows;
  const int64_t tile = kernels.tile, row_bytes = cols / type.values * type.bytes;
  for (int64_t first = 0; first < rows; first += most) {
    const int64_t count = std::min(most, rows - first);
    ParallelChunks(args.w.rows, WeightGrain(count, args.w, tile), [&](int64_t from, int64_t end) {
      if (rows <= kDotRows) {
        return FewRows(kernels, args.w.Rows(from, end - from), row_bytes, cols / type.values, x,
                       bias == nullptr ? nullptr : bias + from, args.y.Rows(first, count).Cols(from, end - from));
      }
      thread_local Scratch padding;
      if (kernels.begin != nullptr) kernels.begin();
      for (int64_t j = from; j < end; j += tile) {
        const int64_t here = std::min(tile, end - j);
        const Tile w(args.w.Rows(j, here), row_bytes, tile, padding);
        ManyRows(kernels, type, w, x, first, bias == nullptr ? nullptr : bias + j,
                 args.y.Rows(first, count).Cols(j, here));
      }
      if (kernels.end != nullptr) kernels.end();
    });
  }
}

}  // namespace hawser
#endif
