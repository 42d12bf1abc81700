// Weights in blocks with AVX2: 32 values a step, vpmaddubsw adds two products to 16 bits, vpmaddwd two of those to 32.
#include "hawser/cpu/block_loops-inl.h"

namespace hawser {
namespace {

struct Vec32 {
  using B = __m256i;
  using F = __m256;
  static constexpr int kChunk = 32, kLanes = 8;

  static F Zero() { return _mm256_setzero_ps(); }
  static F Splat(float x) { return _mm256_set1_ps(x); }
  static F Load(const float* from) { return _mm256_loadu_ps(from); }
  static void Store(F v, float* to) { _mm256_storeu_ps(to, v); }
  static F Mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F Add(F a, F b) { return _mm256_add_ps(a, b); }
  static F MulAdd(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static float Sum(F v) {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
  static B LoadBytes(const int8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
  static void StoreBytes(B v, int8_t* to) { _mm256_store_si256(reinterpret_cast<__m256i*>(to), v); }
  static F Widen(const int8_t* from) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(from))));
  }

  /// w <= 128: two products stay below 2^15.
  static F DotUnsigned(B w, B x) {
    const __m256i pairs = _mm256_maddubs_epi16(w, x);
    return _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
  }
  /// The sign of w goes to x, which is never -128.
  static F DotSigned(B w, B x) { return DotUnsigned(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w)); }

  /// Scales of the activations, one lane a group of weights.
  template <int kGroup>
  static F GroupScales(const float* from) {
    if constexpr (kGroup == 32) return Load(from);
    const __m256i twice = _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3);
    return _mm256_permutevar8x32_ps(_mm256_castps128_ps256(_mm_loadu_ps(from)), twice);
  }
  /// Each four bytes of chunk c get the lane of their group.
  template <int kGroup>
  static F Spread(F groups, int c) {
    constexpr int kPer = kChunk / kGroup;
    const __m256i first = kPer == 1 ? _mm256_setzero_si256() : _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    return _mm256_permutevar8x32_ps(groups, _mm256_add_epi32(first, _mm256_set1_epi32(kPer * c)));
  }
};

__m256i Load32(const uint8_t* from) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)); }
__m256 Floats(__m256i halves) {  // of the low 16 bits
  const __m256i low = _mm256_and_si256(halves, _mm256_set1_epi32(0xffff));
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi32(low, low), 0x08);
  return _mm256_cvtph_ps(_mm256_castsi256_si128(packed));
}

/// Blocks of 32 values that begin with their scale (and minimum), f16.
template <int kBlockBytes>
struct Small {
  static constexpr int kValues = 32, kBytes = kBlockBytes, kGroup = 32, kBatch = 32 * 8;

  static const uint8_t* At(const uint8_t* w, int64_t batch) { return w + batch * 8 * kBytes; }

  static __m256i Heads(const uint8_t* at, int blocks) {
    const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    const __m256i offset = _mm256_mullo_epi32(lane, _mm256_set1_epi32(kBytes));
    const __m256i there = _mm256_cmpgt_epi32(_mm256_set1_epi32(blocks), lane);
    return _mm256_mask_i32gather_epi32(_mm256_setzero_si256(), reinterpret_cast<const int*>(at), offset, there, 1);
  }
  static __m256i Nibbles(const uint8_t* at, int chunk, int header) {
    const __m128i pairs = _mm_loadu_si128(reinterpret_cast<const __m128i*>(at + chunk * kBytes + header));
    const __m256i shifted = _mm256_srlv_epi64(_mm256_broadcastsi128_si256(pairs), _mm256_setr_epi64x(0, 0, 4, 4));
    return _mm256_and_si256(shifted, _mm256_set1_epi8(15));
  }
};

struct Q8_0 : Small<34> {
  static constexpr bool kSigned = true, kMinimum = false;
  static constexpr float kOffset = 0;
  static void Scales(const uint8_t* at, int blocks, __m256& scale, __m256&) { scale = Floats(Heads(at, blocks)); }
  static __m256i Unpack(const uint8_t* at, int chunk, int) { return Load32(at + chunk * kBytes + 2); }
};

struct Q4_0 : Small<18> {
  static constexpr bool kSigned = false, kMinimum = false;
  static constexpr float kOffset = 8;
  static void Scales(const uint8_t* at, int blocks, __m256& scale, __m256&) { scale = Floats(Heads(at, blocks)); }
  static __m256i Unpack(const uint8_t* at, int chunk, int) { return Nibbles(at, chunk, 2); }
};

struct Q4_1 : Small<20> {
  static constexpr bool kSigned = false, kMinimum = true;
  static constexpr float kOffset = 0;
  static void Scales(const uint8_t* at, int blocks, __m256& scale, __m256& minimum) {
    const __m256i heads = Heads(at, blocks);
    scale = Floats(heads);
    minimum = Floats(_mm256_srli_epi32(heads, 16));
  }
  static __m256i Unpack(const uint8_t* at, int chunk, int) { return Nibbles(at, chunk, 4); }
};

struct Q4K {
  static constexpr int kValues = 256, kBytes = 144, kGroup = 32, kBatch = 256;
  static constexpr bool kSigned = false, kMinimum = true;
  static constexpr float kOffset = 0;
  static const uint8_t* At(const uint8_t* w, int64_t batch) { return w + batch * kBytes; }
  static __m256 Times(float unit, uint64_t bytes) {
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(static_cast<int64_t>(bytes)));
    return _mm256_mul_ps(_mm256_set1_ps(unit), _mm256_cvtepi32_ps(wide));
  }
  static void Scales(const uint8_t* at, int, __m256& scale, __m256& minimum) {
    const KBytes k = UnpackKBytes(at + 4);
    scale = Times(HalfOf(at), k.scale);
    minimum = Times(-HalfOf(at + 2), k.minimum);
  }
  static __m256i Unpack(const uint8_t* at, int chunk, int) {
    const __m256i pairs = Load32(at + 16 + 32 * (chunk / 2));
    return _mm256_and_si256(_mm256_srl_epi64(pairs, _mm_cvtsi32_si128(4 * (chunk % 2))), _mm256_set1_epi8(15));
  }
};

/// A batch is half a block, whose eight scales fill a vector.
struct Q6K {
  static constexpr int kValues = 256, kBytes = 210, kGroup = 16, kBatch = 128;
  static constexpr bool kSigned = true, kMinimum = false;
  static constexpr float kOffset = 0;
  struct Half {
    const uint8_t* block;
    int half;
  };
  static Half At(const uint8_t* w, int64_t batch) { return {w + batch / 2 * kBytes, static_cast<int>(batch % 2)}; }
  static void Scales(Half at, int, __m256& scale, __m256&) {
    const auto* scales = reinterpret_cast<const __m128i*>(at.block + 192 + 8 * at.half);
    const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64(scales));
    scale = _mm256_mul_ps(_mm256_set1_ps(HalfOf(at.block + 208)), _mm256_cvtepi32_ps(wide));
  }
  // A chunk is a quarter.
  static __m256i Unpack(Half at, int quarter, int) {
    const __m256i pairs = Load32(at.block + 64 * at.half + 32 * (quarter % 2));
    const __m256i low = _mm256_srl_epi64(pairs, _mm_cvtsi32_si128(4 * (quarter / 2)));
    const __m256i high = _mm256_srl_epi64(Load32(at.block + 128 + 32 * at.half), _mm_cvtsi32_si128(2 * quarter));
    const __m256i top = _mm256_slli_epi64(_mm256_and_si256(high, _mm256_set1_epi8(3)), 4);
    const __m256i q = _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(15)), top);
    return _mm256_sub_epi8(q, _mm256_set1_epi8(32));
  }
};

}  // namespace

namespace block_avx2 {
const BlockKernels kQ8_0 = MakeBlockKernels<Vec32, Q8_0>(), kQ4_0 = MakeBlockKernels<Vec32, Q4_0>();
const BlockKernels kQ4_1 = MakeBlockKernels<Vec32, Q4_1>(), kQ4K = MakeBlockKernels<Vec32, Q4K>();
const BlockKernels kQ6K = MakeBlockKernels<Vec32, Q6K>();
}  // namespace block_avx2

}  // namespace hawser
