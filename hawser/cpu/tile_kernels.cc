#include "hawser/cpu/tile_kernels.h"

#include <cstdlib>
#include <string_view>

#include "hawser/base/error.h"
#include "hawser/cpu/attention.h"

namespace hawser {
namespace {

constexpr const char* kNames[] = {"scalar", "avx2", "avx512", "avx512_bf16", "amx"};

Isa& Current() {
  static Isa isa = [] {
    const Isa best = AvailableIsas().back();
    const char* limit = std::getenv("HAWSER_ISA");
    if (limit == nullptr || *limit == '\0') return best;
    return std::min(best, ParseIsa(limit));
  }();
  return isa;
}

}  // namespace

std::vector<Isa> AvailableIsas() {
  std::vector<Isa> isas = {Isa::kScalar};
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    isas.push_back(Isa::kAvx512);
  }
  return isas;
}

const char* Name(Isa isa) { return kNames[static_cast<size_t>(isa)]; }

Isa ParseIsa(const char* name) {
  for (size_t i = 0; i < std::size(kNames); ++i) {
    if (std::string_view(name) == kNames[i]) return static_cast<Isa>(i);
  }
  Fail(ErrorKind::kUsage, "instruction set '{}' is not known; use scalar, avx2, avx512, avx512_bf16 or amx", name);
}

Isa CurrentIsa() { return Current(); }

void SetIsa(Isa isa) {
  for (const Isa have : AvailableIsas()) {
    if (have == isa) {
      Current() = isa;
      return;
    }
  }
  Fail(ErrorKind::kUnsupported, "this machine has no {}", Name(isa));
}

const TileKernels& GetTileKernels(Isa isa, DType) {
  if (isa >= Isa::kAvx512) return kTileAvx512;
  return kTileScalar;
}

std::string AttentionIsa() { return Name(CurrentIsa()); }

}  // namespace hawser
