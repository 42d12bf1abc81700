// kv/prefix_index.h - the keys and values of a text that many prompts share, ordered so that a query may read a part of
// them (Squeezed Attention, arXiv:2411.09688). Of each layer and kv head g the S keys are rows [g S, (g + 1) S):
//   sinks     the first tokens of the text             always read
//   clusters  the others, cluster after cluster; inside one in the order of the text
//   window    the last tokens, the observation window  always read
// Keys are rotated to their places in the text. A centroid is the mean of a cluster's keys as they are, so that n_j
// exp(q c_j) never exceeds the sum of exp(q k) over its keys. With two levels neighbouring clusters form groups, whose
// centroids are the means of their keys too.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hawser/io/tensor_source.h"
#include "hawser/kv/cache.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// Whose prefix it is: an index is read by the same model alone, under the same places.
struct PrefixOwner {
  uint64_t model = 0;           // fingerprint
  std::string dtype;            // of activations
  std::string rope;             // text form
  uint64_t rotations = 0;       // hash of the frequencies
  int64_t declared_length = 0;  // that places depend on; 0: none

  bool operator==(const PrefixOwner&) const = default;
};

struct PrefixIndex {
  static constexpr int32_t kQuantiles = 1001;  // the scores at 0, 0.001, ..., 1 of all keys

  struct Level {
    ConstMat centroids;                 // [K, D] F32, of all heads
    std::span<const KvRange> clusters;  // [K] rows of keys; of the groups of two levels: clusters
    std::span<const int32_t> first;     // [G + 1] of each head's clusters
  };
  struct Layer {
    ConstMat keys, values;  // [G S, D], or Q8_0 [G S, Q8Bytes(D)]
    Level fine, coarse;     // coarse: empty with one level
  };

  PrefixOwner owner;
  int32_t kv_heads = 0, head_dim = 0;
  DType dtype = DType::kF32;  // of keys and values: F32, BF16 or Q8_0
  int32_t sinks = 0, window = 0;
  int32_t levels = 2;
  std::vector<int32_t> ids;  // [S]
  std::vector<Layer> layers;
  // log S_j (keep_rule.h) of the observation window's queries, ascending: the least score that a share of all keys of
  // all layers and heads does not exceed. Of the clusters, then of the groups.
  std::array<std::vector<float>, 2> quantiles;
  std::shared_ptr<const void> memory;  // what the views point into

  int64_t tokens() const { return static_cast<int64_t>(ids.size()); }
  /// The threshold above which a share of 1 - quantile of the keys was at most.
  float Threshold(int32_t level, double quantile) const;
  int64_t bytes() const;        // of keys and values
  int64_t index_bytes() const;  // of centroids and ranges
};

struct IndexOptions {
  double clusters = 0.05;  // of the keys between sinks and window
  double groups = 0.01;    // likewise, with two levels
  int32_t levels = 2;
  int32_t sinks = 4, window = 100;
  int64_t block = 8192;  // keys that are clustered together; 0: all
  int32_t iterations = 10;
};

/// Of a cache that has seen `ids` and keeps all of it, and the queries [window, H*D] F32 of the last tokens in each
/// layer, rotated. shape: heads, scale, softcap. `done` is told how many of layers * kv heads are done. The same bits
/// for any number of threads. Errors: kUsage for a text that is not longer than sinks and window.
PrefixIndex BuildPrefixIndex(Backend* backend, const KvCache& cache, std::span<const int32_t> ids,
                             std::span<const Matrix> queries, const AttnShape& shape, const PrefixOwner& owner,
                             const IndexOptions& options, const std::function<void(int64_t done)>& done = {});
/// What BuildPrefixIndex refuses, before any work.
void CheckPrefixLength(int64_t tokens, const IndexOptions& options);

/// A safetensors file, written atomically.
void SavePrefixIndex(const PrefixIndex& index, const std::filesystem::path& path);
/// Maps the file, and reads it once for its checksum; keys and values stay in the map. Nothing is allocated by a size
/// that the file claims. Errors: kFormat for anything but such a file, kUnsupported for another version of it, kUsage
/// naming what differs from `owner`.
PrefixIndex LoadPrefixIndex(const std::filesystem::path& path, const PrefixOwner& owner);
/// "1024 tokens (0123456789abcdef)": tells prefixes of a model apart, and two that were ordered by other options.
std::string PrefixName(const PrefixIndex& index);
/// Of all tensors of a file, in the order of their names: Hash64 of the Hash64 of each.
uint64_t PrefixChecksum(const TensorSource& file);

/// Keys of a group of clusters.
int32_t KeysOf(std::span<const KvRange> clusters, const KvRange& group);

/// logits [rows, K] F32 of queries [rows, D] F32 and centroids [K, D] F32: scale <q, c>, capped. The bits of a row do
/// not depend on the others.
void CentroidLogits(Backend* backend, const AttnShape& shape, ConstMat queries, ConstMat centroids, Mat logits);

}  // namespace hawser
