// Weights in blocks with AVX-512 and VNNI.
#include "hawser/cpu/block_avx512-inl.h"

namespace hawser {
namespace {

constexpr std::array kKernels = AllBlockTypes::Map<ToKernels<Vec16>>();

}  // namespace

const BlockKernels* const kBlockAvx512Vnni = kKernels.data();

}  // namespace hawser
