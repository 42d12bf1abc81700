#include "hawser/train/run_folder.h"

#include <fmt/format.h>

#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/lock.h"
#include "hawser/train/run.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

}  // namespace

TrainConfig CheckSameRecipe(TrainConfig config, std::string_view recipe, const std::string& origin) {
  TrainConfig before;
  ApplyRecipe(before, recipe, origin);
  if (before.steps > config.steps) {
    Fail(ErrorKind::kUsage, "cannot resume: {} steps, and {} has {}: a run can be made longer, not shorter",
         config.steps, origin, before.steps);
  }
  config.steps = before.steps;
  config.lengthened = before.lengthened;
  if (const std::vector<std::string> keys = KeysThatMatter(before, config); !keys.empty()) {
    Fail(ErrorKind::kUsage, "cannot resume: recipe key \"{}\" is not as in {}; use another --out or the same recipe",
         fmt::join(keys, "\", \""), origin);
  }
  return before;
}

void FailForeign(const fs::path& out) {
  Fail(ErrorKind::kUsage, "{}: exists and is no run folder; give --out a new one", out.string());
}

bool EnterRunFolder(const TrainConfig& config, const fs::path& out, bool resume) {
  std::error_code code;
  const fs::path recipe = out / kRunRecipe;
  const bool is_run = fs::exists(recipe, code);
  if (!is_run && !IsUnused(out)) FailForeign(out);
  if (is_run && !resume) {
    Fail(ErrorKind::kUsage, "{}: holds a run already; go on with --resume, or give --out another folder", out.string());
  }
  if (is_run) CheckSameRecipe(config, ReadFile(recipe), recipe.string());
  return is_run;
}

TrainConfig RecipeOfRun(const fs::path& out) {
  const fs::path recipe = out / kRunRecipe;
  std::error_code code;
  if (!fs::exists(recipe, code)) {
    Fail(ErrorKind::kUsage, "{}: holds no run to go on with: there is no {}", out.string(), kRunRecipe);
  }
  TrainConfig config;
  ApplyRecipeFile(config, recipe);
  return config;
}

}  // namespace hawser
