// cpu/tile_decode-inl.h - a few queries against rows of keys or values as they are stored, over a vector type V of
// tile_loops-inl.h.
#pragma once

#include "hawser/base/q8.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/cpu/tile_parts-inl.h"

namespace hawser {
namespace {

template <class V>
struct DecodeLoops {
  using F = typename V::F;
  static constexpr int kLanes = V::kLanes;

  // Rows of one head stand far apart where there are many heads, and no hardware foresees that: those of the next tile
  // are asked for into the second-level cache, row by row beside this tile's own. Nearer rows, or the first-level
  // cache, brought half as many bytes a second. The next tile may have fewer rows: a prefetch may name what is not
  // there.
  static void Prefetch(const DecodeTile& a, int64_t offset, int64_t bytes) {
    if (a.next == nullptr) return;
    const char* row = static_cast<const char*>(a.next) + offset;
    for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
  }

  // Queries are taken four at a time, and what is left of them together, so that a row is read and widened as seldom as
  // can be. Where there are registers enough, four rows share what is read of the queries, and how their sums end.
  static constexpr int kScoreRows = kLanes == 16 ? 4 : 1;
  template <class T, int Q>
  static void ScoresOf(const DecodeTile& a, int32_t first) {
    int32_t r = 0;
    for (; r + kScoreRows <= a.n; r += kScoreRows) ScoreRows<T, Q, kScoreRows>(a, first, r);
    for (; r < a.n; ++r) ScoreRows<T, Q, 1>(a, first, r);
  }
  template <class T, int Q, int R>
  static void ScoreRows(const DecodeTile& a, int32_t first, int32_t r) {
    const float* x = a.x + first * a.ldx;
    const T* row = static_cast<const T*>(a.rows) + r * a.ld;
    F sum[Q][R];
    float tail[Q][R];
#pragma GCC unroll 4
    for (int j = 0; j < R; ++j) {
      Prefetch(a, (r + j) * a.ld * int64_t{sizeof(T)}, a.dim * int64_t{sizeof(T)});
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) sum[q][j] = V::Set(0.0f), tail[q][j] = 0.0f;
    }
    int32_t i = 0;
    for (; i + kLanes <= a.dim; i += kLanes) {
      F k[R];
#pragma GCC unroll 4
      for (int j = 0; j < R; ++j) k[j] = V::LoadAs(row + j * a.ld + i);
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) {
        const F query = V::Load(x + q * a.ldx + i);
#pragma GCC unroll 4
        for (int j = 0; j < R; ++j) sum[q][j] = V::Fma(query, k[j], sum[q][j]);
      }
    }
    for (; i < a.dim; ++i) {
      for (int j = 0; j < R; ++j) {
        for (int q = 0; q < Q; ++q) tail[q][j] += x[q * a.ldx + i] * Widen(row[j * a.ld + i]);
      }
    }
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) {
      float* to = a.s + (first + q) * a.lds + r;
      if constexpr (R == 4) {
        V::ReduceAdd4(sum[q], tail[q], to);
      } else {
        *to = V::ReduceAdd(sum[q][0]) + tail[q][0];
      }
    }
  }
  template <class T, int Q>
  static void MixOf(const DecodeTile& a, int32_t first) {
    float* x = a.x + first * a.ldx;
    const float* s = a.s + first * a.lds;
    int32_t i = 0;
    // Four vectors of channels stay in registers over all rows.
    for (; i + 4 * kLanes <= a.dim; i += 4 * kLanes) MixColumns<T, Q, 4>(a, x, s, i);
    for (; i + kLanes <= a.dim; i += kLanes) MixColumns<T, Q, 1>(a, x, s, i);
    for (; i < a.dim; ++i) {
      for (int32_t r = 0; r < a.n; ++r) {
        const float value = Widen(static_cast<const T*>(a.rows)[r * a.ld + i]);
        for (int q = 0; q < Q; ++q) x[q * a.ldx + i] += s[q * a.lds + r] * value;
      }
    }
  }
  template <class T, int Q, int NV>
  static void MixColumns(const DecodeTile& a, float* x, const float* s, int32_t i) {
    F sum[Q][NV];
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[q][v] = V::Load(x + q * a.ldx + i + v * kLanes);
    }
    for (int32_t r = 0; r < a.n; ++r) {
      const T* row = static_cast<const T*>(a.rows) + r * a.ld + i;
      Prefetch(a, (r * a.ld + i) * int64_t{sizeof(T)}, NV * kLanes * int64_t{sizeof(T)});
      F value[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) value[v] = V::LoadAs(row + v * kLanes);
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) {
        const F p = V::Set(s[q * a.lds + r]);
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[q][v] = V::Fma(p, value[v], sum[q][v]);
      }
    }
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) V::Store(x + q * a.ldx + i + v * kLanes, sum[q][v]);
    }
  }
  // The same from blocks of Q8_0: their scales multiply sums (scores) or weights (mix), never single values.
  template <int Q>
  static void BlockScores(const DecodeTile& a, int32_t first) {
    const float* x = a.x + first * a.ldx;
    for (int32_t r = 0; r < a.n; ++r) {
      const char* block = static_cast<const char*>(a.rows) + r * a.ld;
      Prefetch(a, r * a.ld, a.dim + 2 * ((a.dim + kQ8Block - 1) / kQ8Block));
      F sum[Q];
      float tail[Q];
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) sum[q] = V::Set(0.0f), tail[q] = 0.0f;
      for (int32_t begin = 0; begin < a.dim; begin += kQ8Block) {
        const int32_t n = a.dim - begin < kQ8Block ? a.dim - begin : kQ8Block;
        const int8_t* levels = reinterpret_cast<const int8_t*>(block + 2);
        const float d = WidenHalf(block);
        F part[Q];
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q) part[q] = V::Set(0.0f);
        int32_t i = 0;
        for (; i + kLanes <= n; i += kLanes) {
          const F k = V::LoadBytes(levels + i);
#pragma GCC unroll 4
          for (int q = 0; q < Q; ++q) part[q] = V::Fma(V::Load(x + q * a.ldx + begin + i), k, part[q]);
        }
#pragma GCC unroll 4
        for (int q = 0; q < Q; ++q) sum[q] = V::Fma(V::Set(d), part[q], sum[q]);
        for (; i < n; ++i) {
          for (int q = 0; q < Q; ++q) tail[q] += x[q * a.ldx + begin + i] * d * static_cast<float>(levels[i]);
        }
        block += 2 + n;
      }
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) a.s[(first + q) * a.lds + r] = V::ReduceAdd(sum[q]) + tail[q];
    }
  }
  template <int Q>
  static void BlockMix(const DecodeTile& a, int32_t first) {
    constexpr int kWhole = kQ8Block / kLanes;
    float* x = a.x + first * a.ldx;
    const float* s = a.s + first * a.lds;
    const char* column = static_cast<const char*>(a.rows);
    for (int32_t begin = 0; begin < a.dim; begin += kQ8Block) {
      const int32_t n = a.dim - begin < kQ8Block ? a.dim - begin : kQ8Block;
      int32_t i = 0;
      if (n == kQ8Block) {
        MixBlocks<Q, kWhole>(a, x, s, column, begin, 0);
        i = n;
      }
      for (; i + kLanes <= n; i += kLanes) MixBlocks<Q, 1>(a, x, s, column, begin, i);
      for (; i < n; ++i) {
        for (int32_t r = 0; r < a.n; ++r) {
          const char* block = column + r * a.ld;
          const float value = WidenHalf(block) * static_cast<float>(reinterpret_cast<const int8_t*>(block + 2)[i]);
          for (int q = 0; q < Q; ++q) x[q * a.ldx + begin + i] += s[q * a.lds + r] * value;
        }
      }
      column += 2 + n;
    }
  }
  /// NV vectors of channels from `i` on of the blocks at `column`.
  template <int Q, int NV>
  static void MixBlocks(const DecodeTile& a, float* x, const float* s, const char* column, int32_t begin, int32_t i) {
    F sum[Q][NV];
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) sum[q][v] = V::Load(x + q * a.ldx + begin + i + v * kLanes);
    }
    for (int32_t r = 0; r < a.n; ++r) {
      const char* block = column + r * a.ld;
      Prefetch(a, column - static_cast<const char*>(a.rows) + r * a.ld, 2 + i + NV * kLanes);
      const int8_t* levels = reinterpret_cast<const int8_t*>(block + 2) + i;
      const float d = WidenHalf(block);
      F value[NV];
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) value[v] = V::LoadBytes(levels + v * kLanes);
#pragma GCC unroll 4
      for (int q = 0; q < Q; ++q) {
        const F p = V::Set(d * s[q * a.lds + r]);
#pragma GCC unroll 8
        for (int v = 0; v < NV; ++v) sum[q][v] = V::Fma(p, value[v], sum[q][v]);
      }
    }
#pragma GCC unroll 4
    for (int q = 0; q < Q; ++q) {
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) V::Store(x + q * a.ldx + begin + i + v * kLanes, sum[q][v]);
    }
  }
  template <class T>
  static void DecodeOf(const DecodeTile& a, bool scores) {
    int32_t q = 0;
    for (; q + 4 <= a.count; q += 4) scores ? ScoresOf<T, 4>(a, q) : MixOf<T, 4>(a, q);
    if (a.count - q == 3) return scores ? ScoresOf<T, 3>(a, q) : MixOf<T, 3>(a, q);
    if (a.count - q == 2) return scores ? ScoresOf<T, 2>(a, q) : MixOf<T, 2>(a, q);
    if (a.count - q == 1) return scores ? ScoresOf<T, 1>(a, q) : MixOf<T, 1>(a, q);
  }
  static void DecodeBlocks(const DecodeTile& a, bool scores) {
    int32_t q = 0;
    for (; a.count - q > 3 || a.count - q == 2; q += 2) scores ? BlockScores<2>(a, q) : BlockMix<2>(a, q);
    if (a.count - q == 3) return scores ? BlockScores<3>(a, q) : BlockMix<3>(a, q);
    if (a.count - q == 1) return scores ? BlockScores<1>(a, q) : BlockMix<1>(a, q);
  }
  static void Dequantize(const DequantizeArgs& a) {
    const char* from = static_cast<const char*>(a.from);
    for (int32_t r = 0; r < a.rows; ++r, from += a.stride) {
      const char* block = from;
      float* to = a.to + r * a.ld;
      for (int32_t begin = 0; begin < a.dim; begin += kQ8Block) {
        const int32_t n = a.dim - begin < kQ8Block ? a.dim - begin : kQ8Block;
        const float d = WidenHalf(block);
        const int8_t* q = reinterpret_cast<const int8_t*>(block + 2);
        const F scale = V::Set(d);
        int32_t i = 0;
        for (; i + kLanes <= n; i += kLanes) V::Store(to + begin + i, V::Mul(V::LoadBytes(q + i), scale));
        for (; i < n; ++i) to[begin + i] = d * static_cast<float>(q[i]);
        block += 2 + n;
      }
    }
  }
  static void Scores(const DecodeTile& a) {
    if (a.dtype == DType::kQ8_0) return DecodeBlocks(a, true);
    a.dtype == DType::kBF16 ? DecodeOf<bf16>(a, true) : DecodeOf<float>(a, true);
  }
  static void Mix(const DecodeTile& a) {
    if (a.dtype == DType::kQ8_0) return DecodeBlocks(a, false);
    a.dtype == DType::kBF16 ? DecodeOf<bf16>(a, false) : DecodeOf<float>(a, false);
  }
};

}  // namespace
}  // namespace hawser
