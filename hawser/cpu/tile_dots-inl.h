// cpu/tile_dots-inl.h - a few rows of BF16 times rows of weights in BF16, by vdpbf16ps: for files that have both it and
// Vec16 of tile_avx512-inl.h.
#pragma once

#include <algorithm>

#include "hawser/cpu/tile_avx512-inl.h"

namespace hawser {
namespace {

struct Bf16Dots {
  using F = __m512;
  static constexpr int64_t kStep = 32;
  static constexpr int kColumns = 4;

  /// sums[kColumns q + p] = row r + q of a times row j + p of b, lane by lane: each a sum of its own, so that it is the
  /// same whatever stands beside it; 24 of them fill the registers.
  template <int R, int C>
  static void Sums(const DotsArgs& d, int64_t r, int64_t j, int64_t ahead, F* sums) {
    const bf16* a = d.a + r * d.lda;
    const bf16* b = d.b + j * d.ldb;
    F sum[R][C];
#pragma GCC unroll 8
    for (int q = 0; q < R; ++q) {
#pragma GCC unroll 8
      for (int p = 0; p < C; ++p) sum[q][p] = _mm512_setzero_ps();
    }
    const auto add = [&](const auto& load) {
      __m512bh w[C];
#pragma GCC unroll 8
      for (int p = 0; p < C; ++p) w[p] = load(b + p * d.ldb);
#pragma GCC unroll 8
      for (int q = 0; q < R; ++q) {
        const __m512bh x = load(a + q * d.lda);
#pragma GCC unroll 8
        for (int p = 0; p < C; ++p) sum[q][p] = _mm512_dpbf16_ps(sum[q][p], x, w[p]);
      }
    };
    int64_t i = 0;
    for (; i + kStep <= d.k; i += kStep) {
      if (r == 0) {
#pragma GCC unroll 8
        for (int p = 0; p < C; ++p) __builtin_prefetch(b + p * d.ldb + i + ahead, 0, 2);
      }
      add([&](const bf16* row) { return (__m512bh)_mm512_loadu_si512(row + i); });
    }
    if (i < d.k) {
      const __mmask32 rest = (1u << (d.k - i)) - 1;
      add([&](const bf16* row) { return (__m512bh)_mm512_maskz_loadu_epi16(rest, row + i); });
    }
#pragma GCC unroll 8
    for (int q = 0; q < R; ++q) {
#pragma GCC unroll 8
      for (int p = 0; p < C; ++p) sums[q * kColumns + p] = sum[q][p];
    }
  }
  template <int C>
  static void Store(const DotsArgs& d, const F* sum, int64_t r, int64_t j) {
    static_assert(C == kColumns || C == 1);
    constexpr __mmask8 kAll = (1 << C) - 1;
    __m128 dots;
    if constexpr (C == kColumns) {
      dots = Vec16::ReduceAdd4({sum[0], sum[1], sum[2], sum[3]});
    } else {
      dots = _mm_set_ss(Vec16::ReduceAdd(sum[0]));
    }
    if (d.bias != nullptr) dots = _mm_add_ps(dots, _mm_maskz_loadu_ps(kAll, d.bias + j));
    const int64_t at = r * d.ldto + j;
    if (d.to_dtype == DType::kBF16) {
      _mm_mask_storeu_epi16(static_cast<bf16*>(d.to) + at, kAll, (__m128i)_mm_cvtneps_pbh(dots));
    } else {
      float* to = static_cast<float*>(d.to) + at;
      if (d.accumulate) dots = _mm_add_ps(_mm_maskz_loadu_ps(kAll, to), dots);
      _mm_mask_storeu_ps(to, kAll, dots);
    }
  }
  /// C rows of weights at once: rows of their own are read at the rate of memory, four share what is read of a.
  template <int R, int C>
  static void Columns(const DotsArgs& d, int64_t r) {
    // 4 KiB, and where rows stand side by side whole ones of them.
    constexpr int64_t kAhead = 2048;
    const int64_t ahead = C == 1 ? kAhead : (2 * kAhead / std::max<int64_t>(1, d.ldb * C) + 1) * d.ldb * C;
    F sums[R * kColumns];
    int64_t j = 0;
    for (; j + kColumns <= d.columns; j += kColumns) {
      for (int p = 0; p < kColumns; p += C) Sums<R, C>(d, r, j + p, ahead, sums + p);
#pragma GCC unroll 8
      for (int q = 0; q < R; ++q) Store<kColumns>(d, sums + q * kColumns, r + q, j);
    }
    for (; j < d.columns; ++j) {
      Sums<R, 1>(d, r, j, ahead, sums);
#pragma GCC unroll 8
      for (int q = 0; q < R; ++q) Store<1>(d, sums + q * kColumns, r + q, j);
    }
  }
  static void Run(const DotsArgs& d) {
    int64_t r = 0;
    for (; r + 6 <= d.rows; r += 6) Columns<6, 4>(d, r);
    if (d.rows - r >= 4) Columns<4, 4>(d, r), r += 4;
    if (d.rows - r == 3) return Columns<3, 1>(d, r);
    if (d.rows - r == 2) return Columns<2, 1>(d, r);
    if (d.rows - r == 1) return Columns<1, 1>(d, r);
  }
};

}  // namespace
}  // namespace hawser
