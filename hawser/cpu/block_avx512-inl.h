// cpu/block_avx512-inl.h - the vectors of cpu/block_loops-inl.h with AVX-512 and VNNI: a tile is sixteen rows, vpdpbusd
// adds four products a lane.
#pragma once

// g++ 12 takes its own _mm512_undefined for an oversight.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>

#include "hawser/cpu/block_loops-inl.h"

namespace hawser {
namespace {

struct Vec16 {
  using I = __m512i;
  using F = __m512;
  static constexpr int kRows = 16;
  static constexpr int kPanelX = 16;
  static constexpr bool kWhole = true;

  static I Splat(uint32_t x) { return _mm512_set1_epi32(static_cast<int>(x)); }
  static I And(I a, I b) { return _mm512_and_si512(a, b); }
  static I Or(I a, I b) { return _mm512_or_si512(a, b); }
  static I Xor(I a, I b) { return _mm512_xor_si512(a, b); }
  static I Sub(I a, I b) { return _mm512_sub_epi32(a, b); }
  template <int n>
  static I Shl(I v) {
    return _mm512_slli_epi32(v, n);
  }
  template <int n>
  static I Shr(I v) {
    return _mm512_srli_epi32(v, n);
  }
  template <int n>
  static I Sar(I v) {
    return _mm512_srai_epi32(v, n);
  }
  static F Zero() { return _mm512_setzero_ps(); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F Negative(F v) { return _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(v), Splat(0x80000000u))); }
  static F Float(I v) { return _mm512_cvtepi32_ps(v); }
  static F Half(I v) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(v)); }  // of the low 16 bits
  static I Load(const int32_t* at) { return _mm512_set1_epi32(*at); }
  static F LoadFloat(const float* at) { return _mm512_set1_ps(*at); }
  static void Store(F v, float* to) { _mm512_storeu_ps(to, v); }

  static F LoadAll(const float* from) { return _mm512_loadu_ps(from); }
  static I LoadInts(const uint8_t* from) { return _mm512_loadu_si512(from); }
  static void StoreAll(I v, uint8_t* to) { _mm512_storeu_si512(to, v); }
  static I SubBytes(I a, I b) { return _mm512_sub_epi8(a, b); }

  [[gnu::always_inline]] static I Words(const uint8_t* at, int64_t stride) {
    const auto four = [&](const uint8_t* p) __attribute__((always_inline)) {
      const auto word = [&](int64_t r) __attribute__((always_inline)) { return _mm_loadu_si32(p + r); };
      return _mm_unpacklo_epi64(_mm_unpacklo_epi32(word(0), word(stride)),
                                _mm_unpacklo_epi32(word(2 * stride), word(3 * stride)));
    };
    I v = _mm512_castsi128_si512(four(at));
    v = _mm512_inserti32x4(v, four(at + 4 * stride), 1);
    v = _mm512_inserti32x4(v, four(at + 8 * stride), 2);
    return _mm512_inserti32x4(v, four(at + 12 * stride), 3);
  }
  // Rows 0 to 3 in the low quarter of vectors and so on, then four times four by four words. The compiler is kept from
  // giving every row a register of its own.
  [[gnu::always_inline]] static void Columns(const uint8_t* at, int64_t stride, I* to) {
    const uint8_t *p0 = at, *p1 = at + 4 * stride, *p2 = p1 + 4 * stride, *p3 = p2 + 4 * stride;
    int64_t third = 3 * stride;
    asm("" : "+r"(p1), "+r"(p2), "+r"(p3), "+r"(third));
    const auto row = [&](const uint8_t* from) __attribute__((always_inline)) {
      return _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    };
    const auto rows = [&](int64_t r) __attribute__((always_inline)) {
      I v = _mm512_castsi128_si512(row(p0 + r));
      v = _mm512_inserti32x4(v, row(p1 + r), 1);
      v = _mm512_inserti32x4(v, row(p2 + r), 2);
      return _mm512_inserti32x4(v, row(p3 + r), 3);
    };
    const I a = rows(0), b = rows(stride), c = rows(2 * stride), d = rows(third);
    const I ab = _mm512_unpacklo_epi32(a, b), cd = _mm512_unpacklo_epi32(c, d);
    const I ab2 = _mm512_unpackhi_epi32(a, b), cd2 = _mm512_unpackhi_epi32(c, d);
    to[0] = _mm512_unpacklo_epi64(ab, cd);
    to[1] = _mm512_unpackhi_epi64(ab, cd);
    to[2] = _mm512_unpacklo_epi64(ab2, cd2);
    to[3] = _mm512_unpackhi_epi64(ab2, cd2);
  }
  [[gnu::always_inline]] static void Rows(const I* q, uint8_t* to) {
    const I a = _mm512_unpacklo_epi32(q[0], q[1]), b = _mm512_unpacklo_epi32(q[2], q[3]);
    const I a2 = _mm512_unpackhi_epi32(q[0], q[1]), b2 = _mm512_unpackhi_epi32(q[2], q[3]);
    const I rows[4] = {_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b), _mm512_unpacklo_epi64(a2, b2),
                       _mm512_unpackhi_epi64(a2, b2)};  // rows[r] has rows r, r + 4, r + 8, r + 12
    for (int r = 0; r < 4; ++r) {
      auto* at = reinterpret_cast<__m128i*>(to) + r;
      _mm_store_si128(at, _mm512_castsi512_si128(rows[r]));
      _mm_store_si128(at + 4, _mm512_extracti32x4_epi32(rows[r], 1));
      _mm_store_si128(at + 8, _mm512_extracti32x4_epi32(rows[r], 2));
      _mm_store_si128(at + 12, _mm512_extracti32x4_epi32(rows[r], 3));
    }
  }
  /// Bit 4 i + b of each lane as bit 4 of its byte b: four bits choose one of sixteen lanes.
  template <int i>
  static I FifthBits(I v) {
    const I spread =
        _mm512_setr_epi32(0, 0x10, 0x1000, 0x1010, 0x100000, 0x100010, 0x101000, 0x101010, 0x10000000, 0x10000010,
                          0x10001000, 0x10001010, 0x10100000, 0x10100010, 0x10101000, 0x10101010);
    return _mm512_permutexvar_epi32(_mm512_srli_epi32(v, 4 * i), spread);
  }
  static I Dot(I sum, I q, const int8_t* x) {
    int word;
    std::memcpy(&word, x, sizeof(word));
    return _mm512_dpbusd_epi32(sum, q, _mm512_set1_epi32(word));
  }
  static I DotSigned(I sum, I q, const int8_t* x) { return Dot(sum, q, x); }  // not called: kWhole
};

}  // namespace
}  // namespace hawser
