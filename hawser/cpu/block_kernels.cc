#include "hawser/cpu/block_kernels.h"

namespace hawser {

const BlockKernels* FindBlockKernels(Isa isa, DType dtype) {
#ifdef __x86_64__
  static const bool vnni = __builtin_cpu_supports("avx512vnni") != 0;
  static const bool halves = __builtin_cpu_supports("f16c") != 0;
  if (isa == Isa::kScalar || !halves) return nullptr;
  const bool wide = isa >= Isa::kAvx512 && vnni;
  switch (dtype) {
    case DType::kQ8_0:
      return wide ? &block_avx512vnni::kQ8_0 : &block_avx2::kQ8_0;
    case DType::kQ4_0:
      return wide ? &block_avx512vnni::kQ4_0 : &block_avx2::kQ4_0;
    case DType::kQ4_1:
      return wide ? &block_avx512vnni::kQ4_1 : &block_avx2::kQ4_1;
    case DType::kQ4K:
      return wide ? &block_avx512vnni::kQ4K : &block_avx2::kQ4K;
    case DType::kQ6K:
      return wide ? &block_avx512vnni::kQ6K : &block_avx2::kQ6K;
    default:
      return nullptr;
  }
#else
  (void)isa, (void)dtype;
  return nullptr;
#endif
}

}  // namespace hawser
