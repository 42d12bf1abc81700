// AMX kernels over BF16. A tile is 16 rows of 64 bytes; C takes 2 x 2 of them (32 x 32 sums), A and B two each, so that
// four tile loads feed four tile products. Everything but the product is AVX-512.
#include "hawser/cpu/tile_avx512-inl.h"
#include "hawser/cpu/tile_dots-inl.h"

namespace hawser {
namespace {

/// Palette 1: every tile 16 rows of 64 bytes. Other users of AMX on this thread (oneDNN) configure it their own way, so
/// it is loaded at the start of every task.
struct TileConfig {
  uint8_t palette, start_row, reserved[14];
  uint16_t row_bytes[16];
  uint8_t rows[16];
};
alignas(64) constexpr TileConfig kConfig = {.palette = 1,
                                            .start_row = 0,
                                            .reserved = {},
                                            .row_bytes = {64, 64, 64, 64, 64, 64, 64, 64},
                                            .rows = {16, 16, 16, 16, 16, 16, 16, 16}};

void Begin() { asm volatile("ldtilecfg %0" ::"m"(kConfig)); }
void End() { _tile_release(); }

/// C [16 * MT, 16 * NT] over all of k; strides in bytes.
template <int MT, int NT>
inline void ProductTiles(const char* a, int64_t lda, const char* b, int64_t ldb, float* c, int64_t ldc, int32_t k,
                         bool accumulate) {
  char* c0 = reinterpret_cast<char*>(c);
  char* c1 = c0 + 16 * ldc;
  if (accumulate) {
    _tile_loadd(0, c0, ldc);
    if constexpr (NT > 1) _tile_loadd(1, c0 + 64, ldc);
    if constexpr (MT > 1) _tile_loadd(2, c1, ldc);
    if constexpr (MT > 1 && NT > 1) _tile_loadd(3, c1 + 64, ldc);
  } else {
    _tile_zero(0);
    if constexpr (NT > 1) _tile_zero(1);
    if constexpr (MT > 1) _tile_zero(2);
    if constexpr (MT > 1 && NT > 1) _tile_zero(3);
  }
  for (int32_t i = 0; i < k; i += 32, a += 64, b += 16 * ldb) {
    _tile_loadd(6, b, ldb);
    _tile_loadd(4, a, lda);
    _tile_dpbf16ps(0, 4, 6);
    if constexpr (NT > 1) {
      _tile_loadd(7, b + 64, ldb);
      _tile_dpbf16ps(1, 4, 7);
    }
    if constexpr (MT > 1) {
      _tile_loadd(5, a + 16 * lda, lda);
      _tile_dpbf16ps(2, 5, 6);
    }
    if constexpr (MT > 1 && NT > 1) _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c0, ldc);
  if constexpr (NT > 1) _tile_stored(1, c0 + 64, ldc);
  if constexpr (MT > 1) _tile_stored(2, c1, ldc);
  if constexpr (MT > 1 && NT > 1) _tile_stored(3, c1 + 64, ldc);
}

void Product(const ProductArgs& p) {
  asm volatile("" ::: "memory");  // GCC 12 does not know that tile loads and stores touch memory
  const char* a = static_cast<const char*>(p.a);
  const int64_t lda = 2 * p.lda, ldb = 2 * p.ldb, ldc = 4 * p.ldc;
  for (int32_t j = 0; j < p.n;) {
    const int32_t column = p.b_first + j, inside = column % kPanel;
    const bool wide = p.n - j >= 32 && kPanel - inside >= 32;
    const char* b = static_cast<const char*>(p.b) + 2 * (column / kPanel * p.panel + 2 * inside);
    int32_t r = 0;
    for (; r + 32 <= p.m; r += 32) {
      if (wide) {
        ProductTiles<2, 2>(a + r * lda, lda, b, ldb, p.c + r * p.ldc + j, ldc, p.k, p.accumulate);
      } else {
        ProductTiles<2, 1>(a + r * lda, lda, b, ldb, p.c + r * p.ldc + j, ldc, p.k, p.accumulate);
      }
    }
    if (r < p.m) {
      if (wide) {
        ProductTiles<1, 2>(a + r * lda, lda, b, ldb, p.c + r * p.ldc + j, ldc, p.k, p.accumulate);
      } else {
        ProductTiles<1, 1>(a + r * lda, lda, b, ldb, p.c + r * p.ldc + j, ldc, p.k, p.accumulate);
      }
    }
    j += wide ? 32 : 16;
  }
  asm volatile("" ::: "memory");
}

int64_t Burn(int64_t steps) {
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t i = 0; i < steps; ++i) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  return steps * 4 * 2 * 16 * 16 * 32;
}

constexpr TileKernels MakeAmx() {
  TileKernels kernels = MakeKernels<Vec16, bf16>(Isa::kAmx, 32);
  kernels.m_align = 16;
  kernels.k_align = 32;
  kernels.begin = Begin;
  kernels.end = End;
  kernels.product = Product;
  kernels.burn = Burn;
  kernels.dots = Bf16Dots::Run;
  return kernels;
}

}  // namespace

const TileKernels kTileAmx = MakeAmx();

}  // namespace hawser
