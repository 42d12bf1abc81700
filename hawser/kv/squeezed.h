// kv/squeezed.h - what queries read of a prefix (Squeezed Attention, arXiv:2411.09688; kv/prefix_index.h): the clusters
// that a rule chooses by their centroids, the first tokens and the observation window. There is one decision for each
// kv head, of the mean over the query heads that share it. Outside of prompts each token decides for itself, from what
// came before it; tokens of a prompt decide together in tiles of kTile, counted from the end of the prefix.
// With two levels the groups are scored first, and only clusters of groups that stay are scored at all. Of the groups
// stay: for a share, the best with half of the keys (or twice the share, if that is more); for a mass, the fewest with
// a mass halfway to 1; for a quantile, those above the same of the groups' scores, or above
// their median where that is less.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hawser/kv/keep_rule.h"
#include "hawser/kv/prefix_index.h"
#include "hawser/ops/backend.h"

namespace hawser {

class SqueezedReader {
 public:
  static constexpr int64_t kTile = 64;

  /// Sums over layers and kv heads of what queries had to read of the prefix.
  struct Usage {
    int64_t queries = 0;  // times layers and kv heads
    int64_t keys = 0;
    int64_t centroids = 0;

    double keys_per_query() const { return queries > 0 ? static_cast<double>(keys) / static_cast<double>(queries) : 0; }
    double centroids_per_query() const {
      return queries > 0 ? static_cast<double>(centroids) / static_cast<double>(queries) : 0;
    }
  };

  SqueezedReader(Backend* backend, std::shared_ptr<const PrefixIndex> index, KeepRule rule);
  /// Another one that has decided nothing yet, by the same rule or by its own.
  SqueezedReader(const SqueezedReader& other) : SqueezedReader(other, other.rule_) {}
  SqueezedReader(const SqueezedReader& other, const KeepRule& rule)
      : SqueezedReader(other.backend_, other.index_, rule) {}

  int64_t tokens() const { return index_->tokens(); }
  const PrefixIndex& index() const { return *index_; }
  const KeepRule& rule() const { return rule_; }

  /// For queries [n, H*D], rotated, of tokens that stand `first` and more behind the prefix.
  void Choose(int32_t layer, const AttnShape& shape, ConstMat queries, int64_t first, bool prompt);
  /// What row `row` of the last Choose reads; valid until the next.
  const KvParts* parts(int64_t row) const {
    return &choices_[static_cast<size_t>(choice_of_[static_cast<size_t>(row)])].parts;
  }

  const Usage& usage(bool prompt) const { return usage_[prompt ? 1 : 0]; }

 private:
  /// What a kv head decides for some rows.
  struct Unit {
    int32_t head = 0;
    ClusterChooser chooser;
    std::vector<float> queries, logits, scores, centroids;  // centroids: of those asked, for many queries
    std::vector<KvRange> groups;                            // runs of clusters that are scored
    std::vector<int32_t> asked, counts;                     // those clusters, and their keys
    std::vector<KvRange> ranges;
    int64_t centroids_read = 0, keys_read = 0;
  };
  struct Choice {
    std::vector<KvRange> ranges;
    std::vector<int32_t> first;
    KvParts parts;
  };

  void Decide(int32_t layer, const AttnShape& shape, int64_t first_row, int64_t rows, int64_t decisions, bool prompt);
  void Gather(const AttnShape& shape, int64_t first_row, int64_t rows, Unit* unit) const;
  void ScoreGroups(const AttnShape& shape, const PrefixIndex::Layer& layer, bool few, Unit* unit) const;
  void ScoreClusters(const AttnShape& shape, const PrefixIndex::Layer& layer, bool few, Unit* unit) const;
  void Score(const AttnShape& shape, ConstMat centroids, std::span<const KvRange> runs, bool few, Unit* unit) const;
  void KeepGroups(const PrefixIndex::Layer& layer, Unit* unit) const;
  void KeepClusters(const PrefixIndex::Layer& layer, Unit* unit) const;

  Backend* backend_;
  std::shared_ptr<const PrefixIndex> index_;
  KeepRule rule_;
  Matrix queries_;           // [at least n, H*D] F32
  std::vector<Unit> units_;  // of the decisions of a tile
  std::vector<Choice> choices_;
  size_t made_ = 0;                 // choices of the last Choose
  std::vector<int32_t> choice_of_;  // of each row
  Usage usage_[2];
};

}  // namespace hawser
