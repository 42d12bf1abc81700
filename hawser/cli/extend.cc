#include <memory>

#include "hawser/base/error.h"
#include "hawser/cli/training.h"
#include "hawser/train/trained.h"

namespace hawser {
namespace {

/// What continued training wants where neither recipe nor option says otherwise.
TrainConfig ExtendDefaults() {
  TrainConfig config;
  config.attention.clear();  // as the objective wants
  config.batch_tokens = 8192;
  config.warmup = 10;
  config.schedule = Schedule::kCosine;
  config.dtype = DType::kBF16;
  return config;
}

constexpr int64_t kDefaultSteps = 200;

}  // namespace

std::function<int()> SetupExtend(Command command, CommonOptions& common) {
  struct Options : TrainingOptions {
    ModelOptions model;
    std::filesystem::path recipe;
  };
  auto options = std::make_shared<Options>();
  AddModelOptions(command, options->model, /*required=*/false);
  AddTrainingOptions(command, *options);
  command.Add("--recipe", options->recipe, "TOML file of recipe keys; options win over it");
  return [options, command, &common] {
    TrainConfig config = ExtendDefaults();
    const bool by_its_recipe = ResumesByItsRecipe(command, *options, options->model.model, config);
    if (!options->recipe.empty()) ApplyRecipeFile(config, options->recipe);
    if (!by_its_recipe) {
      if (options->model.model.empty()) Fail(ErrorKind::kUsage, "which model? Give MODEL, or --resume RUN");
      config.model = options->model.model.string();
    }
    if (!options->model.tokenizer.empty()) config.tokenizer = options->model.tokenizer.string();
    ApplyTrainingOptions(command, common, *options, config);
    const bool candidates = TrainsCandidates(config);  // beside a model that stays as it is
    if (config.attention.empty()) config.attention = candidates ? "full" : "anchor";  // arXiv:2411.13476
    if (config.context == 0 && !candidates)
      Fail(ErrorKind::kUsage, "how long is the new context? Give --context TOKENS");
    if (config.steps == 0 && config.tokens == 0) config.steps = kDefaultSteps;
    return RunTrainingCommand(common, *options, config);
  };
}

}  // namespace hawser
