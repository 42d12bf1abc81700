#include "hawser/cpu/peak.h"

#include <algorithm>
#include <atomic>
#include <ctime>
#include <numeric>
#include <thread>
#include <vector>

#include "hawser/base/buffer.h"
#include "hawser/base/parallel.h"
#include "hawser/cpu/attention.h"
#include "hawser/cpu/tile_kernels.h"

namespace hawser {
namespace {

constexpr int kRuns = 4;
constexpr double kRunSeconds = 0.03;

double Seconds(clockid_t clock) {
  timespec now{};
  clock_gettime(clock, &now);
  return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

/// All threads at once: `body(thread)` returns its units of work; the best sum of kRuns of the rates of the threads, in
/// units per second of `clock`. By CPU time, other programs that take a core away do not lower a peak.
template <class Body>
double BestRate(clockid_t clock, Body&& body) {
  double best = 0;
  for (int run = 0; run < kRuns; ++run) {
    std::vector<double> rates(static_cast<size_t>(NumThreads()));
    const auto measure = [&](size_t thread) {
      const double begin = Seconds(clock);
      const double work = body(static_cast<int>(thread));
      rates[thread] = work / (Seconds(clock) - begin);
    };
    std::vector<std::thread> others;
    for (size_t thread = 1; thread < rates.size(); ++thread) others.emplace_back(measure, thread);
    measure(0);
    for (std::thread& other : others) other.join();
    best = std::max(best, std::accumulate(rates.begin(), rates.end(), 0.0));
  }
  return best;
}

double PeakGflops(const TileKernels& t) {
  t.begin();
  int64_t steps = 1000;
  for (double took = 0; took < kRunSeconds; steps = took < kRunSeconds ? steps * 2 : steps) {
    const double begin = Seconds(CLOCK_THREAD_CPUTIME_ID);
    t.burn(steps);
    took = Seconds(CLOCK_THREAD_CPUTIME_ID) - begin;
  }
  t.end();
  const double rate = BestRate(CLOCK_THREAD_CPUTIME_ID, [&](int) {
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
  const double rate = BestRate(CLOCK_MONOTONIC, [&](int thread) {
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
