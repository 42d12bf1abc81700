// train/lr.h - the learning rate of a step.
#pragma once

#include <cstdint>

#include "hawser/train/config.h"

namespace hawser {

/// The rate of step `step` (1-based) of `steps`. With W = warmup, r = min_lr_ratio and x = (step - W) / (steps - W),
/// so that the last step is at x = 1 (a step of a run made longer later has the `steps` of PlannedSteps):
///   step <= W  lr * step / W
///   constant   lr
///   cosine     lr * (r + (1 - r) (1 + cos(pi x)) / 2)             arXiv:1608.03983
///   linear     lr * (1 - (1 - r) x)
///   wsd        lr until step steps - D, D = decay * steps, then linear to lr * r    arXiv:2404.06395
double LearningRate(const TrainConfig& config, int64_t step, int64_t steps);

/// How many steps the run was to have when step `step` was made, by config.lengthened; else `steps`.
int64_t PlannedSteps(const TrainConfig& config, int64_t step, int64_t steps);

/// config->lengthened for a run of config->steps steps that goes on after step `step` of a run with the recipe
/// `before`: steps up to there keep their rates, those that follow have the rates of a run that always was so long.
void Lengthen(TrainConfig* config, const TrainConfig& before, int64_t step);

}  // namespace hawser
