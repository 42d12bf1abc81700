// cpu/tile_avx512-inl.h - the AVX-512 vector type of tile_loops-inl.h.
#pragma once

// GCC 12 takes the deliberately undefined operands of its own intrinsics for mistakes.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "hawser/cpu/tile_loops-inl.h"

namespace hawser {
namespace {

struct Vec16 {
  using F = __m512;
  static constexpr int kLanes = 16, kMr = 6, kNv = 4;

  static F Set(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* p) { return _mm512_loadu_ps(p); }
  static void Store(float* p, F v) { _mm512_storeu_ps(p, v); }
  static F LoadAs(const float* p) { return Load(p); }
  static F LoadAs(const bf16* p) {
    const __m512i wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    return _mm512_castsi512_ps(_mm512_slli_epi32(wide, 16));
  }
  static F LoadBytes(const int8_t* p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
  }
  static void StoreAs(float* p, F v) { Store(p, v); }
  static __m256i Round(F v) {
#ifdef __AVX512BF16__
    return (__m256i)_mm512_cvtneps_pbh(v);
#else
    const __m512i u = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(u, 16), _mm512_set1_epi32(1));
    const __m512i sum = _mm512_add_epi32(u, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_or_si512(u, _mm512_set1_epi32(0x400000));
    return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(sum, nan, quiet), 16));
#endif
  }
  static void StoreAs(bf16* p, F v) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), Round(v)); }
#ifdef __AVX512BF16__
  // Two vectors are rounded at once: one instruction less than one by one.
  static __m512i RoundTwo(F a, F b) { return (__m512i)_mm512_cvtne2ps_pbh(b, a); }
  static void StoreTwo(bf16* p, F a, F b) { _mm512_storeu_si512(p, RoundTwo(a, b)); }
  static __m512i StoreRows(bf16* p, bf16* q, F a, F b) {
    const __m512i both = RoundTwo(a, b);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_castsi512_si256(both));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), _mm512_extracti64x4_epi64(both, 1));
    return both;
  }
  /// Both rows of StoreRows, interleaved.
  static void StorePairs(bf16* p, __m512i both) {
    static constexpr uint16_t kOrder[32] = {0, 16, 1, 17, 2,  18, 3,  19, 4,  20, 5,  21, 6,  22, 7,  23,
                                            8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_loadu_si512(kOrder), both));
  }
#endif
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm512_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F MulAdd(F a, F b, F c) { return Fma(a, b, c); }
  static F Max(F a, F b) { return _mm512_max_ps(a, b); }
  static F Min(F a, F b) { return _mm512_min_ps(a, b); }
  static float First(F v) { return _mm512_cvtss_f32(v); }
  static float ReduceMax(F v) { return _mm512_reduce_max_ps(v); }
  static float ReduceAdd(F v) { return _mm512_reduce_add_ps(v); }
  /// ReduceAdd(v[i]), to the bit: halves are added in the same order, of four vectors at once.
  static __m128 ReduceAdd4(const F (&v)[4]) {
    const auto halves = [](F a, F b) {  // of 16 lanes each: [a, b] of 8
      return Add(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    };
    const F ab = halves(v[0], v[1]), cd = halves(v[2], v[3]);
    F four = Add(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));  // [a, b, c, d] of 4
    four = Add(four, _mm512_permute_ps(four, 0x4e));
    four = Add(four, _mm512_permute_ps(four, 0xb1));
    return _mm512_castps512_ps128(_mm512_maskz_compress_ps(0x1111, four));
  }
  static void ReduceAdd4(const F (&v)[4], const float* more, float* to) {
    _mm_storeu_ps(to, _mm_add_ps(ReduceAdd4(v), _mm_loadu_ps(more)));
  }

  // 2^x = 2^floor(x) 2^f: vreduceps leaves f = x - floor(x) in [0, 1), vscalefps multiplies by 2^floor(x) and takes
  // underflow and -infinity to 0. Minimax polynomials: relative error 9e-5 (degree 3), 3e-6 (4) and 2e-7 (5, rounding
  // included); those of degree 3 and 4 take 0 to exactly 1.
  template <int kDegree>
  static F Exp2(F x) {
    const F f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    F p;
    if constexpr (kDegree == 3) {
      p = Fma(Set(7.7067042e-2f), f, Set(2.2764499e-1f));
      p = Fma(p, f, Set(6.9511679e-1f));
      p = Fma(p, f, Set(1.0f));
    } else if constexpr (kDegree == 4) {
      p = Fma(Set(1.3426684e-2f), f, Set(5.2242474e-2f));
      p = Fma(p, f, Set(2.4128020e-1f));
      p = Fma(p, f, Set(6.9304484e-1f));
      p = Fma(p, f, Set(1.0f));
    } else {
      p = Fma(Set(1.8775767e-3f), f, Set(8.9893397e-3f));
      p = Fma(p, f, Set(5.5826318e-2f));
      p = Fma(p, f, Set(2.4015361e-1f));
      p = Fma(p, f, Set(6.9315308e-1f));
      p = Fma(p, f, Set(9.9999994e-1f));
    }
    return _mm512_scalef_ps(p, x);
  }

  static void Join16(const bf16* even, const bf16* odd, bf16* to) {
    const __m512i e = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(even)));
    const __m512i o = _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(odd)));
    _mm512_storeu_si512(to, _mm512_or_si512(e, _mm512_slli_epi32(o, 16)));
  }
  static void Split16(const bf16* from, bf16* even, bf16* odd) {
    const __m512i x = _mm512_loadu_si512(from);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(even), _mm512_cvtepi32_epi16(x));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(odd), _mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16)));
  }

  // Four rounds of pairwise exchange, at distances 1, 2 (in 128-bit lanes) and 4, 8 (of lanes).
  static constexpr int kSquare = 16;
  static void TransposeSquare(const uint32_t* from, int64_t ld_from, uint32_t* to, int64_t ld_to) {
    __m512i a[16], b[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) a[i] = _mm512_loadu_si512(from + i * ld_from);
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {
      b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {
      a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 16; i += 8) {
#pragma GCC unroll 4
      for (int j = i; j < i + 4; ++j) {
        b[j] = _mm512_shuffle_i32x4(a[j], a[j + 4], 0x88);
        b[j + 4] = _mm512_shuffle_i32x4(a[j], a[j + 4], 0xdd);
      }
    }
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
      _mm512_storeu_si512(to + j * ld_to, _mm512_shuffle_i32x4(b[j], b[j + 8], 0x88));
      _mm512_storeu_si512(to + (j + 8) * ld_to, _mm512_shuffle_i32x4(b[j], b[j + 8], 0xdd));
    }
  }
};

}  // namespace
}  // namespace hawser
