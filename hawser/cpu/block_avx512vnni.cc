// Weights in blocks with AVX-512 and VNNI: 64 values a step, vpdpbusd adds four products a lane.

// g++ 12 takes its own _mm512_undefined for an oversight.
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include "hawser/cpu/block_loops-inl.h"

namespace hawser {
namespace {

struct Vec64 {
  using B = __m512i;
  using F = __m512;
  static constexpr int kChunk = 64, kLanes = 16;

  static F Zero() { return _mm512_setzero_ps(); }
  static F Splat(float x) { return _mm512_set1_ps(x); }
  static F Load(const float* from) { return _mm512_loadu_ps(from); }
  static void Store(F v, float* to) { _mm512_storeu_ps(to, v); }
  static F Mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F Add(F a, F b) { return _mm512_add_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static float Sum(F v) { return _mm512_reduce_add_ps(v); }
  static B LoadBytes(const int8_t* from) { return _mm512_loadu_si512(from); }
  static void StoreBytes(B v, int8_t* to) { _mm512_store_si512(to, v); }
  static F Widen(const int8_t* from) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from))));
  }

  static F DotUnsigned(B w, B x) { return _mm512_cvtepi32_ps(_mm512_dpbusd_epi32(_mm512_setzero_si512(), w, x)); }
  /// The sign of w goes to x, which is never -128.
  static F DotSigned(B w, B x) {
    const __mmask64 negative = _mm512_movepi8_mask(w);
    return DotUnsigned(_mm512_abs_epi8(w), _mm512_mask_sub_epi8(x, negative, _mm512_setzero_si512(), x));
  }

  /// Scales of the activations, one lane a group of weights.
  template <int kGroup>
  static F GroupScales(const float* from) {
    if constexpr (kGroup == 32) return Load(from);
    const __m512i twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
    return _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(_mm256_loadu_ps(from)));
  }
  /// Each four bytes of chunk c get the lane of their group.
  template <int kGroup>
  static F Spread(F groups, int c) {
    constexpr int kPer = kChunk / kGroup;
    const __m512i first = kPer == 2 ? _mm512_setr_epi32(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1)
                                    : _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    return _mm512_permutexvar_ps(_mm512_add_epi32(first, _mm512_set1_epi32(kPer * c)), groups);
  }
};

__m256i Load32(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
__m256i Twice16(const uint8_t* from) {
  return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
}
__m512i Join(__m256i low, __m256i high) { return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1); }
__m512 Floats(__m512i halves) { return _mm512_cvtph_ps(_mm512_cvtepi32_epi16(halves)); }  // of the low 16 bits

/// Blocks of 32 values that begin with their scale (and minimum), f16.
template <int kBlockBytes>
struct Small {
  static constexpr int kValues = 32, kBytes = kBlockBytes, kGroup = 32, kBatch = 32 * 16;

  static const uint8_t* At(const uint8_t* w, int64_t batch) { return w + batch * 16 * kBytes; }

  static __m512i Heads(const uint8_t* at, int blocks) {
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i offset = _mm512_mullo_epi32(lane, _mm512_set1_epi32(kBytes));
    return _mm512_mask_i32gather_epi32(_mm512_setzero_si512(), static_cast<__mmask16>((1u << blocks) - 1), offset, at,
                                       1);
  }
  /// Of the two blocks of a chunk; the first again where there is no second.
  static const uint8_t* Second(const uint8_t* at, int chunk, int blocks) {
    return at + (2 * chunk + 1 < blocks ? 2 * chunk + 1 : 2 * chunk) * kBytes;
  }
  static __m512i Nibbles(const uint8_t* at, int chunk, int blocks, int header) {
    const __m512i pairs = Join(Twice16(at + 2 * chunk * kBytes + header), Twice16(Second(at, chunk, blocks) + header));
    const __m512i shifted = _mm512_srlv_epi64(pairs, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    return _mm512_and_si512(shifted, _mm512_set1_epi8(15));
  }
};

struct Q8_0 : Small<34> {
  static constexpr bool kSigned = true, kMinimum = false;
  static constexpr float kOffset = 0;
  static void Scales(const uint8_t* at, int blocks, __m512& scale, __m512&) { scale = Floats(Heads(at, blocks)); }
  static __m512i Unpack(const uint8_t* at, int chunk, int blocks) {
    return Join(Load32(at + 2 * chunk * kBytes + 2), Load32(Second(at, chunk, blocks) + 2));
  }
};

struct Q4_0 : Small<18> {
  static constexpr bool kSigned = false, kMinimum = false;
  static constexpr float kOffset = 8;
  static void Scales(const uint8_t* at, int blocks, __m512& scale, __m512&) { scale = Floats(Heads(at, blocks)); }
  static __m512i Unpack(const uint8_t* at, int chunk, int blocks) { return Nibbles(at, chunk, blocks, 2); }
};

struct Q4_1 : Small<20> {
  static constexpr bool kSigned = false, kMinimum = true;
  static constexpr float kOffset = 0;
  static void Scales(const uint8_t* at, int blocks, __m512& scale, __m512& minimum) {
    const __m512i heads = Heads(at, blocks);
    scale = Floats(heads);
    minimum = Floats(_mm512_srli_epi32(heads, 16));
  }
  static __m512i Unpack(const uint8_t* at, int chunk, int blocks) { return Nibbles(at, chunk, blocks, 4); }
};

struct Q4K {
  static constexpr int kValues = 256, kBytes = 144, kGroup = 32, kBatch = 256;
  static constexpr bool kSigned = false, kMinimum = true;
  static constexpr float kOffset = 0;
  static const uint8_t* At(const uint8_t* w, int64_t batch) { return w + batch * kBytes; }
  static __m512 Times(float unit, uint64_t bytes) {
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(bytes)));
    return _mm512_zextps256_ps512(_mm256_mul_ps(_mm256_set1_ps(unit), _mm256_cvtepi32_ps(wide)));
  }
  static void Scales(const uint8_t* at, int, __m512& scale, __m512& minimum) {
    const KBytes k = UnpackKBytes(at + 4);
    scale = Times(HalfOf(at), k.scale);
    minimum = Times(-HalfOf(at + 2), k.minimum);
  }
  static __m512i Unpack(const uint8_t* at, int chunk, int) {
    const __m512i twice = _mm512_broadcast_i64x4(Load32(at + 16 + 32 * chunk));
    const __m512i shifted = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
    return _mm512_and_si512(shifted, _mm512_set1_epi8(15));
  }
};

struct Q6K {
  static constexpr int kValues = 256, kBytes = 210, kGroup = 16, kBatch = 256;
  static constexpr bool kSigned = true, kMinimum = false;
  static constexpr float kOffset = 0;
  static const uint8_t* At(const uint8_t* w, int64_t batch) { return w + batch * kBytes; }
  static void Scales(const uint8_t* at, int, __m512& scale, __m512&) {
    const __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(at + 192)));
    scale = _mm512_mul_ps(_mm512_set1_ps(HalfOf(at + 208)), _mm512_cvtepi32_ps(wide));
  }
  // Quarters 2 (c % 2) and the next of half c / 2.
  static __m512i Unpack(const uint8_t* at, int chunk, int) {
    const int half = chunk / 2, odd = chunk % 2;
    const __m512i low = _mm512_srl_epi64(_mm512_loadu_si512(at + 64 * half), _mm_cvtsi32_si128(4 * odd));
    const __m512i pairs = _mm512_broadcast_i64x4(Load32(at + 128 + 32 * half));
    const __m512i first = _mm512_setr_epi64(0, 0, 0, 0, 2, 2, 2, 2);
    const __m512i high = _mm512_srlv_epi64(pairs, _mm512_add_epi64(first, _mm512_set1_epi64(4 * odd)));
    const __m512i top = _mm512_slli_epi64(_mm512_and_si512(high, _mm512_set1_epi8(3)), 4);
    const __m512i q = _mm512_or_si512(_mm512_and_si512(low, _mm512_set1_epi8(15)), top);
    return _mm512_sub_epi8(q, _mm512_set1_epi8(32));
  }
};

}  // namespace

namespace block_avx512vnni {
const BlockKernels kQ8_0 = MakeBlockKernels<Vec64, Q8_0>(), kQ4_0 = MakeBlockKernels<Vec64, Q4_0>();
const BlockKernels kQ4_1 = MakeBlockKernels<Vec64, Q4_1>(), kQ4K = MakeBlockKernels<Vec64, Q4K>();
const BlockKernels kQ6K = MakeBlockKernels<Vec64, Q6K>();
}  // namespace block_avx512vnni

}  // namespace hawser
