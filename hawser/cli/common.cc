#include <cerrno>
#include <cstdio>
#include <cstring>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/printable.h"
#include "hawser/cli/command.h"
#include "hawser/io/json_text.h"
#include "hawser/model/places.h"
#include "hawser/train/peft.h"
#include "hawser/zoo/builtin.h"

namespace hawser {

void AddModelOptions(Command command, ModelOptions& options, bool required) {
  CommandOption model =
      command.Add("MODEL", options.model, "Hugging Face folder, .gguf, llama2.c .bin, hf:ORG/NAME, or builtin");
  if (required) model.Required();
  command.Add("--tokenizer", options.tokenizer,
              "Tokenizer file or folder, or a model that has one, where MODEL has none or another one is wanted");
}

void AddAdapterOption(Command command, ModelOptions& options) {
  command.Add("--adapter", options.adapter, "Folder of low-rank adapters (PEFT) to add to the weights");
}

namespace {

void NeedTokenizer(const LoadedModel& model, const ModelOptions& options) {
  if (model.tokenizer != nullptr) return;
  Fail(ErrorKind::kUsage, "{}: no tokenizer found with the model; give one with --tokenizer FILE",
       options.model.string());
}

}  // namespace

void MergeAdapters(const ModelOptions& options, bool places, LoadedModel* model) {
  CheckNotMerged(options.adapter, options.model);
  MergePeft(options.adapter, MakeBackend("cpu").get(), &model->params);
  if (!places) return;
  TakeTrainedPlaces(options.adapter, &model->spec);
  model->params = std::move(model->params).WithSpec(model->spec);
}

LoadedModel OpenModel(const ModelOptions& options, std::string_view rope, int64_t context) {
  LoadedModel model = LoadModel(options.model, options.tokenizer);
  NeedTokenizer(model, options);
  if (!options.adapter.empty()) MergeAdapters(options, /*places=*/rope.empty(), &model);
  if (!rope.empty()) {
    ModelSpec spec = model.spec;
    ApplyPlaces(rope, spec.context, context, &spec);
    model.params = std::move(model.params).WithSpec(std::move(spec));
  }
  return model;
}

ModelToRun OpenModelToRun(const ModelOptions& options, std::string_view rope, int64_t context,
                          const std::string& dtype) {
  std::optional<DType> wanted;
  if (!dtype.empty()) {
    wanted = ParseDType(dtype);
    if (wanted != DType::kF32 && wanted != DType::kBF16) {
      Fail(ErrorKind::kUsage, "--dtype must be f32 or bf16, found {}", dtype);
    }
  }
  if (!options.adapter.empty()) {
    LoadedModel model = OpenModel(options, rope, context);
    const DType activations = wanted.value_or(model.file_dtype == DType::kBF16 ? DType::kBF16 : DType::kF32);
    auto params = std::make_shared<const ParamStore>(Cast(model.params, activations));
    model.params = ParamStore();
    return {std::move(model), Weights::Of(std::move(params))};
  }
  ModelToRun run = LoadModelToRun(options.model, options.tokenizer, wanted);
  NeedTokenizer(run.model, options);
  if (!rope.empty()) {
    ModelSpec spec = run.weights.spec();
    ApplyPlaces(rope, run.model.spec.context, context, &spec);
    run.weights = run.weights.WithSpec(spec);
  }
  return run;
}

std::unique_ptr<Tokenizer> OpenTokenizer(const ModelOptions& options) {
  if (!options.tokenizer.empty()) return LoadTokenizer(ResolveModel(options.tokenizer));
  try {
    return LoadTokenizer(ResolveModel(options.model));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kFormat) throw;
    Fail(ErrorKind::kFormat, "{}; if this is a model without a tokenizer, pass --tokenizer FILE", error.what());
  }
}

void AddCommonOptions(Command command, CommonOptions& common) {
  command.Add("--json", common.json, "One JSON object on stdout");
  command.Add("--quiet", common.quiet, "No log lines and no progress bars");
  command
      .Add("--threads", common.threads,
           "Threads; 0: one per core that affinity, OMP_NUM_THREADS and control groups allow")
      .Range(0, 4096);
  command.Add("--seed", common.seed, "Seed of everything random");
  command.Add("--device", common.device, "Device: cpu");
  command.Add("--progress", common.progress, "Seconds between lines of progress where stderr is no terminal; 0: none")
      .RangeReal(0, 1e9);
}

void AddForceOption(Command command, CommonOptions& common) {
  if (!command.Declares("--force")) command.Add("--force", common.force, "Go on although memory does not suffice");
}

std::function<int()> SetupParts(Command command, std::span<const CommandRow> parts, CommonOptions& common) {
  std::vector<std::pair<Command, std::function<int()>>> runs;
  for (const CommandRow& row : parts) {
    Command part = command.AddCommand(row.name, row.summary);
    runs.emplace_back(part, row.setup(part, common));
  }
  return [runs = std::move(runs)] {
    for (const auto& [part, run] : runs) {
      if (part.parsed()) return run();
    }
    return ExitCode(ErrorKind::kUsage);
  };
}

void PrintRaw(std::string_view text) {
  if (std::fwrite(text.data(), 1, text.size(), stdout) != text.size() || std::fflush(stdout) != 0) {
    Fail(ErrorKind::kIo, "stdout: cannot write: {}", std::strerror(errno));
  }
}

void PrintText(std::string_view text) { PrintRaw(PrintableText(text)); }

void PrintJson(const nlohmann::json& object) { PrintRaw(JsonText(object) + "\n"); }

}  // namespace hawser
