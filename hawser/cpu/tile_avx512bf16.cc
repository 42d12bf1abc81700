// AVX-512 kernels over BF16: vdpbf16ps adds two products per lane, on the register tile of the F32 kernels.
#include "hawser/cpu/tile_avx512-inl.h"
#include "hawser/cpu/tile_dots-inl.h"

namespace hawser {
namespace {

struct Vec16Bf16 : Vec16 {
  static F MulAdd(F a, F b, F c) { return _mm512_dpbf16_ps(c, (__m512bh)a, (__m512bh)b); }
};

constexpr TileKernels MakeAvx512Bf16() {
  TileKernels kernels = MakeKernels<Vec16Bf16, bf16>(Isa::kAvx512Bf16, 48);
  kernels.dots = Bf16Dots::Run;
  return kernels;
}

}  // namespace

const TileKernels kTileAvx512Bf16 = MakeAvx512Bf16();

}  // namespace hawser
