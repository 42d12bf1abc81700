#include "hawser/infer/squeeze.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"
#include "hawser/base/limits.h"
#include "hawser/base/progress.h"
#include "hawser/base/q8.h"
#include "hawser/base/size.h"
#include "hawser/io/convert.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/kv_shape.h"
#include "hawser/model/places.h"

namespace hawser {
namespace {

constexpr int64_t kReadAtOnce = 512;  // tokens between looks of the bar

void CheckSqueezable(const ModelSpec& spec) {
  if (spec.softmax == SoftmaxSpec()) return;
  Fail(ErrorKind::kUnsupported, "a squeezed prefix cannot be read: it takes the standard softmax, the model has {}",
       ToString(spec.softmax));
}

uint64_t RotationsHash(const ModelSpec& spec, int64_t declared_length) {
  uint64_t hash = 0;
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    if (!Rotates(spec, layer)) {
      hash = hash * 31 + 1;
      continue;
    }
    const RopeSpec& rope = RopeOf(spec, layer);
    const RopeFrequencies f = ComputeFrequencies(rope, declared_length > 0 ? declared_length : spec.context);
    const std::string text = ToString(rope.numerics);
    hash = Hash64(std::as_bytes(std::span(text)), hash ^ std::bit_cast<uint64_t>(f.multiplier));
    hash = Hash64(std::as_bytes(std::span(f.inv_freq)), hash + static_cast<uint64_t>(rope.pairing));
  }
  return hash;
}

/// One head of stored rows as F32 [n, D].
Matrix ReadRows(const PrefixIndex& index, ConstMat rows, int64_t first, int64_t count) {
  Matrix f32(count, index.head_dim);
  for (int64_t r = 0; r < count; ++r) {
    const auto* from = static_cast<const std::byte*>(rows.Rows(first + r, 1).data);
    index.dtype == DType::kQ8_0 ? DequantizeQ8(from, index.head_dim, f32.Row<float>(r))
                                : ConvertToF32(index.dtype, from, index.head_dim, f32.Row<float>(r));
  }
  return f32;
}

/// Mean over the rows of their softmax: logits [rows, K].
std::vector<double> MeanWeights(ConstMat logits) {
  std::vector<double> weights(static_cast<size_t>(logits.cols));
  for (int64_t i = 0; i < logits.rows; ++i) {
    const float* row = logits.Row<float>(i);
    const float max = *std::max_element(row, row + logits.cols);
    double sum = 0;
    for (int64_t j = 0; j < logits.cols; ++j) sum += std::exp(static_cast<double>(row[j]) - max);
    const double scale = 1 / (sum * static_cast<double>(logits.rows));
    for (int64_t j = 0; j < logits.cols; ++j) {
      weights[static_cast<size_t>(j)] += std::exp(static_cast<double>(row[j]) - max) * scale;
    }
  }
  return weights;
}

/// Exact weights of the keys of one head, and those of them that are read.
void AddCheck(const std::vector<double>& weights, std::span<const KvRange> ranges, int32_t base, KeepCheck* check) {
  std::vector<uint8_t> read(weights.size());
  double mass = 0;
  size_t count = 0;
  for (const KvRange& range : ranges) {
    for (int32_t row = range.begin - base; row < range.end - base && row < static_cast<int32_t>(read.size()); ++row) {
      read[static_cast<size_t>(row)] = 1;
      mass += weights[static_cast<size_t>(row)];
      ++count;
    }
  }
  std::vector<int32_t> order(weights.size());
  std::iota(order.begin(), order.end(), 0);
  const auto middle = order.begin() + static_cast<ptrdiff_t>(count);
  const auto greater = [&](int32_t a, int32_t b) {
    const double x = weights[static_cast<size_t>(a)], y = weights[static_cast<size_t>(b)];
    return x > y || (x == y && a < b);
  };
  if (middle != order.end()) std::nth_element(order.begin(), middle, order.end(), greater);
  double best = 0, hits = 0;
  for (size_t i = 0; i < count; ++i) {
    best += weights[static_cast<size_t>(order[i])];
    hits += read[static_cast<size_t>(order[i])];
  }
  check->keys += static_cast<double>(count);
  check->recall += count > 0 ? hits / static_cast<double>(count) : 1;
  check->mass += mass;
  check->best_mass += best;
}

/// Reads `ids` into the cache; the queries [window, H*D] F32 of the last tokens in each layer.
std::vector<Matrix> ReadPrefix(Backend* backend, Decoder* decoder, std::span<const int32_t> ids, int64_t window,
                               KvCache* cache) {
  const ModelSpec& spec = decoder->spec();
  const int64_t tokens = static_cast<int64_t>(ids.size()), body = tokens - window;
  std::vector<Matrix> queries;
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    queries.push_back(backend->NewMatrix(window, int64_t{spec.heads} * spec.head_dim, DType::kF32));
  }
  ProgressBar bar("read", tokens);
  for (int64_t at = 0; at < body; at += kReadAtOnce) {
    const int64_t n = std::min(kReadAtOnce, body - at);
    decoder->Extend(ids.subspan(static_cast<size_t>(at), static_cast<size_t>(n)), cache, {});
    bar.Update(at + n);
  }
  cache->set_watch([&](int32_t layer, ConstMat rows) {
    backend->Copy(rows, queries[static_cast<size_t>(layer)].view().Rows(cache->seen() - body, rows.rows));
  });
  decoder->Extend(ids.subspan(static_cast<size_t>(body)), cache, {});
  cache->set_watch({});
  return queries;
}

}  // namespace

AttnShape AttnShapeOf(const ModelSpec& spec) {
  return {.heads = spec.heads,
          .kv_heads = spec.kv_heads,
          .head_dim = spec.head_dim,
          .scale = AttentionScale(spec),
          .softcap = spec.attn_cap};
}

PrefixOwner PrefixOwnerOf(const Weights& weights, int64_t declared_length) {
  if (!DependsOnLength(weights.spec().rope)) declared_length = 0;
  return {.model = ModelFingerprint(weights),
          .dtype = std::string(Name(weights.dtype())),
          .rope = PlacesText(weights.spec()),
          .rotations = RotationsHash(weights.spec(), declared_length),
          .declared_length = declared_length};
}

PrefixIndex IndexPrefix(Backend* backend, Decoder* decoder, const Weights& weights, std::span<const int32_t> ids,
                        const KvForm& form, int64_t declared_length, const IndexOptions& options,
                        std::vector<Matrix>* queries) {
  const ModelSpec& spec = decoder->spec();
  const auto tokens = static_cast<int64_t>(ids.size());
  CheckPrefixLength(tokens, options);
  CheckSqueezable(spec);
  KvCache cache = NewKvCache(backend, spec, form, {}, weights.dtype(), declared_length);
  cache.CheckFollow();
  const int64_t bytes = 2 * spec.layers * tokens * cache.row_bytes();
  CheckFits(fmt::format("{} and their index", Counted(tokens, "token")), bytes);

  std::vector<Matrix> own;
  std::vector<Matrix>& window = queries != nullptr ? *queries : own;
  window = ReadPrefix(backend, decoder, ids, options.window, &cache);
  ProgressBar bar("index", int64_t{spec.layers} * spec.kv_heads);
  return BuildPrefixIndex(backend, cache, ids, window, AttnShapeOf(spec), PrefixOwnerOf(weights, declared_length),
                          options, [&](int64_t done) { bar.Update(done); });
}

std::shared_ptr<SqueezedReader> OpenPrefix(Backend* backend, const Weights& weights, const std::filesystem::path& path,
                                           int64_t declared_length, const KeepRule& rule) {
  CheckSqueezable(weights.spec());
  const auto index =
      std::make_shared<const PrefixIndex>(LoadPrefixIndex(path, PrefixOwnerOf(weights, declared_length)));
  return WithFrame(path.string(), [&] {
    const ModelSpec& spec = weights.spec();
    const bool fits = index->kv_heads == spec.kv_heads && index->head_dim == spec.head_dim &&
                      static_cast<int32_t>(index->layers.size()) == spec.layers &&
                      std::ranges::all_of(index->ids, [&](int32_t id) { return id >= 0 && id < spec.vocab; });
    if (!fits) Fail(ErrorKind::kFormat, "an index of other sizes than those of its model");
    return std::make_shared<SqueezedReader>(backend, index, rule);
  });
}

std::vector<KeepCheck> CheckKeeping(Backend* backend, std::shared_ptr<const PrefixIndex> index, const AttnShape& shape,
                                    std::span<const Matrix> queries, std::span<const double> shares, int64_t samples) {
  const int64_t window = index->window, group = shape.heads / shape.kv_heads, tokens = index->tokens();
  samples = std::min(samples, window);
  std::vector<KeepCheck> checks;
  std::vector<SqueezedReader> readers;
  for (const double share : shares) {
    checks.push_back({.share = share});
    readers.emplace_back(backend, index, KeepRule{.value = share});
  }
  ProgressBar bar("check", static_cast<int64_t>(index->layers.size()));
  for (size_t layer = 0; layer < index->layers.size(); ++layer) {
    Matrix chosen(samples, queries[layer].cols());
    std::vector<int64_t> places;  // keys that each query may see
    for (int64_t i = 0; i < samples; ++i) {
      const int64_t row = (2 * i + 1) * window / (2 * samples);
      std::memcpy(chosen.Row<float>(i), queries[layer].Row<float>(row),
                  static_cast<size_t>(chosen.cols()) * sizeof(float));
      places.push_back(tokens - window + row + 1);
    }
    for (SqueezedReader& reader : readers) reader.Choose(static_cast<int32_t>(layer), shape, chosen, 0, false);
    for (int32_t g = 0; g < shape.kv_heads; ++g) {
      const Matrix keys = ReadRows(*index, index->layers[layer].keys, g * tokens, tokens);
      for (int64_t i = 0; i < samples; ++i) {
        Matrix logits(group, places[static_cast<size_t>(i)]);
        const ConstMat own{chosen.Row<float>(i) + g * group * shape.head_dim, DType::kF32, group, shape.head_dim,
                           shape.head_dim};
        CentroidLogits(backend, shape, own, keys.view().Rows(0, logits.cols()), logits);
        const std::vector<double> weights = MeanWeights(logits);
        for (size_t c = 0; c < checks.size(); ++c) {
          const KvParts& parts = *readers[c].parts(i);
          AddCheck(weights,
                   parts.ranges.subspan(static_cast<size_t>(parts.first[static_cast<size_t>(g)]),
                                        static_cast<size_t>(parts.first[static_cast<size_t>(g) + 1] -
                                                            parts.first[static_cast<size_t>(g)])),
                   static_cast<int32_t>(g * tokens), &checks[c]);
        }
      }
    }
    bar.Update(static_cast<int64_t>(layer) + 1);
  }
  const double count = static_cast<double>(index->layers.size()) * shape.kv_heads * static_cast<double>(samples);
  for (size_t c = 0; c < checks.size(); ++c) {
    KeepCheck& check = checks[c];
    check.keys /= count * static_cast<double>(tokens);
    check.centroids = readers[c].usage(false).centroids_per_query() / static_cast<double>(tokens);
    check.recall /= count;
    check.mass /= count;
    check.best_mass /= count;
  }
  return checks;
}

}  // namespace hawser
