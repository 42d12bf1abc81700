#include "hawser/cpu/peak.h"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "hawser/base/buffer.h"
#include "hawser/base/parallel.h"
#include "hawser/cpu/attention.h"
#include "hawser/cpu/tile_kernels.h"

namespace hawser {
namespace {

constexpr int kRuns = 4;
constexpr double kRunSeconds = 0.03;

double Seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

/// All threads at once: `body(thread)` returns its units of work; the best rate of kRuns, in units per second.
template <class Body>
double BestRate(Body&& body) {
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    double work = 0;
    const double begin = Seconds();
#pragma omp parallel reduction(+ : work)
    work += body(omp_get_thread_num());
    best = std::max(best, work / (Seconds() - begin));
  }
  return best;
}

double PeakGflops(const TileKernels& t) {
  t.begin();
  int64_t steps = 1000;
  for (double took = 0; took < kRunSeconds; steps = took < kRunSeconds ? steps * 2 : steps) {
    const double begin = Seconds();
    t.burn(steps);
    took = Seconds() - begin;
  }
  t.end();
  const double rate = BestRate([&](int) {
    t.begin();
    const double flops = static_cast<double>(t.burn(steps));
    t.end();
    return flops;
  });
  return rate / 1e9;
}

double MemoryGbPerSecond() {
  const TileKernels& t = GetTileKernels(CurrentIsa(), DType::kF32);
  constexpr int64_t kFloats = int64_t{1} << 27;  // 512 MiB in two halves, each thread its own part of both
  Buffer buffer(kFloats * sizeof(float));
  float* data = buffer.as<float>();
  ParallelChunks(kFloats, 1 << 20, [&](int64_t begin, int64_t end) { std::fill(data + begin, data + end, 1.0f); });
  const int threads = NumThreads();
  std::atomic<float> sink = 0;
  const double rate = BestRate([&](int thread) {
    const int64_t half = kFloats / 2, begin = half * thread / threads, end = half * (thread + 1) / threads;
    sink = t.dot(data + begin, data + half + begin, end - begin);
    return static_cast<double>(2 * (end - begin)) * sizeof(float);
  });
  return rate / 1e9;
}

}  // namespace

MachinePeaks MeasurePeaks() {
  MachinePeaks peaks{.isa = AttentionIsa(), .threads = NumThreads()};
  const std::vector<Isa> isas = AvailableIsas();
  const auto has = [&](Isa isa) { return std::find(isas.begin(), isas.end(), isa) != isas.end(); };
  peaks.f32_gflops = PeakGflops(GetTileKernels(CurrentIsa(), DType::kF32));
  if (has(Isa::kAvx512Bf16)) peaks.bf16_avx512_gflops = PeakGflops(GetTileKernels(Isa::kAvx512Bf16, DType::kBF16));
  if (has(Isa::kAmx)) peaks.bf16_amx_gflops = PeakGflops(GetTileKernels(Isa::kAmx, DType::kBF16));
  peaks.gb_per_s = MemoryGbPerSecond();
  return peaks;
}

double AttentionPeak(const MachinePeaks& peaks, bool bf16_inputs) {
  const Isa isa = ParseIsa(peaks.isa.c_str());
  if (bf16_inputs && isa == Isa::kAmx) return peaks.bf16_amx_gflops;
  if (bf16_inputs && isa == Isa::kAvx512Bf16) return peaks.bf16_avx512_gflops;
  return peaks.f32_gflops;
}

}  // namespace hawser
