// train/checkpoint.h - the whole state of a run on disk: checkpoints/step_000100/{state.safetensors, manifest.json}.
// A folder gets its name only when it is complete and synced, so one that has a name is whole unless the disk lost it;
// sizes and checksums tell: the manifest has those of the state and its own.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
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
  int64_t tokens = 0;     // trained on so far, without
  int64_t padding = 0;    // places that held none
  int64_t targets = 0;    // predictions that counted
  double loss = 0;        // of the last step
  double seconds = 0;     // spent in steps so far
  double density = 1;     // mean so far
  std::string recipe;     // ToToml
  uint64_t seed = 0;
  uint64_t data_hash = 0;  // of the tokens of every document
  uint64_t rope_hash = 0;  // of cos and sin
};

/// Saves under `folder` (made if absent), then deletes checkpoints of later steps and all but the last `keep` and that
/// of step `best`. Errors: kIo; what was there before is still there.
void SaveCheckpoint(const std::filesystem::path& folder, const CheckpointInfo& info, const TrainState& state,
                    int64_t keep, int64_t best = -1);

/// Deletes checkpoints of steps after `step`, and of the others all but the last `keep` and that of step `best`.
void DropCheckpoints(const std::filesystem::path& folder, int64_t step, int64_t keep, int64_t best = -1);

/// Removes what a killed process left of checkpoints that it was making or removing.
void RemoveUnfinishedCheckpoints(const std::filesystem::path& folder);

/// Reads the newest checkpoint that is whole, and that `check` lets pass, into `state`; others are reported with a log
/// line and passed over. `check` throws an Error that says what is wrong. Nothing if there is no checkpoint at all.
/// Errors: that of the newest one if none can be used; kFormat if the tensors are not those of this model;
/// kUnsupported for another format version.
std::optional<CheckpointInfo> LoadCheckpoint(const std::filesystem::path& folder, const TrainState& state,
                                             const std::function<void(const CheckpointInfo&)>& check = {});

/// As LoadCheckpoint for the one of a step, which must be whole; members of `state` that are null are not read.
/// Nothing if there is no such checkpoint.
std::optional<CheckpointInfo> LoadCheckpointOf(const std::filesystem::path& folder, int64_t step,
                                               const TrainState& state);

/// Writes the checksum of all other members of a manifest into it.
void SealManifest(nlohmann::json* manifest);

/// Steps of the checkpoints in `folder`, ascending.
std::vector<int64_t> CheckpointSteps(const std::filesystem::path& folder);

/// Of cos and sin at up to 4096 positions spread over the context, and of the numerics where they are not the default:
/// two runs with one hash rotate alike.
uint64_t RopeHash(const ModelSpec& spec);

}  // namespace hawser
