// train/checkpoint.h - the whole state of a run on disk: checkpoints/step_000100/{state.safetensors, manifest.json}.
// A folder gets its name only when it is complete and synced, so one that has a name is whole unless the disk lost it;
// sizes and checksums tell.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hawser/base/hash.h"
#include "hawser/model/spec.h"
#include "hawser/train/optimizer.h"

namespace hawser {

/// manifest.json, but for the sizes and checksums.
struct CheckpointInfo {
  int64_t step = 0;
  int64_t sequences = 0;  // taken from the loader: its whole state
  int64_t tokens = 0;     // trained on so far
  double loss = 0;        // of the last step
  double seconds = 0;     // spent in steps so far
  double density = 1;     // mean so far
  std::string recipe;     // ToToml
  uint64_t seed = 0;
  uint64_t data_hash = 0;  // of the tokens of every document
  uint64_t rope_hash = 0;  // of cos and sin
};

/// Saves under `folder` (made if absent), then deletes checkpoints of later steps and all but the last `keep`.
/// Errors: kIo; what was there before is still there.
void SaveCheckpoint(const std::filesystem::path& folder, const CheckpointInfo& info, const TrainState& state,
                    int64_t keep);

/// Reads the newest checkpoint that is whole into `state`; damaged ones are reported with a log line and passed over.
/// Nothing if there is none at all. Errors: kFormat if there are checkpoints and all are damaged, or the tensors are
/// not those of this model; kUnsupported for a later format version.
std::optional<CheckpointInfo> LoadCheckpoint(const std::filesystem::path& folder, const TrainState& state);

/// As LoadCheckpoint for the one of a step, which must be whole; members of `state` that are null are not read.
/// Nothing if there is no such checkpoint.
std::optional<CheckpointInfo> LoadCheckpointOf(const std::filesystem::path& folder, int64_t step,
                                               const TrainState& state);

/// Steps of the checkpoints in `folder`, ascending.
std::vector<int64_t> CheckpointSteps(const std::filesystem::path& folder);

/// Of cos and sin at up to 4096 positions spread over the context, and of the numerics where they are not the default:
/// two runs with one hash rotate alike.
uint64_t RopeHash(const ModelSpec& spec);

}  // namespace hawser
