// train/conflicts.h - settings of a recipe that contradict each other, have no effect, or lose something.
#pragma once

#include <string>
#include <vector>

#include "hawser/train/run.h"

namespace hawser {

/// Errors: kUsage for settings that cannot be meant together: a context below `model_context`, that of the model to
/// continue; a decay that begins before the warmup ends; adapters that count nothing; a file both trained and validated
/// on.
void RefuseConflicts(const TrainPlan& plan, int64_t model_context);

/// A line each for what may be meant but is probably not: values without effect, rounded ones, and what is lost.
/// `recipe`: as it was given, before the plan decided what it left open.
std::vector<std::string> RecipeNotes(const TrainConfig& recipe, const TrainPlan& plan);

}  // namespace hawser
