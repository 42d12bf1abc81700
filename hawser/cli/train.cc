#include <memory>

#include "hawser/base/error.h"
#include "hawser/cli/training.h"

namespace hawser {

std::function<int()> SetupTrain(Command command, CommonOptions& common) {
  struct Options : TrainingOptions {
    std::filesystem::path recipe;
  };
  auto options = std::make_shared<Options>();
  command.Add("RECIPE", options->recipe, "TOML file of recipe keys; see recipes/");
  command
      .AddCall(
          "--tokenizer",
          [options = options.get()](const std::string& v) { options->settings.push_back("tokenizer=" + v); },
          "Tokenizer file or folder")
      .Reads();
  AddTrainingOptions(command, *options);
  return [options, command, &common] {
    TrainConfig config;
    if (!ResumesByItsRecipe(command, *options, options->recipe, config)) {
      if (options->recipe.empty()) Fail(ErrorKind::kUsage, "what to train? Give a RECIPE.toml, or --resume RUN");
      ApplyRecipeFile(config, options->recipe);
    }
    ApplyTrainingOptions(command, common, *options, config);
    return RunTrainingCommand(common, *options, config);
  };
}

}  // namespace hawser
