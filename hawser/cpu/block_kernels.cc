#include "hawser/cpu/block_kernels.h"

#ifdef __x86_64__
#include <cpuid.h>
#endif

#include <vector>

#include "hawser/quant/block.h"

namespace hawser {
namespace {

#ifdef __x86_64__
struct Registers {
  unsigned a = 0, b = 0, c = 0, d = 0;
};

/// For what not every compiler's __builtin_cpu_supports knows by name.
Registers CpuId(unsigned leaf) {
  Registers of;
  __get_cpuid_count(leaf, 0, &of.a, &of.b, &of.c, &of.d);
  return of;
}

std::vector<BlockKernels> WithTiles() {
  std::vector<BlockKernels> all(kBlockAvx512Vnni, kBlockAvx512Vnni + BlockTypes().size());
  for (size_t i = 0; i < all.size(); ++i) {
    const BlockKernels& tiles = kBlockAmx[i];
    if (tiles.panel == nullptr) continue;
    all[i].unpack = tiles.unpack;
    all[i].panel = tiles.panel;
    all[i].begin = tiles.begin;
    all[i].end = tiles.end;
  }
  return all;
}
#endif

}  // namespace

const BlockKernels& GetBlockKernels(Isa isa, DType dtype) {
  const auto type = static_cast<size_t>(dtype) - static_cast<size_t>(DType::kQ8_0);
#ifdef __x86_64__
  static const bool vnni = __builtin_cpu_supports("avx512vnni") != 0;
  static const bool halves = (CpuId(1).c >> 29) & 1u;
  static const bool tiles = vnni && (CpuId(7).d >> 25) & 1u;  // of 8-bit integers
  if (isa >= Isa::kAmx && tiles && halves) {
    static const std::vector<BlockKernels> kernels = WithTiles();
    return kernels[type];
  }
  if (isa >= Isa::kAvx512 && vnni && halves) return kBlockAvx512Vnni[type];
  if (isa >= Isa::kAvx2 && halves) return kBlockAvx2[type];
#else
  (void)isa;
#endif
  return kBlockScalar[type];
}

}  // namespace hawser
