// kv/cluster.h - keys in clusters: k-means over directions (Euclidean on unit vectors, arXiv:2411.09688), in blocks of
// neighbours so that the cost is linear in the number of keys. The result depends on the keys alone, not on threads.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hawser/ops/backend.h"

namespace hawser {

struct KeyClusters {
  std::vector<int32_t> order;  // [n] row numbers, cluster after cluster, ascending inside one
  std::vector<int32_t> begin;  // [K + 1] in `order`

  int64_t size() const { return static_cast<int64_t>(begin.size()) - 1; }
  std::span<const int32_t> Rows(int64_t cluster) const {
    const auto first = static_cast<size_t>(begin[static_cast<size_t>(cluster)]);
    return std::span(order).subspan(first, static_cast<size_t>(begin[static_cast<size_t>(cluster) + 1]) - first);
  }
};

struct ClusterOptions {
  int64_t clusters = 1;      // wanted, of all rows; [1, n]
  int64_t block = 8192;      // rows that are clustered together, neighbours; 0: all
  int32_t iterations = 10;   // Lloyd steps at most
  int32_t most_of_mean = 8;  // a cluster with so many times the rows of the mean is cut, in the order of its rows
};

/// keys [n, D] F32, n >= 1. Clusters begin at rows evenly apart; one that becomes empty begins anew at the row that is
/// furthest from its own. None is empty at the end; there are more than wanted where some were cut.
KeyClusters ClusterKeys(Backend* backend, ConstMat keys, const ClusterOptions& options);

}  // namespace hawser
