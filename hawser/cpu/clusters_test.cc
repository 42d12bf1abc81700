#include <gtest/gtest.h>

#include <vector>

#include "hawser/base/rng.h"
#include "hawser/cpu/backend_cpu.h"

namespace hawser {
namespace {

Matrix NormalRows(int64_t rows, int64_t cols, uint64_t seed) {
  Matrix m(rows, cols);
  Rng rng{.seed = seed, .stream = 9};
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < cols; ++c) m.Row<float>(r)[c] = static_cast<float>(rng.Normal());
  }
  return m;
}

// Runs of every length, next to each other, far apart, twice the same and empty, for odd widths and numbers of queries.
TEST(ClustersTest, DotsAreThoseOfTheRowsInTheRuns) {
  const auto backend = MakeCpuBackend();
  for (const int64_t dim : {1, 16, 40, 64, 131}) {
    const Matrix rows = NormalRows(300, dim, 1);
    const std::vector<KvRange> runs = {{5, 6}, {6, 70}, {200, 200}, {100, 103}, {299, 300}, {100, 103}, {0, 4}};
    std::vector<int32_t> list;
    for (const KvRange& run : runs) {
      for (int32_t i = run.begin; i < run.end; ++i) list.push_back(i);
    }
    for (const int64_t queries : {1, 2, 3, 5, 8, 11}) {
      const Matrix x = NormalRows(queries, dim, 2);
      Matrix to(queries, static_cast<int64_t>(list.size()));
      backend->DotRows(x, rows, runs, to);
      for (int64_t q = 0; q < queries; ++q) {
        for (size_t i = 0; i < list.size(); ++i) {
          double dot = 0;
          for (int64_t c = 0; c < dim; ++c) dot += double{x.Row<float>(q)[c]} * rows.Row<float>(list[i])[c];
          EXPECT_NEAR(to.Row<float>(q)[i], dot, 1e-5 * static_cast<double>(dim));
          const KvRange alone{list[i], list[i] + 1};
          float other = 0;
          backend->DotRows(x.view().Rows(q, 1), rows, {&alone, 1}, {&other, DType::kF32, 1, 1, 1});
          EXPECT_EQ(to.Row<float>(q)[i], other) << "dim " << dim << ", query " << q << ", row " << list[i];
        }
      }
    }
  }
  Matrix none(2, 0);
  backend->DotRows(NormalRows(2, 8, 3), NormalRows(4, 8, 4), {}, none);
}

}  // namespace
}  // namespace hawser
