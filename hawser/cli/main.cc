// The hawser binary: a table of commands and the one place that turns an Error into a line and an exit code.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/progress.h"
#include "hawser/cli/command.h"

namespace hawser {
namespace {

constexpr CommandRow kCommands[] = {
    {"info", "Show a model: architecture, parameters, context, positions, tokenizer", SetupInfo},
    {"tokenize", "Text to token ids and back", SetupTokenize},
    {"generate", "Continue a prompt", SetupGenerate},
    {"extend", "Continue training a model to a longer context", SetupExtend},
    {"train", "Train from a recipe, from scratch or continued", SetupTrain},
    {"eval", "Measure a model: ppl, retrieval", SetupEval},
    {"drift", "Measure what the rounding of rotary embeddings does to a model", SetupDrift},
    {"average", "Average checkpoints of a training run into one model", SetupAverage},
    {"convert", "Convert between model formats", SetupConvert},
    {"inspect", "Show an attention pattern, how data are packed, or which tokens separate", SetupInspect},
    {"bench", "Verify, then time kernels and steps against the machine's peak", SetupBench},
    {"corpus", "Write documents with facts and questions, for training and retrieval tests", SetupCorpus},
    {"plot", "Draw curves from a JSON file as SVG", SetupPlot},
    {"tune-kv", "Choose a window for each layer of SepLLM on a text, for a budget of keys", SetupTuneKv},
    {"demo", "Train, extend, measure and stream a small model; writes demo/report.html", SetupDemo},
};

/// libgomp lets idle threads spin for a millisecond or more at every barrier. On a machine that runs anything else the
/// spinning takes the core from the thread that is waited for (measured with three busy processes on two cores: an
/// evaluation took 10.9 s instead of 3.6 s). It reads its settings before main, so the binary starts itself once more.
void LimitSpinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "10000", 0);
  execv("/proc/self/exe", argv);  // returns only where that cannot be done; then all runs as it is
}

int Run(int argc, char** argv) {
  Program program("hawser", "hawser extends, trains, runs and measures long-context language models", "hawser 0.1.0");
  CommonOptions common;
  std::vector<std::pair<Command, std::function<int()>>> commands;
  for (const CommandRow& row : kCommands) {
    Command command = program.AddCommand(row.name, row.summary);
    command.Add("--json", common.json, "One JSON object on stdout");
    command.Add("--quiet", common.quiet, "No log lines and no progress bars");
    command.Add("--threads", common.threads, "Threads; 0: one per core").Range(0, 4096);
    command.Add("--seed", common.seed, "Seed of everything random");
    command.Add("--device", common.device, "Device: cpu");
    commands.emplace_back(command, row.setup(command, common));
  }
  int exit_code = 0;
  if (!program.Parse(argc, argv, &exit_code)) return exit_code;
  SetQuiet(common.quiet);
  SetThreads(common.threads);
  for (auto& [command, run] : commands) {
    if (command.parsed()) return run();
  }
  return ExitCode(ErrorKind::kUsage);
}

}  // namespace
}  // namespace hawser

int main(int argc, char** argv) {
  hawser::LimitSpinning(argv);
  try {
    return hawser::Run(argc, argv);
  } catch (const hawser::Error& error) {
    std::fprintf(stderr, "hawser: %s\n", error.what());
    return hawser::ExitCode(error.kind());
  } catch (const std::bad_alloc&) {
    std::fprintf(stderr, "hawser: out of memory\n");
    return 1;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "hawser: internal error: %s\n", error.what());
    return 1;
  }
}
