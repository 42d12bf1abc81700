// train/run_folder.h - the folder of a run (run.h): the names in it, and whether a run may go on there.
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "hawser/train/config.h"

namespace hawser {

inline constexpr const char* kRunRecipe = "recipe.toml";
inline constexpr const char* kRunMark = "hawser.json";
inline constexpr const char* kRunMetrics = "metrics.jsonl";
inline constexpr const char* kRunCheckpoints = "checkpoints";

/// The recipe of a run in progress. Errors: kUsage naming the keys whose values `config` does not share; it may have
/// more steps.
TrainConfig CheckSameRecipe(TrainConfig config, std::string_view recipe, const std::string& origin);

/// Errors: kUsage, `out` being no folder for a run.
[[noreturn]] void FailForeign(const std::filesystem::path& out);

/// True if `out` holds a run to go on with. Errors: kUsage for a folder of something else, one with a run that is not
/// to be resumed, and those of CheckSameRecipe.
bool EnterRunFolder(const TrainConfig& config, const std::filesystem::path& out, bool resume);

}  // namespace hawser
