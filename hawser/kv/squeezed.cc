#include "hawser/kv/squeezed.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"

namespace hawser {
namespace {

/// The clusters of a head.
struct HeadClusters {
  HeadClusters(const PrefixIndex::Level& level, int32_t head)
      : first(level.first[static_cast<size_t>(head)]),
        count(level.first[static_cast<size_t>(head) + 1] - first),
        clusters(level.clusters.subspan(static_cast<size_t>(first), static_cast<size_t>(count))) {}

  int32_t first, count;
  std::span<const KvRange> clusters;
};

/// Adds a range behind others, joined to the last where both lie together.
void AddRange(const KvRange& range, std::vector<KvRange>* ranges) {
  if (range.begin == range.end) return;
  if (!ranges->empty() && ranges->back().end == range.begin) {
    ranges->back().end = range.end;
  } else {
    ranges->push_back(range);
  }
}

}  // namespace

SqueezedReader::SqueezedReader(Backend* backend, std::shared_ptr<const PrefixIndex> index, KeepRule rule)
    : backend_(backend), index_(std::move(index)), rule_(rule) {}

void SqueezedReader::Choose(int32_t layer, const AttnShape& shape, ConstMat queries, int64_t first, bool prompt) {
  const int64_t n = queries.rows;
  HAWSER_CHECK(shape.kv_heads == index_->kv_heads && shape.head_dim == index_->head_dim &&
               queries.cols == int64_t{shape.heads} * shape.head_dim &&
               static_cast<size_t>(layer) < index_->layers.size());
  if (queries_.rows() < n || queries_.cols() != queries.cols) {
    queries_ = backend_->NewMatrix(n, queries.cols, DType::kF32);
  }
  backend_->Copy(queries, queries_.view().Rows(0, n));
  choice_of_.resize(static_cast<size_t>(n));
  made_ = 0;
  for (int64_t begin = 0, end = 0; begin < n; begin = end) {
    end = std::min(n, (first + begin) / kTile * kTile + kTile - first);
    const int64_t decisions = prompt ? 1 : end - begin, rows = prompt ? end - begin : 1;
    Decide(layer, shape, begin, rows, decisions, prompt);
    for (int64_t r = begin; r < end; ++r) {
      choice_of_[static_cast<size_t>(r)] = static_cast<int32_t>(made_) + static_cast<int32_t>(prompt ? 0 : r - begin);
    }
    for (int64_t d = 0; d < decisions; ++d) {
      const size_t at = made_++;
      if (choices_.size() <= at) choices_.emplace_back();
      Choice& choice = choices_[at];
      choice.ranges.clear();
      choice.first.assign(1, 0);
      for (int32_t g = 0; g < shape.kv_heads; ++g) {
        const Unit& unit = units_[static_cast<size_t>(d * shape.kv_heads + g)];
        choice.ranges.insert(choice.ranges.end(), unit.ranges.begin(), unit.ranges.end());
        choice.first.push_back(static_cast<int32_t>(choice.ranges.size()));
        Usage& usage = usage_[prompt ? 1 : 0];
        usage.queries += rows;
        usage.keys += rows * unit.keys_read;
        usage.centroids += unit.centroids_read;  // read once for all rows of a tile
      }
    }
  }
  const PrefixIndex::Layer& of = index_->layers[static_cast<size_t>(layer)];
  for (Choice& choice : choices_) choice.parts = {of.keys, of.values, choice.ranges, choice.first};
}

/// Units of the decisions, each of `rows` rows, from `first_row` on. Few queries score what they ask where it lies, all
/// units at once; those of a prompt are many, and a product of matrices is worth a copy.
void SqueezedReader::Decide(int32_t layer, const AttnShape& shape, int64_t first_row, int64_t rows, int64_t decisions,
                            bool prompt) {
  const PrefixIndex::Layer& of = index_->layers[static_cast<size_t>(layer)];
  const int64_t count = decisions * shape.kv_heads;
  if (static_cast<int64_t>(units_.size()) < count) units_.resize(static_cast<size_t>(count));
  const auto each = [&](bool together, const auto& stage) {
    const auto of_unit = [&](int64_t u) { stage(&units_[static_cast<size_t>(u)]); };
    if (together) return ParallelFor(count, of_unit);
    for (int64_t u = 0; u < count; ++u) of_unit(u);
  };
  for (int64_t u = 0; u < count; ++u) {
    Unit& unit = units_[static_cast<size_t>(u)];
    unit.head = static_cast<int32_t>(u % shape.kv_heads);
    unit.centroids_read = unit.keys_read = 0;
    Gather(shape, first_row + u / shape.kv_heads * rows, rows, &unit);
  }
  const auto score_groups = [&](Unit* unit) { ScoreGroups(shape, of, !prompt, unit); };
  const auto keep_groups = [&](Unit* unit) { KeepGroups(of, unit); };
  const auto score_clusters = [&](Unit* unit) { ScoreClusters(shape, of, !prompt, unit); };
  const auto keep_clusters = [&](Unit* unit) { KeepClusters(of, unit); };
  if (!prompt) {
    each(true, [&](Unit* unit) { score_groups(unit), keep_groups(unit), score_clusters(unit), keep_clusters(unit); });
  } else {
    each(false, score_groups);
    each(true, keep_groups);
    each(false, score_clusters);
    each(true, keep_clusters);
  }
}

void SqueezedReader::Gather(const AttnShape& shape, int64_t first_row, int64_t rows, Unit* unit) const {
  const auto width = static_cast<size_t>(shape.heads / shape.kv_heads * shape.head_dim);
  unit->queries.resize(static_cast<size_t>(rows) * width);
  for (int64_t r = 0; r < rows; ++r) {
    std::memcpy(unit->queries.data() + static_cast<size_t>(r) * width,
                queries_.Row<float>(first_row + r) + static_cast<size_t>(unit->head) * width, width * sizeof(float));
  }
}

/// Logits of the unit's queries and the centroids of some runs, of all units of a prompt one after the other.
void SqueezedReader::Score(const AttnShape& shape, ConstMat centroids, std::span<const KvRange> runs, bool few,
                           Unit* unit) const {
  const int64_t dim = shape.head_dim, rows = static_cast<int64_t>(unit->queries.size()) / dim;
  int64_t count = 0;
  for (const KvRange& run : runs) count += run.end - run.begin;
  unit->logits.resize(static_cast<size_t>(rows * count));
  unit->scores.resize(static_cast<size_t>(count));
  unit->centroids_read += count;
  if (count == 0) return;
  const ConstMat queries{unit->queries.data(), DType::kF32, rows, dim, dim};
  const Mat logits{unit->logits.data(), DType::kF32, rows, count, count};
  if (few) {
    backend_->DotRows(queries, centroids, runs, logits);
    backend_->CapLogits(logits, shape.scale, shape.softcap);
    return;
  }
  if (runs.size() == 1) return CentroidLogits(backend_, shape, queries, centroids.Rows(runs[0].begin, count), logits);
  unit->centroids.clear();
  for (const KvRange& run : runs) {
    const float* from = centroids.Row<float>(run.begin);
    unit->centroids.insert(unit->centroids.end(), from, from + (run.end - run.begin) * dim);
  }
  CentroidLogits(backend_, shape, queries, {unit->centroids.data(), DType::kF32, count, dim, dim}, logits);
}

/// Of the groups, where there are two levels.
void SqueezedReader::ScoreGroups(const AttnShape& shape, const PrefixIndex::Layer& layer, bool few, Unit* unit) const {
  if (index_->levels < 2) return;
  const HeadClusters groups(layer.coarse, unit->head);
  const KvRange all{groups.first, groups.first + groups.count};
  Score(shape, layer.coarse.centroids, {&all, 1}, few, unit);
}

/// Of the clusters that are asked.
void SqueezedReader::ScoreClusters(const AttnShape& shape, const PrefixIndex::Layer& layer, bool few,
                                   Unit* unit) const {
  Score(shape, layer.fine.centroids, unit->groups, few, unit);
}

namespace {

/// What the rule keeps of `body` keys besides those that always stay; `coarse`: of groups, which are to leave enough.
std::span<const int32_t> KeepBy(const KeepRule& rule, const PrefixIndex& index, bool coarse,
                                std::span<const float> scores, std::span<const int32_t> counts,
                                ClusterChooser* chooser) {
  switch (rule.kind) {
    case KeepRule::Kind::kShare: {
      const double share = coarse ? std::min(1.0, std::max(0.5, 2 * rule.value)) : rule.value;
      const auto keys = static_cast<int64_t>(share * static_cast<double>(index.tokens()));
      return chooser->Share(scores, counts, keys - (coarse ? 0 : index.sinks + index.window));
    }
    case KeepRule::Kind::kMass:
      return chooser->Mass(scores, counts, coarse ? (1 + rule.value) / 2 : rule.value);
    case KeepRule::Kind::kQuantile:
      return chooser->Above(scores, counts,
                            index.Threshold(coarse ? 1 : 0, coarse ? std::min(0.5, rule.value) : rule.value));
  }
  return {};
}

void ScoresOf(Backend* backend, std::span<const float> logits, std::span<const int32_t> counts,
              std::span<float> scores) {
  if (counts.empty()) return;
  const auto clusters = static_cast<int64_t>(counts.size());
  backend->ClusterScores(
      {logits.data(), DType::kF32, static_cast<int64_t>(logits.size()) / clusters, clusters, clusters}, counts, scores);
}

}  // namespace

/// From scores of groups to the clusters that are asked: all of them with one level.
void SqueezedReader::KeepGroups(const PrefixIndex::Layer& layer, Unit* unit) const {
  unit->groups.clear();
  if (index_->levels < 2) {
    const HeadClusters all(layer.fine, unit->head);
    AddRange({all.first, all.first + all.count}, &unit->groups);
  } else {
    const HeadClusters groups(layer.coarse, unit->head);
    unit->counts.clear();
    for (const KvRange& group : groups.clusters) unit->counts.push_back(KeysOf(layer.fine.clusters, group));
    ScoresOf(backend_, unit->logits, unit->counts, unit->scores);
    for (const int32_t g : KeepBy(rule_, *index_, /*coarse=*/true, unit->scores, unit->counts, &unit->chooser)) {
      AddRange(groups.clusters[static_cast<size_t>(g)], &unit->groups);
    }
  }
  unit->asked.clear();
  for (const KvRange& run : unit->groups) {
    for (int32_t c = run.begin; c < run.end; ++c) unit->asked.push_back(c);
  }
}

/// From scores of clusters to ranges of keys.
void SqueezedReader::KeepClusters(const PrefixIndex::Layer& layer, Unit* unit) const {
  unit->counts.clear();
  for (const int32_t c : unit->asked) {
    const KvRange& range = layer.fine.clusters[static_cast<size_t>(c)];
    unit->counts.push_back(range.end - range.begin);
  }
  ScoresOf(backend_, unit->logits, unit->counts, unit->scores);
  const auto tokens = static_cast<int32_t>(index_->tokens()), base = unit->head * tokens;
  unit->ranges.clear();
  AddRange({base, base + index_->sinks}, &unit->ranges);
  for (const int32_t i : KeepBy(rule_, *index_, /*coarse=*/false, unit->scores, unit->counts, &unit->chooser)) {
    AddRange(layer.fine.clusters[static_cast<size_t>(unit->asked[static_cast<size_t>(i)])], &unit->ranges);
  }
  AddRange({base + tokens - index_->window, base + tokens}, &unit->ranges);
  for (const KvRange& range : unit->ranges) unit->keys_read += range.end - range.begin;
}

}  // namespace hawser
