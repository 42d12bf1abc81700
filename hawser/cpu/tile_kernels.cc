#include "hawser/cpu/tile_kernels.h"

#ifdef __x86_64__
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <algorithm>
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

#ifdef __x86_64__
/// The CPU has AMX with BF16, and the kernel lets this process use the 8 KiB of tile state.
bool HasAmx() {
  static const bool has = [] {
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
    const bool bf16 = (d >> 22) & 1u, tile = (d >> 24) & 1u;
    constexpr int kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return bf16 && tile && syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  }();
  return has;
}
#endif

}  // namespace

std::vector<Isa> AvailableIsas() {
  std::vector<Isa> isas = {Isa::kScalar};
#ifdef __x86_64__
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) isas.push_back(Isa::kAvx2);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
      __builtin_cpu_supports("avx512vl")) {
    isas.push_back(Isa::kAvx512);
    if (__builtin_cpu_supports("avx512bf16")) {
      isas.push_back(Isa::kAvx512Bf16);
      if (HasAmx()) isas.push_back(Isa::kAmx);
    }
  }
#endif
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

const TileKernels& GetTileKernels(Isa isa, DType dtype) {
#ifdef __x86_64__
  if (dtype == DType::kBF16) {
    if (isa == Isa::kAmx) return kTileAmx;
    if (isa == Isa::kAvx512Bf16) return kTileAvx512Bf16;
  }
  if (isa >= Isa::kAvx512) return kTileAvx512;
  if (isa == Isa::kAvx2) return kTileAvx2;
#endif
  return kTileScalar;
}

std::string AttentionIsa() { return Name(CurrentIsa()); }

}  // namespace hawser
