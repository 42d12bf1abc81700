// train/average.h - one model from several checkpoints of a run. AnchorAttention is evaluated over 5 checkpoints, one
// each 10 steps of the last 50, because single ones fluctuate (arXiv:2411.13476, section 4.1): `keep = 5`,
// `checkpoint_every = 10`. The paper takes the mean of their scores; averaged weights are one model instead.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <vector>

#include "hawser/model/params.h"
#include "hawser/ops/backend.h"
#include "hawser/train/config.h"

namespace hawser {

/// The mean of the weights of the checkpoints of `steps`, adapters merged first: added in f64 in ascending order of
/// steps, divided, rounded once to f32. Errors: kUsage (no step, one that has no checkpoint, rotations other than
/// those of `spec`), kFormat (a damaged checkpoint, another model's), each naming it.
ParamStore AverageCheckpoints(const std::filesystem::path& checkpoints, std::vector<int64_t> steps,
                              const ModelSpec& spec, const TrainConfig& config, Backend* backend);

/// The last `count` steps that have a checkpoint, ascending. Errors: kUsage where there are fewer.
std::vector<int64_t> LastCheckpoints(const std::filesystem::path& checkpoints, int64_t count);

/// `steps` that have a loss, from the lowest one on; of equal ones the later first.
std::vector<int64_t> RankByLoss(const std::vector<int64_t>& steps, const std::map<int64_t, double>& losses);

/// The `count` checkpoints of a run folder with the lowest validation loss in its metrics.jsonl, ascending by step;
/// of equal ones the later. A log line tells where a lower loss has no checkpoint any more. Errors: kUsage where fewer
/// of them were validated.
std::vector<int64_t> BestCheckpoints(const std::filesystem::path& run, int64_t count);

}  // namespace hawser
