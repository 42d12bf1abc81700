// AVX2 kernels over F32. 16 registers hold a 6 x 16 tile: 12 accumulators, 2 vectors of B and a broadcast of A.
#include <immintrin.h>

#include "hawser/cpu/tile_loops-inl.h"

namespace hawser {
namespace {

struct Vec8 : PlainParts {
  using F = __m256;
  static constexpr int kLanes = 8, kMr = 6, kNv = 2;

  static F Set(float x) { return _mm256_set1_ps(x); }
  static F Load(const float* p) { return _mm256_loadu_ps(p); }
  static void Store(float* p, F v) { _mm256_storeu_ps(p, v); }
  static F LoadAs(const float* p) { return Load(p); }
  static F LoadAs(const bf16* p) {
    const __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return _mm256_castsi256_ps(_mm256_slli_epi32(wide, 16));
  }
  static F LoadBytes(const int8_t* p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
  }
  static void StoreAs(float* p, F v) { Store(p, v); }
  static void StoreAs(bf16* p, F v) {
    const __m256i u = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(u, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(u, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    const __m256i quiet = _mm256_or_si256(u, _mm256_set1_epi32(0x400000));
    const __m256 nan = _mm256_cmp_ps(v, v, _CMP_UNORD_Q);
    const __m256i bits =
        _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(sum), _mm256_castsi256_ps(quiet), nan));
    const __m256i high = _mm256_srli_epi32(bits, 16);
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(high, high), 0xd8);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm256_castsi256_si128(packed));
  }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F Sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Div(F a, F b) { return _mm256_div_ps(a, b); }
  static F Fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F MulAdd(F a, F b, F c) { return Fma(a, b, c); }
  static F Max(F a, F b) { return _mm256_max_ps(a, b); }
  static F Min(F a, F b) { return _mm256_min_ps(a, b); }
  static float First(F v) { return _mm256_cvtss_f32(v); }
  static float ReduceMax(F v) {
    __m128 x = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)));
  }
  static float ReduceAdd(F v) {
    __m128 x = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    return _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)));
  }

  // 2^x = 2^n 2^f, n = round(x), |f| <= 1/2, by a degree-6 polynomial (relative error 2e-7 with rounding), whatever is
  // asked for.
  template <int kDegree>
  static F Exp2(F x) {
    // With the bound first, NaN stays NaN.
    const F u = _mm256_min_ps(Set(127.0f), _mm256_max_ps(Set(-126.0f), x));
    const F n = _mm256_round_ps(u, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const F f = Sub(u, n);
    F p = Set(1.5403530e-4f);
    p = Fma(p, f, Set(1.3333558e-3f));
    p = Fma(p, f, Set(9.6181291e-3f));
    p = Fma(p, f, Set(5.5504109e-2f));
    p = Fma(p, f, Set(2.4022651e-1f));
    p = Fma(p, f, Set(6.9314718e-1f));
    p = Fma(p, f, Set(1.0f));
    const __m256i power = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
    const F result = _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), power));
    return _mm256_andnot_ps(_mm256_cmp_ps(x, Set(-126.0f), _CMP_LT_OQ), result);
  }

  static void TransposeSquare(const uint32_t* from, int64_t ld_from, uint32_t* to, int64_t ld_to) {
    F a[8], b[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) a[i] = _mm256_loadu_ps(reinterpret_cast<const float*>(from + i * ld_from));
#pragma GCC unroll 4
    for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_ps(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_ps(a[i], a[i + 1]);
    }
#pragma GCC unroll 2
    for (int i = 0; i < 8; i += 4) {
      a[i] = _mm256_shuffle_ps(b[i], b[i + 2], 0x44);
      a[i + 1] = _mm256_shuffle_ps(b[i], b[i + 2], 0xee);
      a[i + 2] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0x44);
      a[i + 3] = _mm256_shuffle_ps(b[i + 1], b[i + 3], 0xee);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
      _mm256_storeu_ps(reinterpret_cast<float*>(to + i * ld_to), _mm256_permute2f128_ps(a[i], a[i + 4], 0x20));
      _mm256_storeu_ps(reinterpret_cast<float*>(to + (i + 4) * ld_to), _mm256_permute2f128_ps(a[i], a[i + 4], 0x31));
    }
  }
};

}  // namespace

const TileKernels kTileAvx2 = MakeKernels<Vec8, float>(Isa::kAvx2, 48);

}  // namespace hawser
