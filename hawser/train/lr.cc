#include "hawser/train/lr.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace hawser {

double LearningRate(const TrainConfig& config, int64_t step, int64_t steps) {
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

}  // namespace hawser
