// Weights in blocks with AMX: a panel holds what the right factor of a tile product is, q as int8, so that a product of
// 16 rows of activations with 16 of weights over a group is one instruction. Scaling its sums is AVX-512 and takes
// longer than the product. Few rows go by vectors alone.
#include "hawser/cpu/block_avx512-inl.h"

namespace hawser {
namespace {

struct TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};

/// Tile 0 is sums, 1 activations, 2 weights; one group of 32 deep.
alignas(64) constexpr TileConfig kConfig = {
    .palette = 1, .start_row = 0, .reserved = {}, .row_bytes = {64, 32, 64}, .rows = {16, 16, 8}};

void Begin() { asm volatile("ldtilecfg %0" ::"m"(kConfig)); }
void End() { _tile_release(); }

template <bool kMinimum>
void PanelAmx(const WeightPanel& w, const Activations8& x, int64_t groups, int, bool first, float* y) {
  // What a tile product stores can be loaded well only after a while, so products run ahead of their scaling.
  constexpr int64_t kAhead = 4, kRing = 2 * kAhead;
  alignas(64) int32_t ring[kRing][16][16];
  __m512 sums[16];
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) sums[r] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(y + 16 * r);
  const auto multiply = [&](int64_t group) __attribute__((always_inline)) {
    asm volatile("" ::: "memory");  // GCC 12 does not know that tile loads and stores touch memory
    int32_t* to = ring[group % kRing][0];
    _tile_zero(0);
    _tile_loadd(1, Group<32>(x, group).q, kActBlock);
    _tile_loadd(2, w.q + group * 512, 64);
    _tile_dpbssd(0, 1, 2);
    _tile_stored(0, to, 64);
    asm volatile("" ::: "memory");
  };
  for (int64_t group = 0; group < std::min(kAhead, groups); ++group) multiply(group);
  for (int64_t group = 0; group < groups; ++group) {
    if (group + kAhead < groups) multiply(group + kAhead);
    const __m512 scale = _mm512_loadu_ps(w.scale + group * 16);
    const float* x_scale = Group<32>(x, group).scale;
    const auto& products = ring[group % kRing];
#pragma GCC unroll 16
    for (int r = 0; r < 16; ++r) {
      const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x_scale[r]));
      sums[r] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(products[r])), both, sums[r]);
    }
    if constexpr (kMinimum) {
      const __m512 minimum = _mm512_loadu_ps(w.minimum + group * 16);
#pragma GCC unroll 16
      for (int r = 0; r < 16; ++r) {
        sums[r] = _mm512_fmadd_ps(minimum, _mm512_set1_ps(x.sum[group * 16 + r]), sums[r]);
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < 16; ++r) _mm512_storeu_ps(y + 16 * r, sums[r]);
}

struct ToAmxKernels {
  template <class R>
  static constexpr BlockKernels Of() {
    BlockKernels kernels{};
    if constexpr (R::kGroup == 32) {  // a tile half as deep would not repay
      kernels.unpack = Unpack<Vec16, R, R::kOffset>;
      kernels.panel = PanelAmx<R::kMinimum>;
      kernels.begin = Begin;
      kernels.end = End;
    }
    return kernels;
  }
};
constexpr std::array kKernels = AllBlockTypes::Map<ToAmxKernels>();

}  // namespace

const BlockKernels* const kBlockAmx = kKernels.data();

}  // namespace hawser
