// Decoding over keys that each kv head reads in part, against the formula in double over the same keys.
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/q8.h"
#include "hawser/cpu/attention.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/ops/attention_reference.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser {
namespace {

using ::hawser::testing::AttentionTolerance;
using ::hawser::testing::TestMat;

/// Rows of one query each: parts of `prefix` keys a head, then slots of its own.
struct PartsProblem {
  PartsProblem(int group_, int kv_heads_, int dim_, DType dtype, int prefix_, std::vector<int> slots, uint64_t seed)
      : group(group_),
        kv_heads(kv_heads_),
        dim(dim_),
        prefix(prefix_),
        prefix_keys(int64_t{kv_heads} * prefix, dim, dtype, seed + 50, 1.0, 3),
        prefix_values(int64_t{kv_heads} * prefix, dim, dtype, seed + 51, 1.0, 1),
        q(static_cast<int64_t>(slots.size()), group * kv_heads * dim, dtype, seed, 1.0, 3),
        out(static_cast<int64_t>(slots.size()), group * kv_heads * dim, DType::kF32, seed + 1, 1.0, 3),
        parts(slots.size()),
        ranges(slots.size()),
        first(slots.size()) {
    Rng rng{.seed = seed, .stream = 3};
    keys.reserve(slots.size());
    values.reserve(slots.size());
    for (size_t r = 0; r < slots.size(); ++r) {
      keys.emplace_back(slots[r], kv_heads * dim, dtype, seed + 2 + r, 1.0, 5);
      values.emplace_back(slots[r], kv_heads * dim, dtype, seed + 30 + r, 1.0, 7);
      first[r].push_back(0);
      for (int32_t g = 0; g < kv_heads; ++g) {
        // Each row and head reads another share, some of them nothing.
        const uint64_t gap = 1 + rng.Below(60), run = rng.Below(4) == 0 ? 0 : 1 + rng.Below(200);
        int32_t at = g * prefix + static_cast<int32_t>(rng.Below(gap));
        while (run > 0 && at < (g + 1) * prefix) {
          const int32_t end = std::min<int32_t>((g + 1) * prefix, at + 1 + static_cast<int32_t>(rng.Below(run)));
          ranges[r].push_back({at, end});
          at = end + static_cast<int32_t>(rng.Below(gap));
        }
        first[r].push_back(static_cast<int32_t>(ranges[r].size()));
      }
      parts[r] = {.k = prefix_keys, .v = prefix_values, .ranges = ranges[r], .first = first[r]};
      rows.push_back({.k = keys.back(), .v = values.back(), .parts = &parts[r]});
    }
  }
  DecodeArgs Args() {
    return {.shape = {.heads = group * kv_heads,
                      .kv_heads = kv_heads,
                      .head_dim = dim,
                      .scale = 1.0f / std::sqrt(static_cast<float>(dim)),
                      .softcap = softcap},
            .q = q,
            .out = out,
            .rows = rows};
  }
  void Check() {
    AttentionDecode(Args());
    out.ExpectMarginUntouched();
    for (size_t r = 0; r < rows.size(); ++r) {
      for (int g = 0; g < kv_heads; ++g) CheckHead(r, g);
    }
  }
  void CheckHead(size_t r, int g) {
    NaiveAttention twin{.rows = 1,
                        .keys = 0,
                        .heads = group,
                        .kv_heads = 1,
                        .dim = dim,
                        .scale = Args().shape.scale,
                        .visible = [](int64_t, int64_t) { return true; },
                        .q = {},
                        .k = {},
                        .v = {},
                        .softcap = softcap};
    const auto add = [&](const TestMat& k, const TestMat& v, int64_t row, int64_t column) {
      for (int d = 0; d < dim; ++d) twin.k.push_back(k(row, column + d)), twin.v.push_back(v(row, column + d));
      ++twin.keys;
    };
    for (int32_t i = first[r][g]; i < first[r][g + 1]; ++i) {
      for (int32_t row = ranges[r][i].begin; row < ranges[r][i].end; ++row) add(prefix_keys, prefix_values, row, 0);
    }
    for (int64_t row = 0; row < keys[r].rows(); ++row) add(keys[r], values[r], row, int64_t{g} * dim);
    const int64_t column = int64_t{g} * group * dim;
    for (int64_t c = 0; c < group * dim; ++c) twin.q.push_back(q(static_cast<int64_t>(r), column + c));
    twin.Forward();
    for (int64_t c = 0; c < group * dim; ++c) {
      const double want = twin.out[c];
      ASSERT_NEAR(out(static_cast<int64_t>(r), column + c), want,
                  AttentionTolerance(DType::kF32, DType::kF32, dim, 20.0, twin.out_size[c], want))
          << Name(CurrentIsa()) << " row " << r << " head " << g << " of " << twin.keys << " keys, dim " << dim;
    }
  }

  int group, kv_heads, dim, prefix;
  TestMat prefix_keys, prefix_values, q, out;
  std::vector<TestMat> keys, values;
  std::vector<KvParts> parts;
  std::vector<std::vector<KvRange>> ranges;
  std::vector<std::vector<int32_t>> first;
  std::vector<DecodeArgs::Row> rows;
  float softcap = 0;
};

TEST(DecodePartsTest, MatchesTheTwin) {
  const Isa before = CurrentIsa();
  Rng rng{.seed = 9, .stream = 1};
  for (const Isa isa : AvailableIsas()) {
    SetIsa(isa);
    for (const int dim : {8, 12, 64, 80, 128}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        PartsProblem problem(1 + static_cast<int>(rng.Below(5)), 1 + static_cast<int>(rng.Below(3)), dim, dtype,
                             200 + static_cast<int>(rng.Below(300)), {1, 130, 17}, rng.Bits());
        problem.Check();
        problem.softcap = 2.0f;
        problem.Check();
      }
    }
  }
  SetIsa(before);
}

TEST(DecodePartsTest, LongPartsAreMergedFromPiecesForAnyThreads) {
  PartsProblem problem(3, 3, 64, DType::kF32, 7000, {2049, 1, 5}, 41);
  const int before = NumThreads();
  SetThreads(1);
  problem.Check();
  const std::vector<char> one = problem.out.Bytes();
  for (const int threads : {2, 3, 5}) {
    SetThreads(threads);
    AttentionDecode(problem.Args());
    EXPECT_EQ(one, problem.out.Bytes()) << threads;
  }
  SetThreads(before);
}

// Rows with and without parts share a call, and each gets what it gets alone.
TEST(DecodePartsTest, RowsWithoutPartsStayAsTheyAre) {
  PartsProblem problem(2, 3, 32, DType::kF32, 500, {300, 2100, 40}, 8);
  problem.rows[1].parts = nullptr;
  AttentionDecode(problem.Args());
  const std::vector<double> together = problem.out.Values();
  const auto width = static_cast<size_t>(problem.q.cols());
  for (int64_t r = 0; r < 3; ++r) {
    DecodeArgs alone = problem.Args();
    alone.q = alone.q.Rows(r, 1);
    alone.out = alone.out.Rows(r, 1);
    alone.rows = alone.rows.subspan(static_cast<size_t>(r), 1);
    AttentionDecode(alone);
  }
  EXPECT_EQ(problem.out.Values(), together);
  EXPECT_EQ(together.size(), 3 * width);
}

// SQ5: how ranges are cut changes rounding alone, and the order of keys too.
TEST(DecodePartsTest, CutsOfRangesDoNotMatter) {
  PartsProblem problem(2, 2, 64, DType::kF32, 3000, {7}, 5);
  AttentionDecode(problem.Args());
  const std::vector<double> whole = problem.out.Values();
  for (const int32_t size : {1, 7, 2048}) {
    std::vector<KvRange> cut;
    std::vector<int32_t> first = {0};
    for (int g = 0; g < 2; ++g) {
      for (int32_t i = problem.first[0][g]; i < problem.first[0][g + 1]; ++i) {
        const KvRange range = problem.ranges[0][i];
        for (int32_t at = range.begin; at < range.end; at += size) cut.push_back({at, std::min(at + size, range.end)});
      }
      first.push_back(static_cast<int32_t>(cut.size()));
    }
    for (const bool reversed : {false, true}) {
      if (reversed) {
        for (int g = 0; g < 2; ++g) std::reverse(cut.begin() + first[g], cut.begin() + first[g + 1]);
      }
      problem.parts[0].ranges = cut;
      problem.parts[0].first = first;
      AttentionDecode(problem.Args());
      const std::vector<double> out = problem.out.Values();
      for (size_t c = 0; c < whole.size(); ++c) EXPECT_NEAR(out[c], whole[c], 2e-6) << "runs of " << size;
    }
  }
}

TEST(DecodePartsTest, BlocksOfBytesAreReadAsTheyLie) {
  constexpr int kDim = 40, kKeys = 300;
  const TestMat keys(kKeys, kDim, DType::kF32, 1), values(kKeys, kDim, DType::kF32, 2);
  Matrix k8(kKeys, Q8Bytes(kDim), DType::kU8), v8(kKeys, Q8Bytes(kDim), DType::kU8), k(kKeys, kDim), v(kKeys, kDim);
  for (int64_t r = 0; r < kKeys; ++r) {
    QuantizeQ8(static_cast<ConstMat>(keys).Row<float>(r), kDim, k8.Row<std::byte>(r));
    QuantizeQ8(static_cast<ConstMat>(values).Row<float>(r), kDim, v8.Row<std::byte>(r));
    DequantizeQ8(k8.Row<std::byte>(r), kDim, k.Row<float>(r));
    DequantizeQ8(v8.Row<std::byte>(r), kDim, v.Row<float>(r));
  }
  const auto blocks = [](const Matrix& m) {
    return ConstMat{m.view().data, DType::kQ8_0, m.rows(), m.cols(), m.cols()};
  };
  const TestMat q(1, kDim, DType::kF32, 3), own(1, kDim, DType::kF32, 4);
  TestMat out(1, kDim, DType::kF32, 5), want(1, kDim, DType::kF32, 6);
  const std::vector<KvRange> ranges = {{3, 50}, {51, 52}, {200, 300}};
  const std::vector<int32_t> first = {0, 3};
  const KvParts stored{blocks(k8), blocks(v8), ranges, first}, wide{k, v, ranges, first};
  DecodeArgs::Row row{.k = own, .v = own, .parts = &stored};
  DecodeArgs args{
      .shape = {.heads = 1, .kv_heads = 1, .head_dim = kDim, .scale = 0.2f}, .q = q, .out = out, .rows = {&row, 1}};
  AttentionDecode(args);
  row.parts = &wide;
  args.out = want;
  AttentionDecode(args);
  for (int c = 0; c < kDim; ++c) EXPECT_NEAR(out(0, c), want(0, c), 1e-5);
}

TEST(DecodePartsTest, RefusesWhatItCannotRead) {
  PartsProblem problem(1, 2, 16, DType::kF32, 50, {3}, 2);
  const auto kind = [&] {
    try {
      AttentionDecode(problem.Args());
    } catch (const Error& error) {
      return error.kind();
    }
    return ErrorKind::kInternal;
  };
  const std::vector<int32_t> all = {0, 1, 1};
  problem.parts[0].first = all;
  for (const KvRange range : {KvRange{-1, 4}, KvRange{4, 4}, KvRange{5, 3}, KvRange{90, 101}}) {
    problem.parts[0].ranges = {&range, 1};
    EXPECT_EQ(kind(), ErrorKind::kUsage) << range.begin;
  }
  const KvRange range{0, 100};
  problem.parts[0].ranges = {&range, 1};
  const std::vector<int32_t> short_first = {0, 1}, unsorted = {0, 2, 1};
  problem.parts[0].first = short_first;
  EXPECT_EQ(kind(), ErrorKind::kUsage);
  problem.parts[0].first = unsorted;
  EXPECT_EQ(kind(), ErrorKind::kUsage);
  problem.parts[0].first = all;
  const std::vector<float> slopes = {0.5f, 0.25f};
  DecodeArgs biased = problem.Args();
  biased.shape.slopes = slopes.data();
  EXPECT_THROW(AttentionDecode(biased), Error);
}

}  // namespace
}  // namespace hawser
