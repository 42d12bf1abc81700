#include "hawser/cli/bench.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "hawser/base/error.h"

namespace hawser {
namespace {

constexpr CommandRow kBenches[] = {
    {"attention", "Attention forward and backward over patterns, in shares of the machine's peak", SetupBenchAttention},
    {"cache", "Tokens one at a time at a depth of context, by cache policy: whole and in attention", SetupBenchCache},
    {"decode", "Tokens of one or more streams at a depth of context, in shares of memory's bandwidth",
     SetupBenchDecode},
    {"matmul", "The products of a linear layer, beside oneDNN's own", SetupBenchMatMul},
    {"prefill", "Prompts, in shares of the machine's peak", SetupBenchPrefill},
    {"squeezed", "Attention of single tokens behind a squeezed prefix, beside dense attention, by length",
     SetupBenchSqueezed},
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

ModelDims ShapeByName(const std::string& name) {
  if (name == "10m") {
    return {.vocab = 16384, .width = 256, .layers = 8, .heads = 4, .kv_heads = 4, .mlp_width = 704};
  }
  if (name == "demo") return {.vocab = 1550, .width = 128, .layers = 2, .heads = 4, .kv_heads = 4, .mlp_width = 352};
  return {.vocab = 50304, .width = 768, .layers = 12, .heads = 12, .kv_heads = 12, .mlp_width = 2048};
}

void CheckAgainst(const std::vector<double>& want, const std::vector<double>& got, double share,
                  const std::string& name) {
  double top = 0, worst = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    top = std::max(top, std::abs(want[i]));
    const double error = std::abs(got[i] - want[i]);
    worst = error <= worst ? worst : error;  // NaN is worse
  }
  if (worst <= share * top) return;
  Fail(ErrorKind::kNumeric, "bench: {} is off by {:.3g}, allowed {:.3g}; the kernels are wrong on this machine", name,
       worst, share * top);
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
