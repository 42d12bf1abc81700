#include "hawser/kv/cluster.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"

namespace hawser {
namespace {

constexpr int64_t kScoredRows = 1024;  // at a time

/// One block of unit rows [n, D].
class BlockClusters {
 public:
  BlockClusters(Backend* backend, ConstMat rows, int64_t clusters)
      : backend_(backend),
        rows_(rows),
        clusters_(clusters),
        means_(backend->NewMatrix(clusters, rows.cols, DType::kF32)),
        scores_(backend->NewMatrix(std::min(rows.rows, kScoredRows), clusters, DType::kF32)),
        labels_(static_cast<size_t>(rows.rows), -1),
        nearness_(labels_.size()),
        counts_(static_cast<size_t>(clusters)) {
    for (int64_t c = 0; c < clusters; ++c) {
      const int64_t row = (2 * c + 1) * rows.rows / (2 * clusters);
      std::memcpy(means_.Row<float>(c), rows.Row<float>(row), static_cast<size_t>(rows.cols) * sizeof(float));
    }
  }

  /// One step; false where nothing has moved.
  bool Step() {
    if (!Assign()) return false;
    FillEmpty();
    for (int64_t c = 0; c < clusters_; ++c) std::fill_n(means_.Row<float>(c), rows_.cols, 0.0f);
    for (int64_t r = 0; r < rows_.rows; ++r) {
      float* mean = means_.Row<float>(labels_[static_cast<size_t>(r)]);
      const float* row = rows_.Row<float>(r);
      for (int64_t d = 0; d < rows_.cols; ++d) mean[d] += row[d];
    }
    for (int64_t c = 0; c < clusters_; ++c) {
      const auto count = static_cast<float>(counts_[static_cast<size_t>(c)]);
      float* mean = means_.Row<float>(c);
      for (int64_t d = 0; d < rows_.cols; ++d) mean[d] /= count;
    }
    return true;
  }
  const std::vector<int32_t>& labels() const { return labels_; }
  const std::vector<int32_t>& counts() const { return counts_; }

 private:
  /// |x - m|^2 = |x|^2 - 2 (x m - |m|^2 / 2): the nearest mean has the greatest such score; of equal ones the first.
  bool Assign() {
    std::vector<float> half(static_cast<size_t>(clusters_));
    for (int64_t c = 0; c < clusters_; ++c) {
      const float* mean = means_.Row<float>(c);
      half[static_cast<size_t>(c)] = 0.5f * std::inner_product(mean, mean + rows_.cols, mean, 0.0f);
    }
    const std::vector<int32_t> before = labels_;
    for (int64_t first = 0; first < rows_.rows; first += kScoredRows) {
      const int64_t n = std::min(kScoredRows, rows_.rows - first);
      const Mat scores = scores_.view().Rows(0, n);
      backend_->MatMul({.a = rows_.Rows(first, n), .b = means_, .trans_b = true, .c = scores});
      ParallelChunks(n, 64, [&](int64_t begin, int64_t end) {
        for (int64_t r = begin; r < end; ++r) {
          const float* row = scores.Row<float>(r);
          float best = -std::numeric_limits<float>::infinity();
          int32_t label = 0;
          for (int64_t c = 0; c < clusters_; ++c) {
            const float score = row[c] - half[static_cast<size_t>(c)];
            if (score > best) best = score, label = static_cast<int32_t>(c);
          }
          labels_[static_cast<size_t>(first + r)] = label;
          nearness_[static_cast<size_t>(first + r)] = best;
        }
      });
    }
    std::ranges::fill(counts_, 0);
    for (const int32_t label : labels_) ++counts_[static_cast<size_t>(label)];
    return labels_ != before;
  }

  void FillEmpty() {
    const auto empty = std::ranges::count(counts_, 0);
    if (empty == 0) return;
    std::vector<int32_t> far(labels_.size());
    std::iota(far.begin(), far.end(), 0);
    std::ranges::sort(far, [&](int32_t a, int32_t b) {
      const float x = nearness_[static_cast<size_t>(a)], y = nearness_[static_cast<size_t>(b)];
      return x < y || (x == y && a < b);
    });
    auto next = far.begin();
    for (size_t c = 0; c < counts_.size(); ++c) {
      if (counts_[c] > 0) continue;
      while (counts_[static_cast<size_t>(labels_[static_cast<size_t>(*next)])] == 1) ++next;
      int32_t& label = labels_[static_cast<size_t>(*next++)];
      --counts_[static_cast<size_t>(label)];
      label = static_cast<int32_t>(c);
      counts_[c] = 1;
    }
  }

  Backend* backend_;
  ConstMat rows_;
  int64_t clusters_;
  Matrix means_, scores_;
  std::vector<int32_t> labels_;
  std::vector<float> nearness_;
  std::vector<int32_t> counts_;
};

/// Rows of length 1; those of zeros stay.
Matrix UnitRows(ConstMat keys) {
  Matrix unit(keys.rows, keys.cols);
  ParallelChunks(keys.rows, 256, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float* from = keys.Row<float>(r);
      double square = 0;
      for (int64_t d = 0; d < keys.cols; ++d) square += static_cast<double>(from[d]) * from[d];
      const auto scale = static_cast<float>(square > 0 ? 1 / std::sqrt(square) : 0);
      for (int64_t d = 0; d < keys.cols; ++d) unit.Row<float>(r)[d] = from[d] * scale;
    }
  });
  return unit;
}

}  // namespace

KeyClusters ClusterKeys(Backend* backend, ConstMat keys, const ClusterOptions& options) {
  HAWSER_CHECK(keys.rows >= 1 && options.clusters >= 1 && options.clusters <= keys.rows);
  const Matrix unit = UnitRows(keys);
  const int64_t blocks = options.block > 0 ? (keys.rows + options.block - 1) / options.block : 1;
  const int64_t cap = std::max<int64_t>(1, options.most_of_mean * keys.rows / options.clusters);
  KeyClusters all;
  all.order.reserve(static_cast<size_t>(keys.rows));
  all.begin.push_back(0);
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = keys.rows * b / blocks, n = keys.rows * (b + 1) / blocks - first;
    const int64_t wanted = options.clusters * (b + 1) / blocks - options.clusters * b / blocks;
    BlockClusters block(backend, unit.view().Rows(first, n), std::clamp<int64_t>(wanted, 1, n));
    for (int32_t i = 0; i < options.iterations && block.Step(); ++i) {
    }
    std::vector<std::vector<int32_t>> members(block.counts().size());
    for (int64_t r = 0; r < n; ++r) {
      members[static_cast<size_t>(block.labels()[static_cast<size_t>(r)])].push_back(static_cast<int32_t>(first + r));
    }
    for (const std::vector<int32_t>& rows : members) {
      const auto count = static_cast<int64_t>(rows.size());
      const int64_t parts = (count + cap - 1) / cap;
      for (int64_t p = 0; p < parts; ++p) {
        all.order.insert(all.order.end(), rows.begin() + count * p / parts, rows.begin() + count * (p + 1) / parts);
        all.begin.push_back(static_cast<int32_t>(all.order.size()));
      }
    }
  }
  return all;
}

}  // namespace hawser
