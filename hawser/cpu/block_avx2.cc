// Weights in blocks with AVX2: a tile is eight rows, vpmaddubsw adds two products to 16 bits, vpmaddwd two of those to
// 32.
#include <immintrin.h>

#include "hawser/cpu/block_loops-inl.h"

namespace hawser {
namespace {

struct Vec8 {
  using I = __m256i;
  using F = __m256;
  static constexpr int kRows = 8;
  static constexpr int kPanelX = 4;
  static constexpr bool kWhole = false;  // 255 * 127 * 2 is no int16

  static I Splat(uint32_t x) { return _mm256_set1_epi32(static_cast<int>(x)); }
  static I And(I a, I b) { return _mm256_and_si256(a, b); }
  static I Or(I a, I b) { return _mm256_or_si256(a, b); }
  static I Xor(I a, I b) { return _mm256_xor_si256(a, b); }
  static I Sub(I a, I b) { return _mm256_sub_epi32(a, b); }
  template <int n>
  static I Shl(I v) {
    return _mm256_slli_epi32(v, n);
  }
  template <int n>
  static I Shr(I v) {
    return _mm256_srli_epi32(v, n);
  }
  template <int n>
  static I Sar(I v) {
    return _mm256_srai_epi32(v, n);
  }
  static F Zero() { return _mm256_setzero_ps(); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F Negative(F v) { return _mm256_xor_ps(v, _mm256_set1_ps(-0.0f)); }
  static F Float(I v) { return _mm256_cvtepi32_ps(v); }
  static F Half(I v) {  // of the low 16 bits
    const I low = And(v, Splat(0xffff));
    const I packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
    return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
  }
  static I Load(const int32_t* at) { return _mm256_set1_epi32(*at); }
  static F LoadFloat(const float* at) { return _mm256_broadcast_ss(at); }
  static void Store(F v, float* to) { _mm256_storeu_ps(to, v); }

  static F LoadAll(const float* from) { return _mm256_loadu_ps(from); }
  static I LoadInts(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const I*>(from)); }
  static void StoreAll(I v, uint8_t* to) { _mm256_storeu_si256(reinterpret_cast<I*>(to), v); }
  static I SubBytes(I a, I b) { return _mm256_sub_epi8(a, b); }

  static I Words(const uint8_t* at, int64_t stride) {
    const I lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const I offset = _mm256_mullo_epi32(lane, _mm256_set1_epi32(static_cast<int>(stride)));
    return _mm256_i32gather_epi32(reinterpret_cast<const int*>(at), offset, 1);
  }
  // Twice four by four words.
  static void Columns(const uint8_t* at, int64_t stride, I* to) {
    const auto rows = [&](int r) __attribute__((always_inline)) {
      const auto row = [&](int i) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + i * stride)); };
      return _mm256_inserti128_si256(_mm256_castsi128_si256(row(r)), row(r + 4), 1);
    };
    const I a = rows(0), b = rows(1), c = rows(2), d = rows(3);
    const I ab = _mm256_unpacklo_epi32(a, b), cd = _mm256_unpacklo_epi32(c, d);
    const I ab2 = _mm256_unpackhi_epi32(a, b), cd2 = _mm256_unpackhi_epi32(c, d);
    to[0] = _mm256_unpacklo_epi64(ab, cd);
    to[1] = _mm256_unpackhi_epi64(ab, cd);
    to[2] = _mm256_unpacklo_epi64(ab2, cd2);
    to[3] = _mm256_unpackhi_epi64(ab2, cd2);
  }
  static void Rows(const I* q, uint8_t* to) {
    const I a = _mm256_unpacklo_epi32(q[0], q[1]), b = _mm256_unpacklo_epi32(q[2], q[3]);
    const I a2 = _mm256_unpackhi_epi32(q[0], q[1]), b2 = _mm256_unpackhi_epi32(q[2], q[3]);
    const I rows[4] = {_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b), _mm256_unpacklo_epi64(a2, b2),
                       _mm256_unpackhi_epi64(a2, b2)};  // rows[r] has rows r and r + 4
    for (int r = 0; r < 4; ++r) {
      auto* at = reinterpret_cast<__m128i*>(to) + r;
      _mm_store_si128(at, _mm256_castsi256_si128(rows[r]));
      _mm_store_si128(at + 4, _mm256_extracti128_si256(rows[r], 1));
    }
  }
  /// Bit 4 i + b of each lane as bit 4 of its byte b.
  template <int i>
  static I FifthBits(I v) {
    constexpr uint32_t kByte = 0x01010101u * (i / 2), kBits = i % 2 == 0 ? 0x08040201u : 0x80402010u;
    const __m128i first = _mm_setr_epi8(0, 0, 0, 0, 4, 4, 4, 4, 8, 8, 8, 8, 12, 12, 12, 12);
    const I bytes = _mm256_shuffle_epi8(v, _mm256_add_epi8(Splat(kByte), _mm256_broadcastsi128_si256(first)));
    return And(_mm256_cmpeq_epi8(And(bytes, Splat(kBits)), Splat(kBits)), Splat(0x10101010u));
  }
  static I Word(const int8_t* x) {
    int word;
    std::memcpy(&word, x, sizeof(word));
    return _mm256_set1_epi32(word);
  }
  static I Dot(I sum, I q, const int8_t* x) {
    const I pairs = _mm256_maddubs_epi16(q, Word(x));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  /// The sign of q goes to x, which is never -128.
  static I DotSigned(I sum, I q, const int8_t* x) {
    const I pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(Word(x), q));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
};

constexpr std::array kKernels = AllBlockTypes::Map<ToKernels<Vec8>>();

}  // namespace

const BlockKernels* const kBlockAvx2 = kKernels.data();

}  // namespace hawser
