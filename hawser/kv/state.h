// kv/state.h - a cache in a file, so that a stream goes on in another process as if it had never stopped.
// Format: safetensors. Metadata `hawser_kv_state` (version 2), `state` (JSON: policy, sizes, counters, checksums) and
// `state_hash` (of that text; earlier files have none); tensors `group.G.index` I64, `group.G.token` I32,
// `group.G.flags` U8 (1 separator, 2 settled), each [S], for each group of layers that share a policy, and where heads
// chose keys `group.G.places` I64 [heads, chosen]; `layer.L.keys` and `layer.L.values` [S, G*D]. Keys are un-rotated
// where they may turn (at ranks that move them, or with frequencies that follow the stream), and rotated to their place
// for good elsewhere. Version 1, in which keys at ranks are un-rotated all, is read too.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "hawser/kv/cache.h"

namespace hawser {

/// What is needed to make the cache that a state fits. Errors: as LoadKvState.
struct KvStateInfo {
  std::string policy;
  int64_t seen = 0;
  int64_t declared_length = 0;
  std::string prefix;    // PrefixName of what it goes on behind; empty: nothing
  nlohmann::json notes;  // of SaveKvState
};
KvStateInfo ReadKvStateInfo(const std::filesystem::path& path);

/// Writes atomically. `model`: tells models apart (model/fingerprint.h). `notes` is kept with the state for the caller.
/// Errors: kIo naming the path.
void SaveKvState(const KvCache& cache, uint64_t model, const std::filesystem::path& path, const nlohmann::json& notes);

/// Fills `cache`, which was made with the same policy, model, separators, dtype and rotations and has seen nothing but
/// the prefix that the saved one goes on behind, if any (KvCache::Follow), and returns the notes. The cache is not
/// changed where an Error is thrown: kUsage naming what differs, kIo, kFormat for a file that is no state or is
/// damaged, kUnsupported for another version.
nlohmann::json LoadKvState(const std::filesystem::path& path, uint64_t model, KvCache* cache);

}  // namespace hawser
