// cpu/peak.h - what this machine can do at most, measured: kernels are judged by their share of it.
#pragma once

#include <string>

namespace hawser {

/// GFLOP/s of multiply-adds from registers with all threads at work, 0 where the machine lacks the instructions, and
/// GB/s of reading memory that is larger than the caches. Best of a few short runs.
struct MachinePeaks {
  double f32_gflops = 0;
  double bf16_avx512_gflops = 0;
  double bf16_amx_gflops = 0;
  double gb_per_s = 0;
  std::string isa;  // of attention
  int threads = 0;
};

MachinePeaks MeasurePeaks();

/// The peak of what attention computes with for inputs of this kind: BF16 without BF16 instructions goes by F32.
double AttentionPeak(const MachinePeaks& peaks, bool bf16_inputs);

}  // namespace hawser
