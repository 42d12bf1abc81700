#include "hawser/train/lr.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <utility>
#include <vector>

namespace hawser {

double LearningRate(const TrainConfig& config, int64_t step, int64_t steps) {
  steps = PlannedSteps(config, step, steps);
  const auto share = [](double part, double whole) { return whole > 0 ? std::clamp(part / whole, 0.0, 1.0) : 1.0; };
  const auto down = [&](double x) { return config.lr * (1.0 - (1.0 - config.min_lr_ratio) * x); };
  if (step <= config.warmup) return config.lr * static_cast<double>(step) / static_cast<double>(config.warmup);
  const double x = share(static_cast<double>(step - config.warmup), static_cast<double>(steps - config.warmup));
  switch (config.schedule) {
    case Schedule::kConstant:
      return config.lr;
    case Schedule::kCosine:
      return down((1.0 - std::cos(std::numbers::pi * x)) / 2.0);
    case Schedule::kLinear:
      return down(x);
    case Schedule::kWsd: {
      const double length = config.decay * static_cast<double>(steps);
      const double into = static_cast<double>(step) - (static_cast<double>(steps) - length);
      return into <= 0 ? config.lr : down(share(into, length));
    }
  }
  return config.lr;
}

int64_t PlannedSteps(const TrainConfig& config, int64_t step, int64_t steps) {
  const std::vector<int64_t>& pairs = config.lengthened;
  for (size_t i = 0; i + 1 < pairs.size(); i += 2) {
    if (step <= pairs[i]) return pairs[i + 1];
  }
  return steps;
}

void Lengthen(TrainConfig* config, const TrainConfig& before, int64_t step) {
  if (before.steps == config->steps) {
    config->lengthened = before.lengthened;
    return;
  }
  std::vector<int64_t> pairs;
  for (size_t i = 0; i + 1 < before.lengthened.size() && before.lengthened[i] < step; i += 2) {
    pairs.insert(pairs.end(), {before.lengthened[i], before.lengthened[i + 1]});
  }
  pairs.insert(pairs.end(), {step, PlannedSteps(before, step, before.steps)});
  config->lengthened = std::move(pairs);
}

}  // namespace hawser
