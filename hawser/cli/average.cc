// hawser average: one model out of the checkpoints of a run.
#include <memory>

#include "hawser/base/error.h"
#include "hawser/base/lock.h"
#include "hawser/cli/command.h"
#include "hawser/train/average.h"
#include "hawser/train/run.h"
#include "hawser/zoo/hf_export.h"

namespace hawser {
namespace {

struct AverageOptions {
  std::filesystem::path run, out;
  int64_t last = 0, best = 0;
  std::vector<int32_t> steps;
  std::string dtype;
  bool force = false;
};

/// What a run folder says of its model: from the finished model, or from the recipe of one that is not finished.
LoadedModel ModelOfRun(const std::filesystem::path& run, const TrainConfig& config) {
  std::error_code code;
  if (std::filesystem::exists(run / "config.json", code)) return InspectModel(run);
  const TrainPlan plan = MakePlan(config);
  LoadedModel model;
  model.spec = plan.spec;
  model.tokenizer = plan.tokenizer;
  if (!config.model.empty()) model.tokenizer = InspectModel(config.model, config.tokenizer).tokenizer;
  return model;
}

std::vector<int64_t> ChooseSteps(const AverageOptions& options) {
  if ((options.last > 0) + (options.best > 0) + !options.steps.empty() != 1) {
    Fail(ErrorKind::kUsage, "which checkpoints? Give one of --last K, --best K and --steps 90,100");
  }
  if (options.last > 0) return LastCheckpoints(options.run / "checkpoints", options.last);
  if (options.best > 0) return BestCheckpoints(options.run, options.best);
  return {options.steps.begin(), options.steps.end()};
}

int Average(const AverageOptions& options, const CommonOptions& common) {
  std::error_code code;
  const std::filesystem::path recipe = options.run / "recipe.toml";
  if (!std::filesystem::exists(recipe, code)) {
    Fail(ErrorKind::kIo, "{}: no run folder: it has no recipe.toml", options.run.string());
  }
  if (!options.force && std::filesystem::exists(options.out / "config.json", code)) {
    Fail(ErrorKind::kUsage, "{} holds a model already; pass --force to write over it", options.out.string());
  }
  const FolderLock lock(options.out);
  TrainConfig config;
  ApplyRecipeFile(config, recipe);
  const std::vector<int64_t> steps = ChooseSteps(options);
  const LoadedModel model = ModelOfRun(options.run, config);
  const auto backend = MakeBackend(common.device);
  const ParamStore mean = AverageCheckpoints(options.run / "checkpoints", steps, model.spec, config, backend.get());
  const DType dtype = options.dtype.empty() ? config.dtype : ParseDType(options.dtype);
  const bool finished = std::filesystem::exists(options.run / "config.json", code);
  HfSource source = finished ? SourceOf(options.run, {}) : SourceOf(config.model, config.tokenizer);
  source.note = fmt::format("The mean of the checkpoints of steps {} of a run of hawser; weights stored as {}.",
                            fmt::join(steps, ", "), Name(dtype));
  ReplaceHuggingFace(mean, model.tokenizer.get(), dtype, source, options.out);
  if (common.json) {
    PrintJson({{"out", options.out.string()}, {"steps", steps}, {"dtype", Name(dtype)}});
  } else {
    PrintText(fmt::format("{}: the mean of the checkpoints of steps {}, in {}\n", options.out.string(),
                          fmt::join(steps, ", "), Name(dtype)));
  }
  return 0;
}

}  // namespace

std::function<int()> SetupAverage(Command command, CommonOptions& common) {
  auto options = std::make_shared<AverageOptions>();
  command.Add("RUN", options->run, "Folder of a training run, finished or not").Required();
  command.Add("--last", options->last, "Average the last K checkpoints").Range(1, int64_t{1} << 20);
  command.Add("--best", options->best, "Average the K checkpoints with the lowest validation loss; 1: the best one")
      .Range(1, int64_t{1} << 20);
  command.Add("--steps", options->steps, "Average the checkpoints of these steps: 80,90,100; or take out one of them")
      .Delimiter(',');
  command.Add("--out", options->out, "Folder to write, in Hugging Face form").Required().WritesFolder();
  command.Add("--dtype", options->dtype, "Stored dtype: f32, bf16 or f16; default: that of the run")
      .OneOf({"f32", "bf16", "f16"});
  command.Add("--force", options->force, "Write over a model that is in --out already");
  return [options, &common] { return Average(*options, common); };
}

}  // namespace hawser
