// K-means runs on the product of a device, which tests of this room have by way of a backend.
#include "hawser/kv/cluster.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"

namespace hawser {
namespace {

/// Rows around `centres` directions, in turn.
Matrix RowsAround(int64_t rows, int64_t dim, int64_t centres, double noise, uint64_t seed) {
  Rng rng{.seed = seed, .stream = 8};
  std::vector<double> means;
  for (int64_t i = 0; i < centres * dim; ++i) means.push_back(rng.Normal());
  Matrix keys(rows, dim);
  for (int64_t r = 0; r < rows; ++r) {
    const double length = 0.5 + 3 * rng.Uniform();  // directions are what counts
    for (int64_t d = 0; d < dim; ++d) {
      keys.Row<float>(r)[d] =
          static_cast<float>(length * (means[static_cast<size_t>(r % centres * dim + d)] + noise * rng.Normal()));
    }
  }
  return keys;
}

void ExpectPartition(const KeyClusters& clusters, int64_t rows) {
  ASSERT_EQ(static_cast<int64_t>(clusters.order.size()), rows);
  std::vector<int32_t> sorted = clusters.order;
  std::ranges::sort(sorted);
  for (int64_t r = 0; r < rows; ++r) ASSERT_EQ(sorted[static_cast<size_t>(r)], r);
  for (int64_t c = 0; c < clusters.size(); ++c) {
    EXPECT_FALSE(clusters.Rows(c).empty());
    EXPECT_TRUE(std::ranges::is_sorted(clusters.Rows(c)));
  }
}

TEST(ClusterTest, FindsDirectionsThatAreThere) {
  const auto backend = MakeBackend("cpu");
  const Matrix keys = RowsAround(700, 24, 7, 0.05, 1);
  const KeyClusters clusters = ClusterKeys(backend.get(), keys, {.clusters = 21});
  ExpectPartition(clusters, 700);
  for (int64_t c = 0; c < clusters.size(); ++c) {
    std::set<int32_t> centres;
    for (const int32_t row : clusters.Rows(c)) centres.insert(row % 7);
    EXPECT_EQ(centres.size(), 1u) << c;
  }
}

TEST(ClusterTest, IsTheSameForAnyThreads) {
  const auto backend = MakeBackend("cpu");
  const Matrix keys = RowsAround(3000, 64, 50, 1.0, 2);
  const int before = NumThreads();
  SetThreads(1);
  const KeyClusters one = ClusterKeys(backend.get(), keys, {.clusters = 150, .block = 1000});
  ExpectPartition(one, 3000);
  for (const int threads : {2, 3}) {
    SetThreads(threads);
    const KeyClusters other = ClusterKeys(backend.get(), keys, {.clusters = 150, .block = 1000});
    EXPECT_EQ(one.order, other.order) << threads;
    EXPECT_EQ(one.begin, other.begin) << threads;
  }
  SetThreads(before);
}

TEST(ClusterTest, ACLusterFarAboveTheMeanIsCut) {
  const auto backend = MakeBackend("cpu");
  Matrix keys = RowsAround(1000, 16, 1, 0.0, 3);  // one direction: k-means has nothing to tell apart
  for (int64_t d = 0; d < 16; ++d) keys.Row<float>(5)[d] = -keys.Row<float>(5)[d];
  const KeyClusters clusters = ClusterKeys(backend.get(), keys, {.clusters = 50});
  ExpectPartition(clusters, 1000);
  for (int64_t c = 0; c < clusters.size(); ++c) EXPECT_LE(clusters.Rows(c).size(), 8u * 20u);
}

TEST(ClusterTest, ExtremesAndZerosAreFine) {
  const auto backend = MakeBackend("cpu");
  Matrix zeros(40, 8);
  ExpectPartition(ClusterKeys(backend.get(), zeros, {.clusters = 10}), 40);
  const Matrix keys = RowsAround(40, 8, 4, 1.0, 4);
  for (const int64_t wanted : {1, 40}) {
    const KeyClusters clusters = ClusterKeys(backend.get(), keys, {.clusters = wanted});
    ExpectPartition(clusters, 40);
    EXPECT_GE(clusters.size(), wanted);
  }
  EXPECT_EQ(ClusterKeys(backend.get(), keys, {.clusters = 40}).size(), 40);
  ExpectPartition(ClusterKeys(backend.get(), RowsAround(1, 8, 1, 0, 5), {.clusters = 1}), 1);
}

}  // namespace
}  // namespace hawser
