// cli/bench.h - the benches behind `hawser bench NAME`, one file each. A bench verifies what it times first, then
// prints a table for people or, with --json, {machine, rows}.
#pragma once

#include <string>
#include <vector>

#include "hawser/cli/command.h"
#include "hawser/device/machine.h"
#include "hawser/train/config.h"

namespace hawser {

std::function<int()> SetupBenchAttention(Command command, CommonOptions& common);
std::function<int()> SetupBenchCache(Command command, CommonOptions& common);
std::function<int()> SetupBenchDecode(Command command, CommonOptions& common);
std::function<int()> SetupBenchMatMul(Command command, CommonOptions& common);
std::function<int()> SetupBenchPrefill(Command command, CommonOptions& common);
std::function<int()> SetupBenchSqueezed(Command command, CommonOptions& common);
std::function<int()> SetupBenchTrain(Command command, CommonOptions& common);

/// Median and spread ((max - min) / median) of the seconds that `body` takes: one run to warm up, then `repeat` runs,
/// or fewer (two at least) when they take longer than a few seconds.
struct Timing {
  double seconds = 0;
  double spread = 0;
};
Timing TimeIt(int repeat, const std::function<void()>& body);

/// Sizes by name: 125m (124M parameters, as GPT-2's smallest), 10m, demo (the model of `hawser demo`); 125m for others.
ModelDims ShapeByName(const std::string& name);

/// Errors: kNumeric if a result is further from its twin than this share of the largest value, or NaN.
void CheckAgainst(const std::vector<double>& want, const std::vector<double>& got, double share,
                  const std::string& name);

nlohmann::json MachineJson(const MachinePeaks& peaks);

/// One line for people: peaks, threads, and a warning when other work keeps the machine busy.
void PrintMachine(const MachinePeaks& peaks);

}  // namespace hawser
