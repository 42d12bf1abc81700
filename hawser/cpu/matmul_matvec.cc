#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/cpu/matmul_matvec.cc"
#include "hwy/foreach_target.h"  // must come before simd-inl.h
// clang-format off
#include "hawser/cpu/simd-inl.h"
// clang-format on

#include "hawser/base/parallel.h"
#include "hawser/cpu/matmul_matvec.h"
#include "hawser/cpu/scratch.h"
#include "hawser/cpu/tile_kernels.h"

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

HWY_INLINE VF LoadHalves(const void* from, int64_t i) {
  const hn::Rebind<hwy::float16_t, DF> halves;
  return hn::PromoteTo(DF(), hn::LoadU(halves, static_cast<const hwy::float16_t*>(from) + i));
}

// The next 2 * Lanes() elements as two vectors. bf16 pairs are taken apart without a shuffle: the low halves of 32-bit
// words are the even elements, the high halves the odd ones. A dot product does not mind as long as a row of `a` is
// taken apart the same way.
template <DType kType>
HWY_INLINE void LoadPair(const void* from, int64_t i, VF& v0, VF& v1) {
  if constexpr (kType == DType::kF16) {
    v0 = LoadHalves(from, i);
    v1 = LoadHalves(from, i + Lanes());
  } else if constexpr (kType == DType::kBF16) {
    const uint16_t* at = static_cast<const uint16_t*>(from) + i;
#if HWY_TARGET == HWY_SCALAR
    v0 = LoadBF16(at);
    v1 = LoadBF16(at + Lanes());
#else
    const DU du;
    const VU words = hn::BitCast(du, hn::LoadU(hn::Repartition<uint16_t, DU>(), at));
    v0 = hn::BitCast(DF(), hn::ShiftLeft<16>(words));
    v1 = hn::BitCast(DF(), hn::And(words, hn::Set(du, 0xffff0000u)));
#endif
  } else {
    v0 = hn::LoadU(DF(), static_cast<const float*>(from) + i);
    v1 = hn::LoadU(DF(), static_cast<const float*>(from) + i + Lanes());
  }
}

// Elements [i, i + Lanes()) of a row of n, fewer at its end, in their order.
template <DType kType>
HWY_INLINE VF LoadLast(const void* from, int64_t i, int64_t n) {
  if constexpr (kType == DType::kF16) {
    HWY_ALIGN float lanes[HWY_MAX_BYTES / sizeof(float)] = {};
    for (int64_t j = i; j < n && j < i + Lanes(); ++j) lanes[j - i] = F16ToF32(static_cast<const uint16_t*>(from)[j]);
    return hn::Load(DF(), lanes);
  } else {
    return Get(ConstRow{from, kType == DType::kBF16}, i, n);
  }
}

// kRows x kCols dot products at once, two accumulators each: loads are shared and the latency of the FMA is hidden.
template <DType kType, int kRows, int kCols>
HWY_INLINE void Dots(const float* a, const ConstMat& b, const float* bias, int64_t j, const Mat& c, bool accumulate) {
  using T = std::conditional_t<kType == DType::kF32, float, uint16_t>;
  const int64_t k = b.cols, step = Lanes();
  VF even[kRows][kCols], odd[kRows][kCols];
  const void* rows[kCols];
  HAWSER_UNROLL
  for (int q = 0; q < kCols; ++q) rows[q] = b.Row<T>(j + q);
  HAWSER_UNROLL
  for (int r = 0; r < kRows; ++r) {
    HAWSER_UNROLL
    for (int q = 0; q < kCols; ++q) even[r][q] = odd[r][q] = Zero();
  }
  // Rows to come are fetched into the second-level cache: hardware begins anew at every row, and rows are short.
  constexpr int64_t kAheadBytes = 8192;
  const int64_t row_bytes = b.ld * static_cast<int64_t>(sizeof(T));
  const int64_t ahead = (kAheadBytes / std::max<int64_t>(1, row_bytes * kCols) + 1) * row_bytes * kCols;
  int64_t i = 0;
  for (; i + 2 * step <= k; i += 2 * step) {
    VF b0[kCols], b1[kCols];
    HAWSER_UNROLL
    for (int q = 0; q < kCols; ++q) {
      const auto* at = static_cast<const std::byte*>(rows[q]) + i * static_cast<int64_t>(sizeof(T)) + ahead;
      for (int64_t line = 0; line < 2 * step * static_cast<int64_t>(sizeof(T)); line += 64) {
        __builtin_prefetch(at + line, 0, 2);
      }
      LoadPair<kType>(rows[q], i, b0[q], b1[q]);
    }
    HAWSER_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const VF a0 = hn::LoadU(DF(), a + r * k + i), a1 = hn::LoadU(DF(), a + r * k + i + step);
      HAWSER_UNROLL
      for (int q = 0; q < kCols; ++q) {
        even[r][q] = hn::MulAdd(a0, b0[q], even[r][q]);
        odd[r][q] = hn::MulAdd(a1, b1[q], odd[r][q]);
      }
    }
  }
  for (; i < k; i += step) {
    HAWSER_UNROLL
    for (int q = 0; q < kCols; ++q) {
      const VF bv = LoadLast<kType>(rows[q], i, k);
      HAWSER_UNROLL
      for (int r = 0; r < kRows; ++r) even[r][q] = hn::MulAdd(Get(F32Row(a + r * k), i, k), bv, even[r][q]);
    }
  }
  HAWSER_UNROLL
  for (int r = 0; r < kRows; ++r) {
    HAWSER_UNROLL
    for (int q = 0; q < kCols; ++q) {
      float dot = SumLanes(hn::Add(even[r][q], odd[r][q]));
      if (bias != nullptr) dot += bias[j + q];
      if (c.dtype == DType::kBF16) {
        c.Row<bf16>(r)[j + q] = ToBF16(dot);
      } else {
        float& to = c.Row<float>(r)[j + q];
        to = accumulate ? to + dot : dot;
      }
    }
  }
}

template <DType kType, int kRows, int kCols>
HWY_INLINE void Columns(const float* a, const ConstMat& b, const float* bias, const Mat& c, bool accumulate,
                        int64_t begin, int64_t end) {
  int64_t j = begin;
  for (; j + kCols <= end; j += kCols) Dots<kType, kRows, kCols>(a, b, bias, j, c, accumulate);
  for (; j < end; ++j) Dots<kType, kRows, 1>(a, b, bias, j, c, accumulate);
}

template <DType kType>
HWY_INLINE void ByRows(const float* a, const ConstMat& b, const float* bias, const Mat& c, bool accumulate,
                       int64_t begin, int64_t end) {
  switch (c.rows) {
    case 1:
      return Columns<kType, 1, 4>(a, b, bias, c, accumulate, begin, end);
    case 2:
      return Columns<kType, 2, 4>(a, b, bias, c, accumulate, begin, end);
    case 3:
      return Columns<kType, 3, 4>(a, b, bias, c, accumulate, begin, end);
    default:
      return Columns<kType, 4, 2>(a, b, bias, c, accumulate, begin, end);
  }
}

// `a` as dense f32 rows in the order of LoadPair; columns [begin, end) of c.
void MatVecColumns(const float* a, const ConstMat& b, const float* bias, const Mat& c, bool accumulate, int64_t begin,
                   int64_t end) {
  if (b.dtype == DType::kBF16) return ByRows<DType::kBF16>(a, b, bias, c, accumulate, begin, end);
  if (b.dtype == DType::kF16) return ByRows<DType::kF16>(a, b, bias, c, accumulate, begin, end);
  return ByRows<DType::kF32>(a, b, bias, c, accumulate, begin, end);
}

// A row of n as f32 in the order that LoadPair gives elements of `order`.
void WidenRow(ConstRow from, DType order, float* to, int64_t n) {
  const int64_t step = Lanes();
  int64_t i = 0;
  for (; i + 2 * step <= n; i += 2 * step) {
    VF v0 = Get(from, i, n), v1 = Get(from, i + step, n);
    if (order == DType::kBF16 && from.low) {
      LoadPair<DType::kBF16>(from.data, i, v0, v1);
    } else if (order == DType::kBF16) {
      const float* pairs = static_cast<const float*>(from.data) + i;
      for (int64_t j = 0; j < step; ++j) {
        to[i + j] = pairs[2 * j];
        to[i + step + j] = pairs[2 * j + 1];
      }
      continue;
    }
    hn::StoreU(v0, DF(), to + i);
    hn::StoreU(v1, DF(), to + i + step);
  }
  for (; i < n; i += step) Put(Get(from, i, n), F32Row(to), i, n);
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(MatVecColumns);
HWY_EXPORT(WidenRow);

namespace {

/// Products of BF16 by BF16, where the instruction set has them.
void PairDots(const TileKernels& kernels, ConstMat a, ConstMat b, const float* bias, Mat c, bool accumulate) {
  // 3 us of work or more.
  const int64_t grain = StreamGrain(b.rows, 32768 / std::max<int64_t>(1, b.cols) + 7, 8);
  ParallelChunks(b.rows, grain, [&](int64_t begin, int64_t end) {
    const Mat to = c.Cols(begin, end - begin);
    kernels.dots({.a = a.Row<bf16>(0),
                  .lda = a.ld,
                  .rows = a.rows,
                  .b = b.Row<bf16>(begin),
                  .ldb = b.ld,
                  .columns = end - begin,
                  .k = b.cols,
                  .bias = bias == nullptr ? nullptr : bias + begin,
                  .to = to.data,
                  .to_dtype = to.dtype,
                  .ldto = to.ld,
                  .accumulate = accumulate});
  });
}

}  // namespace

void MatVec(ConstMat a, ConstMat b, const float* bias, Mat c, bool accumulate) {
  if (a.dtype == DType::kBF16 && b.dtype == DType::kBF16) {
    const TileKernels& kernels = GetTileKernels(CurrentIsa(), DType::kBF16);
    if (kernels.dots != nullptr) return PairDots(kernels, a, b, bias, c, accumulate);
  }
  thread_local Scratch scratch;
  float* rows = scratch.Get<float>(a.rows * a.cols);
  for (int64_t r = 0; r < a.rows; ++r) HWY_DYNAMIC_DISPATCH(WidenRow)(RowOf(a, r), b.dtype, rows + r * a.cols, a.cols);
  // 32K weights are some 3 us of work, above what handing a piece to a thread costs.
  const int64_t grain = StreamGrain(b.rows, 32768 / std::max<int64_t>(1, b.cols) + 3, 4);
  // Of these the part that stays in a first cache, or near it, while rows of `a` pass by four at a time.
  constexpr int64_t kRows = 4;
  const int64_t part =
      a.rows <= kRows ? grain : std::max<int64_t>(4, (16384 / std::max<int64_t>(1, b.cols) + 3) / 4 * 4);
  ParallelChunks(b.rows, grain, [&](int64_t begin, int64_t end) {
    for (int64_t from = begin; from < end; from += part) {
      for (int64_t r = 0; r < a.rows; r += kRows) {
        HWY_DYNAMIC_DISPATCH(MatVecColumns)
        (rows + r * a.cols, b, bias, c.Rows(r, std::min(kRows, a.rows - r)), accumulate, from,
         std::min(part, end - from) + from);
      }
    }
  });
}

}  // namespace hawser
#endif
