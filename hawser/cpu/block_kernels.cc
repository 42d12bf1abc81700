#include "hawser/cpu/block_kernels.h"

#include <vector>

#include "hawser/quant/block.h"

namespace hawser {
namespace {

#ifdef __x86_64__
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
  static const bool halves = __builtin_cpu_supports("f16c") != 0;
  static const bool tiles = vnni && __builtin_cpu_supports("amx-int8") != 0;
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
