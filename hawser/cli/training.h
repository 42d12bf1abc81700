// cli/training.h - what `train` and `extend` share: options that set recipe keys, and the run itself.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "hawser/cli/command.h"
#include "hawser/train/config.h"

namespace hawser {

struct TrainingOptions {
  std::filesystem::path out;
  std::vector<std::string> data;
  std::vector<std::string> settings;  // key=value, in the order of the options
  std::vector<std::string> sets;      // the same of --set, which win
  std::string resume_run;             // the argument of --resume, if any
  bool resume = false;
  bool dry_run = false;
};

/// --out, --data, --holdout, --context, --attention, --rope, --steps, --tokens, --lr, --batch-tokens,
/// --lora, --adapter, --dtype, --set, --resume, --dry-run. `options` outlives the command.
void AddTrainingOptions(Command command, TrainingOptions& options);

/// Takes --seed where it is given. Errors: kUsage beyond what a recipe holds.
void ApplySeed(Command command, const CommonOptions& common, TrainConfig& config);

/// Sorts out --resume. Alone with a run folder (`--resume RUN`) it names the run: then `config` becomes the run's own
/// recipe, --out that folder, and the result is true. Beside --out it takes no argument: a word behind it is the
/// command's `positional`. Errors: kUsage for two runs, or a folder that holds none.
bool ResumesByItsRecipe(Command command, TrainingOptions& options, std::filesystem::path& positional,
                        TrainConfig& config);

/// Applies the options to `config`, --set last.
void ApplyTrainingOptions(Command command, const CommonOptions& common, const TrainingOptions& options,
                          TrainConfig& config);

/// Trains, or prints the plan, and prints the summary. Returns the exit code (130 if interrupted).
int RunTrainingCommand(const CommonOptions& common, const TrainingOptions& options, const TrainConfig& config);

}  // namespace hawser
