#include "hawser/train/average.h"

#include <algorithm>
#include <map>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/progress.h"
#include "hawser/model/places.h"
#include "hawser/train/checkpoint.h"
#include "hawser/train/lora.h"
#include "hawser/train/metrics.h"
#include "hawser/train/trained.h"

namespace hawser {
namespace {

constexpr int64_t kGrain = 1 << 14;

/// What is there, for an error about what is not.
std::string Known(const std::filesystem::path& checkpoints) {
  const std::vector<int64_t> steps = CheckpointSteps(checkpoints);
  return steps.empty() ? "there is none" : fmt::format("there are those of steps {}", fmt::join(steps, ", "));
}

}  // namespace

ParamStore AverageCheckpoints(const std::filesystem::path& checkpoints, std::vector<int64_t> steps,
                              const ModelSpec& spec, const TrainConfig& config, Backend* backend) {
  std::sort(steps.begin(), steps.end());
  steps.erase(std::unique(steps.begin(), steps.end()), steps.end());
  if (steps.empty()) Fail(ErrorKind::kUsage, "{}: no checkpoints to average", checkpoints.string());
  if (TrainsCandidates(config)) {
    Fail(ErrorKind::kUsage, "{}: these trained candidates (objective = \"{}\") and no model that could be averaged",
         checkpoints.string(), config.objective);
  }
  ParamStore weights(spec, DType::kF32), merged(spec, DType::kF32);
  ParamStore adapters(spec, LoraLayout(weights.layout(), LoraOf(config)), DType::kF32);
  Lora lora(backend, LoraOf(config), &adapters);
  const bool adapted = !adapters.layout().empty();
  const ParamStore& one = adapted ? merged : weights;
  const int64_t size = weights.size();
  std::vector<double> sum(static_cast<size_t>(size));
  const uint64_t rope_hash = RopeHash(spec);
  for (const int64_t step : steps) {
    TrainState state{.weights = &weights};
    if (adapted) state.adapters = &adapters;
    const auto info = LoadCheckpointOf(checkpoints, step, state);
    if (!info) {
      Fail(ErrorKind::kUsage, "{}: no checkpoint of step {}; {}", checkpoints.string(), step, Known(checkpoints));
    }
    if (info->rope_hash != rope_hash) {
      Fail(ErrorKind::kUsage,
           "{}: the checkpoint of step {} was trained with rotations of the hash {:016x}, those of rope \"{}\" over {} "
           "tokens have {:016x}",
           checkpoints.string(), step, info->rope_hash, PlacesText(spec), spec.context, rope_hash);
    }
    if (adapted) {
      backend->Copy(weights.arena(), merged.arena());
      lora.Merge(weights, &merged);
    }
    const auto* values = static_cast<const float*>(one.arena().data);
    ParallelChunks(size, kGrain, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) sum[static_cast<size_t>(i)] += values[i];
    });
  }
  auto* mean = static_cast<float*>(merged.arena().data);
  const auto count = static_cast<double>(steps.size());
  ParallelChunks(size, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) mean[i] = static_cast<float>(sum[static_cast<size_t>(i)] / count);
  });
  return merged;
}

std::vector<int64_t> LastCheckpoints(const std::filesystem::path& checkpoints, int64_t count) {
  std::vector<int64_t> steps = CheckpointSteps(checkpoints);
  if (static_cast<int64_t>(steps.size()) < count) {
    Fail(ErrorKind::kUsage, "{}: {} checkpoints wanted, {}; a run keeps as many as its recipe key \"keep\" says",
         checkpoints.string(), count, Known(checkpoints));
  }
  steps.erase(steps.begin(), steps.end() - static_cast<std::ptrdiff_t>(count));
  return steps;
}

std::vector<int64_t> RankByLoss(const std::vector<int64_t>& steps, const std::map<int64_t, double>& losses) {
  std::vector<int64_t> ranked;
  for (const int64_t step : steps) {
    if (losses.contains(step)) ranked.push_back(step);
  }
  std::sort(ranked.begin(), ranked.end(),
            [&](int64_t a, int64_t b) { return std::pair(losses.at(a), -a) < std::pair(losses.at(b), -b); });
  return ranked;
}

std::vector<int64_t> BestCheckpoints(const std::filesystem::path& run, int64_t count) {
  const std::filesystem::path checkpoints = run / "checkpoints";
  const std::map<int64_t, double> losses = ReadValidationLosses(run / "metrics.jsonl");
  std::vector<int64_t> ranked = RankByLoss(CheckpointSteps(checkpoints), losses);
  if (static_cast<int64_t>(ranked.size()) < count) {
    Fail(ErrorKind::kUsage,
         "{}: {} validated checkpoints wanted, found {}: {}; validate_every should divide checkpoint_every",
         run.string(), count, ranked.size(), Known(checkpoints));
  }
  const auto lowest =
      std::min_element(losses.begin(), losses.end(), [](const auto& a, const auto& b) { return a.second < b.second; });
  if (lowest->second < losses.at(ranked.front())) {
    LogLine(
        fmt::format("note: the lowest validation loss, {:.4f} after step {}, has no checkpoint; the best one that "
                    "has is {:.4f} after step {}",
                    lowest->second, lowest->first, losses.at(ranked.front()), ranked.front()));
  }
  ranked.resize(static_cast<size_t>(count));
  std::sort(ranked.begin(), ranked.end());
  return ranked;
}

}  // namespace hawser
