// cpu/tile_loops-inl.h - the loops of tile_kernels.h over a vector type V, included by one file per instruction set.
// All of it is static and uses nothing from the standard library, so that no function compiled for one instruction set
// can be linked into another file.
//   V::F         a vector of V::kLanes floats          V::kMr, V::kNv   the register tile of a product
//   V::Exp2<d>   2^x by a polynomial of degree d at least; 2^-infinity is exactly 0
//   V::LoadBytes kLanes signed bytes as floats
//   V::MulAdd    c + a * b over lanes of 4 bytes: one F32 product, or two BF16 products
#pragma once

#include "hawser/cpu/tile_decode-inl.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/cpu/tile_parts-inl.h"

namespace hawser {
namespace {

template <class V>
struct TileLoops {
  using F = typename V::F;
  static constexpr int kLanes = V::kLanes;

  // Register tile: MR rows x NV vectors of accumulators, one broadcast of A against NV vectors of B per step. A step is
  // 4 bytes of A, one F32 or a pair of BF16, and so is a lane of B: the same loop serves both.
  template <int MR, int NV>
  static void ProductTile(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int32_t k,
                          bool accumulate) {
    F acc[MR][NV];
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) acc[r][v] = accumulate ? V::Load(c + r * ldc + v * kLanes) : V::Set(0.0f);
    }
    for (int32_t i = 0; i < k; ++i) {
      F bv[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) bv[v] = V::Load(b + i * ldb + v * kLanes);
#pragma GCC unroll 16
      for (int r = 0; r < MR; ++r) {
        const F x = V::Set(a[r * lda + i]);
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) acc[r][v] = V::MulAdd(x, bv[v], acc[r][v]);
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) V::Store(c + r * ldc + v * kLanes, acc[r][v]);
    }
  }

  template <int MR>
  static void ProductRows(const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc, int32_t n,
                          int32_t k, bool accumulate) {
    constexpr int kWide = V::kNv * kLanes;
    int32_t j = 0;
    for (; j + kWide <= n; j += kWide) ProductTile<MR, V::kNv>(a, lda, b + j, ldb, c + j, ldc, k, accumulate);
    if constexpr (kWide > kColStep) {
      constexpr int kStep = kColStep / kLanes;
      const int32_t left = n - j;
      if (left == 48) ProductTile<MR, 3 * kStep>(a, lda, b + j, ldb, c + j, ldc, k, accumulate);
      if (left == 32) ProductTile<MR, 2 * kStep>(a, lda, b + j, ldb, c + j, ldc, k, accumulate);
      if (left == 16) ProductTile<MR, kStep>(a, lda, b + j, ldb, c + j, ldc, k, accumulate);
    }
  }

  template <int kPair>
  static void Product(const ProductArgs& p) {
    const float* a = static_cast<const float*>(p.a);
    const int64_t lda = p.lda / kPair, ldb = p.ldb / kPair, panel = p.panel / kPair;
    const int32_t k = p.k / kPair;
    for (int32_t j = 0; j < p.n;) {
      const int32_t column = p.b_first + j, inside = column % kPanel;
      const int32_t width = p.n - j < kPanel - inside ? p.n - j : kPanel - inside;
      const float* b = static_cast<const float*>(p.b) + column / kPanel * panel + inside;
      float* c = p.c + j;
      int32_t r = 0;
      for (; r + V::kMr <= p.m; r += V::kMr) {
        ProductRows<V::kMr>(a + r * lda, lda, b, ldb, c + r * p.ldc, p.ldc, width, k, p.accumulate);
      }
      Rest<V::kMr - 1>(p.m - r, a + r * lda, lda, b, ldb, c + r * p.ldc, p.ldc, width, k, p.accumulate);
      j += width;
    }
  }
  /// The last rows, fewer than a register tile has.
  template <int MR>
  static void Rest(int32_t rows, const float* a, int64_t lda, const float* b, int64_t ldb, float* c, int64_t ldc,
                   int32_t n, int32_t k, bool accumulate) {
    if (rows == MR) ProductRows<MR>(a, lda, b, ldb, c, ldc, n, k, accumulate);
    if constexpr (MR > 1) {
      if (rows < MR) Rest<MR - 1>(rows, a, lda, b, ldb, c, ldc, n, k, accumulate);
    }
  }

  static float RowMax(const float* s, int32_t cols) {
    // Four chains, so that no step waits for the one before.
    F top[4] = {V::Set(kNegInf), V::Set(kNegInf), V::Set(kNegInf), V::Set(kNegInf)};
    int32_t c = 0;
    for (; c + 4 * kLanes <= cols; c += 4 * kLanes) {
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) top[i] = V::Max(top[i], V::Load(s + c + i * kLanes));
    }
    for (; c < cols; c += kLanes) top[0] = V::Max(top[0], V::Load(s + c));
    return V::ReduceMax(V::Max(V::Max(top[0], top[1]), V::Max(top[2], top[3])));
  }

  /// p = exp2(s * scale + shift); returns their sum.
  template <class T>
  static float RowExp(const float* s, T* p, int32_t cols, float scale, float shift) {
    constexpr int kDegree = sizeof(T) == 2 ? 4 : 5;  // the sum is F32 in either case
    const F factor = V::Set(scale), offset = V::Set(shift);
    F sum[4] = {V::Set(0.0f), V::Set(0.0f), V::Set(0.0f), V::Set(0.0f)};
    int32_t c = 0;
    for (; c + 4 * kLanes <= cols; c += 4 * kLanes) {
#pragma GCC unroll 2
      for (int i = 0; i < 4; i += 2) {
        const float* from = s + c + i * kLanes;
        const F a = V::template Exp2<kDegree>(V::Fma(V::Load(from), factor, offset));
        const F b = V::template Exp2<kDegree>(V::Fma(V::Load(from + kLanes), factor, offset));
        sum[i] = V::Add(sum[i], a);
        sum[i + 1] = V::Add(sum[i + 1], b);
        if constexpr (sizeof(T) == 2) {
          V::StoreTwo(p + c + i * kLanes, a, b);
        } else {
          V::Store(p + c + i * kLanes, a);
          V::Store(p + c + (i + 1) * kLanes, b);
        }
      }
    }
    for (; c < cols; c += kLanes) {
      const F e = V::template Exp2<kDegree>(V::Fma(V::Load(s + c), factor, offset));
      sum[0] = V::Add(sum[0], e);
      V::StoreAs(p + c, e);
    }
    return V::ReduceAdd(V::Add(V::Add(sum[0], sum[1]), V::Add(sum[2], sum[3])));
  }

  /// Raises the maximum of row r to `row_max`, rescales what the row has summed up, returns the shift of its exponents:
  /// -max, or 0 for a row that has seen nothing, where every exponential is 0 anyway.
  static float RaiseMax(const SoftmaxArgs& args, int32_t r, float row_max) {
    const float old_max = args.max[r];
    if (!(row_max > old_max)) return old_max == kNegInf ? 0.0f : -old_max;
    const F shrink = V::template Exp2<5>(V::Set(old_max - row_max));
    args.sum[r] *= V::First(shrink);
    args.max[r] = row_max;
    float* out = args.out + r * args.ldo;
    for (int32_t c = 0; !args.first && c < args.out_cols; c += kLanes)
      V::Store(out + c, V::Mul(V::Load(out + c), shrink));
    return -row_max;
  }

  // All maxima of a few rows, then all exponentials: the second loop does not wait for the reductions of the first.
  template <class T>
  static void SoftmaxOf(const SoftmaxArgs& args) {
    constexpr int kRows = 16;
    float maxima[kRows];
    for (int32_t first = 0; first < args.rows; first += kRows) {
      const int32_t rows = args.rows - first < kRows ? args.rows - first : kRows;
      for (int32_t i = 0; i < rows; ++i) {
        maxima[i] = RowMax(args.s + (first + i) * args.lds, args.cols) * args.scale2;
      }
      for (int32_t i = 0; i < rows; ++i) {
        const int32_t r = first + i;
        const float shift = RaiseMax(args, r, maxima[i]);
        T* p = static_cast<T*>(args.p) + r * args.ldp;
        args.sum[r] += RowExp(args.s + r * args.lds, p, args.cols, args.scale2, shift);
      }
    }
  }

  /// tanh within 3e-7 of its size, by a rational minimax on [-9, 9], beyond which it is 1 in F32.
  static F Tanh(F x) {
    x = V::Min(V::Set(9.0f), V::Max(V::Set(-9.0f), x));  // in this order NaN stays NaN
    const F y = V::Mul(x, x);
    F p = V::Set(1.3353076e-8f), q = V::Set(7.77592447e-7f);
    p = V::Fma(p, y, V::Set(2.06079931e-5f)), q = V::Fma(q, y, V::Set(3.28552938e-4f));
    p = V::Fma(p, y, V::Set(3.49552487e-3f)), q = V::Fma(q, y, V::Set(2.58767456e-2f));
    p = V::Fma(p, y, V::Set(1.3380973e-1f)), q = V::Fma(q, y, V::Set(4.6714288e-1f));
    p = V::Fma(p, y, V::Set(1.0f)), q = V::Fma(q, y, V::Set(1.0f));
    return V::Div(V::Mul(x, p), q);
  }

  static void SoftCap(const SoftCapArgs& args) {
    const F in = V::Set(args.in), out = V::Set(args.out);
    for (int32_t r = 0; r < args.rows; ++r) {
      float* s = args.s + r * args.lds;
      float* dp = args.dp == nullptr ? nullptr : args.dp + r * args.lds;
      for (int32_t c = 0; c < args.cols; c += kLanes) {
        const F t = Tanh(V::Mul(V::Load(s + c), in));
        V::Store(s + c, V::Mul(t, out));
        if (dp == nullptr) continue;
        const F delta = V::Load(args.delta + c), rest = V::Sub(V::Load(dp + c), delta);
        V::Store(dp + c, V::Add(V::Sub(rest, V::Mul(rest, V::Mul(t, t))), delta));
      }
    }
  }

  static void Bias(const BiasArgs& args) {
    const F scale = V::Set(args.scale2);
    for (int32_t r = 0; r < args.rows; ++r) {
      float* s = args.s + r * args.lds;
      const F place = V::Set(args.row_place[r]);
      const F row_weight = V::Set(args.by_row ? args.weight[r] : 0.0f);
      for (int32_t c = 0; c < args.cols; c += kLanes) {
        const F weight = args.by_row ? row_weight : V::Load(args.weight + c);
        const F bias = V::Mul(weight, V::Sub(V::Load(args.col_place + c), place));
        V::Store(s + c, V::Fma(V::Load(s + c), scale, bias));
      }
    }
  }

  template <class T>
  static void GradientOf(const GradientArgs& args) {
    constexpr int kDegree = sizeof(T) == 2 ? 3 : 5;
    const F scale = V::Set(args.scale2);
    for (int32_t r = 0; r < args.rows; r += 2) {
      const float *s = args.s + r * args.lds, *dp = args.dp + r * args.lds;
      T* p_to = static_cast<T*>(args.p) + r * args.ldp;
      T* ds_to = static_cast<T*>(args.ds) + r * args.ldp;
      for (int32_t c = 0; c < args.cols; c += kLanes) {
        const F shift = V::Load(args.shift + c), delta = V::Load(args.delta + c);
        F p[2], ds[2];
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
          p[i] = V::template Exp2<kDegree>(V::Fma(V::Load(s + i * args.lds + c), scale, shift));
          ds[i] = V::Mul(p[i], V::Sub(V::Load(dp + i * args.lds + c), delta));
        }
        if constexpr (sizeof(T) == 2) {
          V::StoreRows(p_to + c, p_to + args.ldp + c, p[0], p[1]);
          const auto both = V::StoreRows(ds_to + c, ds_to + args.ldp + c, ds[0], ds[1]);
          V::StorePairs(static_cast<bf16*>(args.ds_pairs) + r / 2 * args.ld_pairs + 2 * c, both);
        } else {
          V::Store(p_to + c, p[0]);
          V::Store(p_to + args.ldp + c, p[1]);
          V::Store(ds_to + c, ds[0]);
          V::Store(ds_to + args.ldp + c, ds[1]);
        }
      }
    }
  }

  template <class From, class To>
  static void ConvertOf(const From* from, To* to, int64_t n, float scale) {
    const F factor = V::Set(scale);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) V::StoreAs(to + i, V::Mul(V::LoadAs(from + i), factor));
    for (; i < n; ++i) Narrow(Widen(from[i]) * scale, to + i);
  }
  static void Convert(const void* from, DType from_dtype, void* to, DType to_dtype, int64_t n, float scale) {
    const bool from_f32 = from_dtype == DType::kF32, to_f32 = to_dtype == DType::kF32;
    if (from_f32 && to_f32) ConvertOf(static_cast<const float*>(from), static_cast<float*>(to), n, scale);
    if (from_f32 && !to_f32) ConvertOf(static_cast<const float*>(from), static_cast<bf16*>(to), n, scale);
    if (!from_f32 && to_f32) ConvertOf(static_cast<const bf16*>(from), static_cast<float*>(to), n, scale);
    if (!from_f32 && !to_f32) ConvertOf(static_cast<const bf16*>(from), static_cast<bf16*>(to), n, scale);
  }

  static void Transpose(const void* from, int64_t ld_from, int32_t rows, int32_t cols, void* to, int64_t ld_to) {
    const uint32_t* f = static_cast<const uint32_t*>(from);
    uint32_t* t = static_cast<uint32_t*>(to);
    for (int32_t r0 = 0; r0 < rows; r0 += V::kSquare) {
      for (int32_t c0 = 0; c0 < cols; c0 += V::kSquare) {
        const int32_t r1 = r0 + V::kSquare < rows ? r0 + V::kSquare : rows;
        const int32_t c1 = c0 + V::kSquare < cols ? c0 + V::kSquare : cols;
        if (r1 - r0 == V::kSquare && c1 - c0 == V::kSquare) {
          V::TransposeSquare(f + r0 * ld_from + c0, ld_from, t + c0 * ld_to + r0, ld_to);
          continue;
        }
        for (int32_t c = c0; c < c1; ++c) {
          for (int32_t r = r0; r < r1; ++r) t[c * ld_to + r] = f[r * ld_from + c];
        }
      }
    }
  }

  static void JoinPairs(const bf16* even, const bf16* odd, bf16* to, int64_t n) {
    for (int64_t i = 0; i < n; i += kColStep) V::Join16(even + i, odd + i, to + 2 * i);
  }
  static void SplitPairs(const bf16* from, bf16* even, bf16* odd, int64_t n) {
    for (int64_t i = 0; i < n; i += kColStep) V::Split16(from + 2 * i, even + i, odd + i);
  }

  static float Dot(const float* a, const float* b, int64_t n) {
    F sum = V::Set(0.0f);
    int64_t i = 0;
    for (; i + kLanes <= n; i += kLanes) sum = V::Fma(V::Load(a + i), V::Load(b + i), sum);
    float tail = 0.0f;
    for (; i < n; ++i) tail += a[i] * b[i];
    return V::ReduceAdd(sum) + tail;
  }

  // 12 chains: enough for two multiply-adds a cycle at a latency of 6.
  template <int kPair>
  static int64_t Burn(int64_t steps) {
    constexpr int kChains = 12;
    F acc[kChains];
#pragma GCC unroll 12
    for (int i = 0; i < kChains; ++i) acc[i] = V::Set(static_cast<float>(i));
    F x = V::Set(1e-3f);
    asm volatile("" : "+v"(x));
    for (int64_t s = 0; s < steps; ++s) {
#pragma GCC unroll 12
      for (int i = 0; i < kChains; ++i) acc[i] = V::MulAdd(x, x, acc[i]);
    }
    F sum = acc[0];
#pragma GCC unroll 12
    for (int i = 1; i < kChains; ++i) sum = V::Add(sum, acc[i]);
    asm volatile("" ::"v"(sum));
    return steps * kChains * kLanes * kPair * 2;
  }
};

template <class V, class T>
constexpr TileKernels MakeKernels(Isa isa, int32_t row_group) {
  using L = TileLoops<V>;
  using Decode = DecodeLoops<V>;
  constexpr int kPair = sizeof(float) / sizeof(T);
  return {.isa = isa,
          .dtype = kPair == 2 ? DType::kBF16 : DType::kF32,
          .m_align = 1,
          .k_align = kPair,
          .row_group = row_group,
          .begin = [] {},
          .end = [] {},
          .product = L::template Product<kPair>,
          .softmax = L::template SoftmaxOf<T>,
          .gradient = L::template GradientOf<T>,
          .soft_cap = L::SoftCap,
          .bias = L::Bias,
          .convert = L::Convert,
          .transpose = L::Transpose,
          .join_pairs = L::JoinPairs,
          .split_pairs = L::SplitPairs,
          .dot = L::Dot,
          .burn = L::template Burn<kPair>,
          .decode_scores = Decode::Scores,
          .decode_mix = Decode::Mix,
          .dequantize = Decode::Dequantize};
}

}  // namespace
}  // namespace hawser
