// kv/keep_rule.h - which clusters of keys queries read (Squeezed Attention, arXiv:2411.09688). Clusters j = 1..K hold
// n_j keys each and are scored by their centroids; rows i are the queries that share one decision, those of all heads
// that share the keys:
//   Z_i = sum_j n_j exp(A_ij)        S_j = mean_i exp(A_ij) / Z_i        sum_j n_j S_j = 1
// S_j estimates the weight of one key of the cluster. Everything is done on log S_j (ClusterScores of ops/backend.h);
// empty clusters count nowhere.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

struct KeepRule {
  enum class Kind : uint8_t {
    kShare,     // the best clusters, keys of a share of the prefix at most
    kMass,      // the fewest clusters that have this share of the weight by the estimate
    kQuantile,  // those above this quantile of the scores that all keys of the prefix had when it was indexed
  };
  Kind kind = Kind::kShare;
  double value = 1;

  bool operator==(const KeepRule&) const = default;
};

/// `0.1` or `share=0.1`, `mass=0.95`, `quantile=0.9`. Errors: kUsage for anything else, and for values outside of
/// (0, 1], quantiles outside of [0, 1).
KeepRule ParseKeepRule(std::string_view text);
/// Parses back to the same value.
std::string ToString(const KeepRule& rule);

/// What one decision keeps, ascending numbers of clusters that are not empty. Of equal scores the first cluster is the
/// better one.
class ClusterChooser {
 public:
  /// The best clusters as long as they have `budget` keys together at most.
  std::span<const int32_t> Share(std::span<const float> scores, std::span<const int32_t> counts, int64_t budget);
  /// The fewest best clusters with sum n_j S_j >= mass; all where that is never reached.
  std::span<const int32_t> Mass(std::span<const float> scores, std::span<const int32_t> counts, double mass);
  /// All with log S_j > threshold.
  std::span<const int32_t> Above(std::span<const float> scores, std::span<const int32_t> counts, float threshold);

 private:
  template <class WeightOf>
  std::span<const int32_t> Best(std::span<const float> scores, std::span<const int32_t> counts, double limit,
                                const WeightOf& weight_of, bool and_next);
  void List(std::span<const int32_t> counts);

  std::vector<int32_t> order_, bucket_, tied_;
};

}  // namespace hawser
