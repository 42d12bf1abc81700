#include "hawser/kv/prefix_index.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/q8.h"
#include "hawser/io/convert.h"
#include "hawser/kv/cluster.h"
#include "hawser/kv/keep_rule.h"

namespace hawser {
namespace {

constexpr int64_t kQueriesAtOnce = 8;

/// What an index in memory owns.
struct IndexMemory {
  struct OfLevel {
    std::vector<float> centroids;
    std::vector<KvRange> clusters;
    std::vector<int32_t> first = {0};
  };
  struct OfLayer {
    Matrix keys, values;
    std::array<OfLevel, 2> levels;
  };
  std::vector<OfLayer> layers;
};

PrefixIndex::Level LevelOf(const IndexMemory::OfLevel& level, int64_t head_dim) {
  const auto clusters = static_cast<int64_t>(level.clusters.size());
  return {.centroids = {level.centroids.data(), DType::kF32, clusters, head_dim, head_dim},
          .clusters = level.clusters,
          .first = level.first};
}

int64_t BytesOfHead(DType dtype, int64_t head_dim) {
  return dtype == DType::kQ8_0 ? Q8Bytes(head_dim) : head_dim * static_cast<int64_t>(SizeOf(dtype));
}

/// Bytes of one head of row `row`.
const std::byte* HeadOf(const KvRows& rows, int64_t row, int64_t head, int64_t bytes) {
  return static_cast<const std::byte*>(rows.Run(row, 1).data) + head * bytes;
}

void ReadHead(DType dtype, const std::byte* from, int64_t head_dim, float* to) {
  dtype == DType::kQ8_0 ? DequantizeQ8(from, head_dim, to) : ConvertToF32(dtype, from, head_dim, to);
}

/// The means of `keys` [n, D] over lists of rows, appended.
template <class RowsOf>
void AddMeans(ConstMat keys, int64_t count, const RowsOf& rows_of, std::vector<float>* centroids) {
  std::vector<double> sum(static_cast<size_t>(keys.cols));
  for (int64_t c = 0; c < count; ++c) {
    std::ranges::fill(sum, 0.0);
    const std::span<const int32_t> rows = rows_of(c);
    for (const int32_t row : rows) {
      for (int64_t d = 0; d < keys.cols; ++d) sum[static_cast<size_t>(d)] += keys.Row<float>(row)[d];
    }
    for (const double s : sum) centroids->push_back(static_cast<float>(s / static_cast<double>(rows.size())));
  }
}

/// Scores and the keys that have them.
using Weighted = std::vector<std::pair<float, int32_t>>;

std::vector<float> QuantilesOf(Weighted scores) {
  std::ranges::sort(scores);
  int64_t total = 0, passed = 0;
  for (const auto& [score, count] : scores) total += count;
  std::vector<float> quantiles;
  size_t at = 0;
  for (int64_t i = 0; i < PrefixIndex::kQuantiles; ++i) {
    const int64_t wanted = (total * i + PrefixIndex::kQuantiles - 2) / (PrefixIndex::kQuantiles - 1);
    while (at < scores.size() && passed + scores[at].second < wanted) passed += scores[at++].second;
    quantiles.push_back(scores[std::min(at, scores.size() - 1)].first);
  }
  return quantiles;
}

class IndexBuilder {
 public:
  IndexBuilder(Backend* backend, const KvCache& cache, int64_t tokens, const AttnShape& shape,
               const IndexOptions& options)
      : backend_(backend),
        cache_(cache),
        shape_(shape),
        options_(options),
        tokens_(tokens),
        bytes_(BytesOfHead(cache.stored(), shape.head_dim)) {}

  IndexMemory::OfLayer NewLayer() const {
    const int64_t rows = shape_.kv_heads * tokens_;
    return {.keys = backend_->NewMatrix(rows, bytes_, DType::kU8),
            .values = backend_->NewMatrix(rows, bytes_, DType::kU8)};
  }

  /// queries [window, H*D].
  void AddHead(int32_t layer, int32_t head, ConstMat queries, IndexMemory::OfLayer* to) {
    const int64_t body = tokens_ - options_.sinks - options_.window;
    const KvRows keys = cache_.Keys(layer), values = cache_.Values(layer);
    Matrix f32(body, shape_.head_dim);
    for (int64_t r = 0; r < body; ++r) {
      ReadHead(cache_.stored(), HeadOf(keys, options_.sinks + r, head, bytes_), shape_.head_dim, f32.Row<float>(r));
    }
    const auto part = [&](double share, int64_t most) {
      return std::clamp<int64_t>(static_cast<int64_t>(share * static_cast<double>(body)), 1, most);
    };
    const KeyClusters found = ClusterKeys(backend_, f32, Options(part(options_.clusters, body)));
    std::vector<int32_t> order;  // of clusters
    std::vector<int32_t> groups = {0};
    if (options_.levels == 2) {
      std::vector<float> means;
      AddMeans(
          f32, found.size(), [&](int64_t c) { return found.Rows(c); }, &means);
      const KeyClusters coarse =
          ClusterKeys(backend_, ConstMat{means.data(), DType::kF32, found.size(), shape_.head_dim, shape_.head_dim},
                      Options(part(options_.groups, found.size())));
      order = coarse.order;
      groups = coarse.begin;
    } else {
      for (int64_t c = 0; c < found.size(); ++c) order.push_back(static_cast<int32_t>(c));
    }

    std::vector<int32_t> rows;  // of the text, in their new order
    for (int32_t r = 0; r < options_.sinks; ++r) rows.push_back(r);
    IndexMemory::OfLevel& fine = to->levels[0];
    const auto base = static_cast<int32_t>(head * tokens_);
    for (const int32_t c : order) {
      const auto begin = base + static_cast<int32_t>(rows.size());
      for (const int32_t row : found.Rows(c)) rows.push_back(options_.sinks + row);
      fine.clusters.push_back({begin, base + static_cast<int32_t>(rows.size())});
    }
    AddMeans(
        f32, found.size(), [&](int64_t c) { return found.Rows(order[static_cast<size_t>(c)]); }, &fine.centroids);
    const int32_t first = fine.first.back();
    fine.first.push_back(first + static_cast<int32_t>(order.size()));
    if (options_.levels == 2) {
      IndexMemory::OfLevel& coarse = to->levels[1];
      std::vector<int32_t> members;
      const auto keys_of = [&](int64_t g) {
        members.clear();
        for (int32_t c = groups[static_cast<size_t>(g)]; c < groups[static_cast<size_t>(g) + 1]; ++c) {
          const auto of = found.Rows(order[static_cast<size_t>(c)]);
          members.insert(members.end(), of.begin(), of.end());
        }
        return std::span<const int32_t>(members);
      };
      const auto count = static_cast<int64_t>(groups.size()) - 1;
      AddMeans(f32, count, keys_of, &coarse.centroids);
      for (int64_t g = 0; g < count; ++g) {
        coarse.clusters.push_back({first + groups[static_cast<size_t>(g)], first + groups[static_cast<size_t>(g) + 1]});
      }
      coarse.first.push_back(coarse.first.back() + static_cast<int32_t>(count));
    }
    for (auto r = static_cast<int32_t>(tokens_ - options_.window); r < tokens_; ++r) rows.push_back(r);
    for (size_t r = 0; r < rows.size(); ++r) {
      const int64_t at = base + static_cast<int64_t>(r);
      std::memcpy(to->keys.Row<std::byte>(at), HeadOf(keys, rows[r], head, bytes_), static_cast<size_t>(bytes_));
      std::memcpy(to->values.Row<std::byte>(at), HeadOf(values, rows[r], head, bytes_), static_cast<size_t>(bytes_));
    }
    Calibrate(head, queries, *to);
  }

  std::vector<float> Quantiles(int32_t level) const { return QuantilesOf(scores_[static_cast<size_t>(level)]); }

 private:
  ClusterOptions Options(int64_t clusters) const {
    return {.clusters = clusters, .block = options_.block, .iterations = options_.iterations};
  }
  /// The scores of the head's clusters, and groups, for the queries of the window together.
  void Calibrate(int32_t head, ConstMat queries, const IndexMemory::OfLayer& layer) {
    const int64_t group = shape_.heads / shape_.kv_heads, dim = shape_.head_dim;
    Matrix own(queries.rows * group, dim);
    for (int64_t r = 0; r < queries.rows; ++r) {
      std::memcpy(own.Row<float>(r * group), queries.Row<float>(r) + head * group * dim,
                  static_cast<size_t>(group * dim) * sizeof(float));
    }
    for (int32_t level = 0; level < options_.levels; ++level) {
      const PrefixIndex::Level of = LevelOf(layer.levels[static_cast<size_t>(level)], dim);
      const int32_t first = of.first[static_cast<size_t>(head)],
                    count = of.first[static_cast<size_t>(head) + 1] - first;
      std::vector<int32_t> counts;
      for (const KvRange& range : of.clusters.subspan(static_cast<size_t>(first), static_cast<size_t>(count))) {
        counts.push_back(level == 0 ? range.end - range.begin : KeysOf(layer.levels[0].clusters, range));
      }
      Matrix logits(own.rows(), count);
      CentroidLogits(backend_, shape_, own, of.centroids.Rows(first, count), logits);
      std::vector<float> scores(counts.size());
      backend_->ClusterScores(logits, counts, scores);
      Weighted& all = scores_[static_cast<size_t>(level)];
      for (size_t c = 0; c < counts.size(); ++c) all.emplace_back(scores[c], counts[c]);
    }
  }

  Backend* backend_;
  const KvCache& cache_;
  AttnShape shape_;
  IndexOptions options_;
  int64_t tokens_, bytes_;
  std::array<Weighted, 2> scores_;
};

}  // namespace

int32_t KeysOf(std::span<const KvRange> clusters, const KvRange& group) {
  return clusters[static_cast<size_t>(group.end) - 1].end - clusters[static_cast<size_t>(group.begin)].begin;
}

float PrefixIndex::Threshold(int32_t level, double quantile) const {
  const std::vector<float>& scores = quantiles[static_cast<size_t>(level)];
  const auto at = static_cast<size_t>(std::ceil(quantile * (kQuantiles - 1) - 1e-9));
  return at == 0 ? -std::numeric_limits<float>::infinity() : scores[std::min(at, scores.size() - 1)];
}

int64_t PrefixIndex::bytes() const {
  return 2 * static_cast<int64_t>(layers.size()) * kv_heads * tokens() * BytesOfHead(dtype, head_dim);
}

int64_t PrefixIndex::index_bytes() const {
  int64_t sum = 0;
  for (const Layer& layer : layers) {
    for (const Level* level : {&layer.fine, &layer.coarse}) {
      sum += level->centroids.rows *
             (head_dim * static_cast<int64_t>(sizeof(float)) + static_cast<int64_t>(sizeof(KvRange)));
    }
  }
  return sum;
}

void CheckPrefixLength(int64_t tokens, const IndexOptions& options) {
  if (tokens > options.sinks + options.window) return;
  Fail(ErrorKind::kUsage,
       "a prefix of {} tokens: wanted more than its first {} and the observation window of {}; give a longer text or a "
       "smaller --window",
       tokens, options.sinks, options.window);
}

PrefixIndex BuildPrefixIndex(Backend* backend, const KvCache& cache, std::span<const int32_t> ids,
                             std::span<const Matrix> queries, const AttnShape& shape, const PrefixOwner& owner,
                             const IndexOptions& options, const std::function<void(int64_t done)>& done) {
  const auto tokens = static_cast<int64_t>(ids.size());
  CheckPrefixLength(tokens, options);
  HAWSER_CHECK(cache.seen() == tokens && cache.holds_all() && static_cast<int32_t>(queries.size()) == cache.layers());
  if (shape.kv_heads * tokens > std::numeric_limits<int32_t>::max()) {
    Fail(ErrorKind::kUnsupported, "a prefix of {} tokens for {} kv heads is too long to be indexed", tokens,
         shape.kv_heads);
  }
  PrefixIndex index{.owner = owner,
                    .kv_heads = shape.kv_heads,
                    .head_dim = shape.head_dim,
                    .dtype = cache.stored(),
                    .sinks = options.sinks,
                    .window = options.window,
                    .levels = options.levels,
                    .ids = {ids.begin(), ids.end()}};
  const auto memory = std::make_shared<IndexMemory>();
  IndexBuilder builder(backend, cache, tokens, shape, options);
  for (int32_t layer = 0; layer < cache.layers(); ++layer) {
    memory->layers.push_back(builder.NewLayer());
    for (int32_t head = 0; head < shape.kv_heads; ++head) {
      builder.AddHead(layer, head, queries[static_cast<size_t>(layer)], &memory->layers.back());
      if (done) done(int64_t{layer} * shape.kv_heads + head + 1);
    }
  }
  const int64_t columns = index.dtype == DType::kQ8_0 ? Q8Bytes(index.head_dim) : index.head_dim;
  for (const IndexMemory::OfLayer& of : memory->layers) {
    const auto rows = [&](const Matrix& bytes) {
      return ConstMat{bytes.view().data, index.dtype, bytes.rows(), columns, columns};
    };
    index.layers.push_back(
        {.keys = rows(of.keys),
         .values = rows(of.values),
         .fine = LevelOf(of.levels[0], index.head_dim),
         .coarse = options.levels == 2 ? LevelOf(of.levels[1], index.head_dim) : PrefixIndex::Level{}});
  }
  for (int32_t level = 0; level < options.levels; ++level)
    index.quantiles[static_cast<size_t>(level)] = builder.Quantiles(level);
  index.memory = memory;
  return index;
}

void CentroidLogits(Backend* backend, const AttnShape& shape, ConstMat queries, ConstMat centroids, Mat logits) {
  for (int64_t r = 0; r < queries.rows; r += kQueriesAtOnce) {
    const int64_t n = std::min(kQueriesAtOnce, queries.rows - r);
    backend->MatMul({.a = queries.Rows(r, n), .b = centroids, .trans_b = true, .c = logits.Rows(r, n)});
  }
  // Scaled and capped as logits of a head are.
  backend->CapLogits(logits, shape.scale, shape.softcap);
}

}  // namespace hawser
