// infer/squeeze.h - prefixes for Squeezed Attention (kv/prefix_index.h): made with a model, held against exact
// attention, and opened for streams of the same model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <vector>

#include "hawser/kv/prefix_index.h"
#include "hawser/kv/squeezed.h"
#include "hawser/model/decoder.h"
#include "hawser/model/weights.h"

namespace hawser {

/// Whose prefix it would be. `declared_length`: of the cache, 0 where places do not depend on it.
PrefixOwner PrefixOwnerOf(const Weights& weights, int64_t declared_length);

/// Reads `ids` into a cache under `form`, densely, and orders it. Two bars of progress. `queries`, if given, gets those
/// of the observation window. Errors: kUnsupported for models and forms that no squeezed prefix goes with
/// (KvCache::Follow; another softmax), kUsage for a text that is too short.
PrefixIndex IndexPrefix(Backend* backend, Decoder* decoder, const Weights& weights, std::span<const int32_t> ids,
                        const KvForm& form, int64_t declared_length, const IndexOptions& options,
                        std::vector<Matrix>* queries = nullptr);

/// An index of this model, which queries read by `rule`. Errors: as LoadPrefixIndex.
std::shared_ptr<SqueezedReader> OpenPrefix(Backend* backend, const Weights& weights, const std::filesystem::path& path,
                                           int64_t declared_length, const KeepRule& rule);

/// How good decisions of single queries are, in means over queries, layers and kv heads. The weight of a key is the
/// mean of its exact softmax weights over the query heads that share it.
struct KeepCheck {
  double share = 0;      // given
  double keys = 0;       // read, of the prefix
  double centroids = 0;  // read, of the keys of the prefix
  double recall = 0;     // of as many keys with the greatest weights, the part that is read
  double mass = 0;       // of the weights, the part that is read
  double best_mass = 0;  // the most that as many keys can have
};

/// Queries of the window (of IndexPrefix), `samples` of them, against the prefix before them, for each share.
std::vector<KeepCheck> CheckKeeping(Backend* backend, std::shared_ptr<const PrefixIndex> index, const AttnShape& shape,
                                    std::span<const Matrix> queries, std::span<const double> shares, int64_t samples);

/// heads, scale and softcap of a model.
AttnShape AttnShapeOf(const ModelSpec& spec);

}  // namespace hawser
