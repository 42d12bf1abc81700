// The hawser binary: a table of commands and the one place that turns an Error into a line and an exit code.
#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <functional>
#include <new>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/limits.h"
#include "hawser/base/origin.h"
#include "hawser/base/parallel.h"
#include "hawser/base/printable.h"
#include "hawser/base/progress.h"
#include "hawser/cli/command.h"

namespace hawser {
namespace {

constexpr CommandRow kCommands[] = {
    {"info", "Show a model: architecture, parameters, context, positions, tokenizer", SetupInfo},
    {"tokenize", "Text to token ids and back", SetupTokenize},
    {"generate", "Continue a prompt", SetupGenerate},
    {"chat", "Talk with a chat model", SetupChat},
    {"serve", "Serve a model: OpenAI's API and a page to talk", SetupServe},
    {"extend", "Continue training a model to a longer context", SetupExtend},
    {"train", "Train from a recipe, from scratch or continued", SetupTrain},
    {"eval", "Measure a model: perplexity, retrieval, tasks of questions and answers", SetupEval},
    {"drift", "Measure what the rounding of rotary embeddings does to a model", SetupDrift},
    {"average", "Average checkpoints of a training run into one model", SetupAverage},
    {"convert", "Convert between model formats", SetupConvert},
    {"pull", "Fetch a model from a Hub into the cache folder", SetupPull},
    {"inspect", "Show an attention pattern, how data are packed, or which tokens separate", SetupInspect},
    {"bench", "Verify, then time kernels and steps against the machine's peak", SetupBench},
    {"corpus", "Write documents with facts and questions, for training and retrieval tests", SetupCorpus},
    {"plot", "Draw results and curves as SVG, PNG or PDF", SetupPlot},
    {"report", "Compare evaluations and runs on one page of pictures", SetupReport},
    {"index", "Order the keys of a text that many prompts share, so that queries read a part of them", SetupIndex},
    {"tune-kv", "Choose a window for each layer of SepLLM on a text, for a budget of keys", SetupTuneKv},
    {"demo", "Train, extend, measure and stream a small model; writes demo/report.html", SetupDemo},
    {"help", "Tell more of a command or a text form: help generate, help kv, help rope, help attention", SetupHelp},
};

/// libgomp lets idle threads spin for a millisecond or more at every barrier. On a machine that runs anything else the
/// spinning takes the core from the thread that is waited for (measured with three busy processes on two cores: an
/// evaluation took 10.9 s instead of 3.6 s). It reads its settings before main, so the binary starts itself once more.
void LimitSpinning(char** argv) {
  if (std::getenv("GOMP_SPINCOUNT") != nullptr || std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("GOMP_SPINCOUNT", "10000", 0);
  execv("/proc/self/exe", argv);  // returns only where that cannot be done; then all runs as it is
}

/// A file opened later must not get the number of a stream that was closed, and then its text. Writing to what takes
/// its place fails.
void FillClosedStreams() {
  for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; ++fd) {
    if (fcntl(fd, F_GETFD) < 0) static_cast<void>(open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY));
  }
}

int Run(int argc, char** argv) {
  Program program("hawser", "hawser extends, trains, runs and measures long-context language models",
                  fmt::format("hawser {}", Version()));
  CommonOptions common;
  std::vector<std::pair<Command, std::function<int()>>> commands;
  for (const CommandRow& row : kCommands) {
    Command command = program.AddCommand(row.name, row.summary);
    AddCommonOptions(command, common);
    commands.emplace_back(command, row.setup(command, common));
    AddForceOption(command, common);
  }
  std::string text;
  if (!program.Parse(argc, argv, &text)) {
    PrintText(text);
    return 0;
  }
  SetQuiet(common.quiet);
  SetProgressSeconds(common.progress);
  SetThreads(common.threads);
  CheckDevice(common.device);
  for (auto& [command, run] : commands) {
    if (!command.parsed()) continue;
    AllowTooLarge(common.force || command.Has("--force"));
    return run();
  }
  return ExitCode(ErrorKind::kUsage);
}

}  // namespace
}  // namespace hawser

// In the binary what is too large for the machine is refused wherever it is asked for, before the kernel hands out
// pages that it does not have and ends a process later. Sanitizers bring allocators of their own.
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
namespace {

class OutOfMemory : public std::bad_alloc {
 public:
  explicit OutOfMemory(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

}  // namespace

void* operator new(size_t bytes) {
  constexpr size_t kLarge = size_t{64} << 20;  // smaller ones are not worth a look at the machine's state
  if (bytes >= kLarge) {
    try {
      hawser::CheckFits("a list", static_cast<int64_t>(std::min<size_t>(bytes, INT64_MAX)));
    } catch (const hawser::Error& error) {
      throw OutOfMemory(error.what());
    }
  }
  if (void* memory = std::malloc(bytes > 0 ? bytes : 1)) return memory;
  throw std::bad_alloc();
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, size_t) noexcept { std::free(memory); }
#endif

int main(int argc, char** argv) {
  // A limit on the size of files and a reader that went away are errors of write, as a full disk is.
  std::signal(SIGXFSZ, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  hawser::FillClosedStreams();
  hawser::LimitSpinning(argv);
  hawser::SetCommandLine(argc, argv);
  try {
    return hawser::Run(argc, argv);
  } catch (const hawser::Error& error) {
    std::fprintf(stderr, "hawser: %s\n", error.what());
    return hawser::ExitCode(error.kind());
  } catch (const std::bad_alloc& error) {
    std::fprintf(stderr, "hawser: out of memory: %s\n", hawser::PrintableLine(error.what()).c_str());
    return hawser::ExitCode(hawser::ErrorKind::kUsage);
  } catch (const std::length_error& error) {
    std::fprintf(stderr, "hawser: more than any machine has was asked for: %s\n",
                 hawser::PrintableLine(error.what()).c_str());
    return hawser::ExitCode(hawser::ErrorKind::kUsage);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "hawser: internal error: %s\n", hawser::PrintableLine(error.what()).c_str());
    return 1;
  }
}
