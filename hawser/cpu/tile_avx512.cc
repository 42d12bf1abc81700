// AVX-512 kernels over F32. The 6 x 64 register tile keeps 24 accumulators, 4 vectors of B and a broadcast of A in the
// 32 registers: 10 loads for 24 multiply-adds.
#include "hawser/cpu/tile_avx512-inl.h"

namespace hawser {

const TileKernels kTileAvx512 = MakeKernels<Vec16, float>(Isa::kAvx512, 48);

}  // namespace hawser
