#include "hawser/cpu/block_kernels.h"

namespace hawser {

const BlockKernels& GetBlockKernels(Isa isa, DType dtype) {
  const auto type = static_cast<size_t>(dtype) - static_cast<size_t>(DType::kQ8_0);
#ifdef __x86_64__
  static const bool vnni = __builtin_cpu_supports("avx512vnni") != 0;
  static const bool halves = __builtin_cpu_supports("f16c") != 0;
  if (isa >= Isa::kAvx512 && vnni && halves) return kBlockAvx512Vnni[type];
  if (isa >= Isa::kAvx2 && halves) return kBlockAvx2[type];
#else
  (void)isa;
#endif
  return kBlockScalar[type];
}

}  // namespace hawser
