#include "hawser/cli/bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>

namespace hawser {
namespace {

constexpr CommandRow kBenches[] = {
    {"attention", "Attention forward and backward over patterns, in shares of the machine's peak", SetupBenchAttention},
    {"matmul", "The products of a linear layer, beside oneDNN's own", SetupBenchMatMul},
    {"train", "Whole optimizer steps, by attention variant and dtype", SetupBenchTrain},
};

constexpr double kMaxSeconds = 4.0;  // of repeats

double Now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

double LoadAverage() {
  double load = 0;
  return getloadavg(&load, 1) == 1 ? load : 0;
}

}  // namespace

Timing TimeIt(int repeat, const std::function<void()>& body) {
  body();
  std::vector<double> seconds;
  double total = 0;
  for (int i = 0; i < repeat && (i < 2 || total < kMaxSeconds); ++i) {
    const double begin = Now();
    body();
    seconds.push_back(Now() - begin);
    total += seconds.back();
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = 0.5 * (seconds[(seconds.size() - 1) / 2] + seconds[seconds.size() / 2]);
  return {median, median > 0 ? (seconds.back() - seconds.front()) / median : 0};
}

nlohmann::json MachineJson(const MachinePeaks& peaks) {
  return {{"f32_gflops", peaks.f32_gflops},
          {"bf16_avx512_gflops", peaks.bf16_avx512_gflops},
          {"bf16_amx_gflops", peaks.bf16_amx_gflops},
          {"gb_per_s", peaks.gb_per_s},
          {"isa", peaks.isa},
          {"threads", peaks.threads},
          {"load_average", LoadAverage()}};
}

void PrintMachine(const MachinePeaks& peaks) {
  std::printf(
      "peak GFLOP/s: f32 %.0f, bf16 avx512 %.0f, bf16 amx %.0f; memory %.1f GB/s; attention uses %s; %d threads\n",
      peaks.f32_gflops, peaks.bf16_avx512_gflops, peaks.bf16_amx_gflops, peaks.gb_per_s, peaks.isa.c_str(),
      peaks.threads);
  const double load = LoadAverage();
  if (load > peaks.threads + 0.5) {
    std::printf("load average %.1f with %d threads: other work is running, these times are not to be quoted\n", load,
                peaks.threads);
  }
}

std::function<int()> SetupBench(Command command, CommonOptions& common) {
  return SetupParts(command, kBenches, common);
}

}  // namespace hawser
