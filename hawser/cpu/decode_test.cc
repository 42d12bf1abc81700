#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/cpu/attention.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/ops/attention_reference.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser {
namespace {

using ::hawser::testing::AttentionTolerance;
using ::hawser::testing::TestMat;

struct Batch {
  Batch(int heads_, int kv_heads_, int dim_, DType dtype, DType stored, std::vector<int> slots, uint64_t seed)
      : heads(heads_),
        kv_heads(kv_heads_),
        dim(dim_),
        q(static_cast<int64_t>(slots.size()), heads * dim, dtype, seed, 1.0, 3),
        out(static_cast<int64_t>(slots.size()), heads * dim, stored, seed + 1, 1.0, 3) {
    keys.reserve(slots.size());
    values.reserve(slots.size());
    for (const int n : slots) {
      keys.emplace_back(n, kv_heads * dim, dtype, seed + 2 + n, 1.0, 5);
      values.emplace_back(n, kv_heads * dim, dtype, seed + 3 + n, 1.0, 7);
      rows.push_back({.k = keys.back(), .v = values.back()});
    }
  }
  DecodeArgs Args() {
    return {.shape = {.heads = heads,
                      .kv_heads = kv_heads,
                      .head_dim = dim,
                      .scale = 1.0f / std::sqrt(static_cast<float>(dim)),
                      .slopes = slopes.empty() ? nullptr : slopes.data(),
                      .softcap = softcap},
            .q = q,
            .out = out,
            .rows = rows};
  }
  void Check(DType stored) {
    AttentionDecode(Args());
    out.ExpectMarginUntouched();
    for (size_t r = 0; r < rows.size(); ++r) {
      NaiveAttention twin{.rows = 1,
                          .keys = keys[r].rows(),
                          .heads = heads,
                          .kv_heads = kv_heads,
                          .dim = dim,
                          .scale = Args().shape.scale,
                          .visible = [](int64_t, int64_t) { return true; },
                          .q = {},
                          .k = keys[r].Values(),
                          .v = values[r].Values(),
                          .softcap = softcap,
                          .slopes = {slopes.begin(), slopes.end()},
                          .distance = [&](int64_t, int64_t key) { return keys[r].rows() - 1 - key; }};
      for (int64_t c = 0; c < q.cols(); ++c) twin.q.push_back(q(static_cast<int64_t>(r), c));
      twin.Forward();
      for (int64_t c = 0; c < q.cols(); ++c) {
        const double want = twin.out[c];
        ASSERT_NEAR(out(static_cast<int64_t>(r), c), want,
                    AttentionTolerance(DType::kF32, stored, dim, 20.0, twin.out_size[c], want))
            << Name(CurrentIsa()) << " row " << r << " of " << keys[r].rows() << " slots, dim " << dim;
      }
    }
  }

  int heads, kv_heads, dim;
  TestMat q, out;
  std::vector<TestMat> keys, values;
  std::vector<DecodeArgs::Row> rows;
  std::vector<float> slopes;
  float softcap = 0;
};

TEST(DecodeTest, MatchesTheTwin) {
  const Isa before = CurrentIsa();
  const int threads = NumThreads();
  SetThreads(1);
  Rng rng{.seed = 4, .stream = 1};
  for (const Isa isa : AvailableIsas()) {
    SetIsa(isa);
    for (const int dim : {1, 2, 6, 8, 12, 16, 24, 40, 64, 80, 100, 128, 256}) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        const int group = 1 + static_cast<int>(rng.Below(6)), kv_heads = 1 + static_cast<int>(rng.Below(3));
        Batch batch(group * kv_heads, kv_heads, dim, dtype, dtype,
                    {1, 17, 128, 130, 1 + static_cast<int>(rng.Below(300))}, rng.Bits());
        batch.Check(dtype);
      }
    }
  }
  SetIsa(before);
  SetThreads(threads);
}

TEST(DecodeTest, LongCachesAreMergedFromPiecesForAnyThreads) {
  Batch batch(6, 3, 64, DType::kBF16, DType::kF32, {2047, 2048, 2049, 5000}, 77);
  const int before = NumThreads();
  SetThreads(1);
  batch.Check(DType::kF32);
  const std::vector<char> one = batch.out.Bytes();
  for (const int threads : {2, 3}) {  // three heads to a piece, two and one, one
    SetThreads(threads);
    AttentionDecode(batch.Args());
    EXPECT_EQ(one, batch.out.Bytes()) << threads;
  }
  SetThreads(1);
  batch.slopes = {0.5f, 1e-3f, 1e-4f, 0.01f, 0.0f, 1.0f};
  batch.softcap = 2.0f;
  batch.Check(DType::kF32);
  SetThreads(before);
}

TEST(DecodeTest, EqualsTheLastRowOfForward) {
  constexpr int kTokens = 300, kHeads = 4, kKvHeads = 2, kDim = 64;
  const float scale = 0.125f;
  TestMat q(kTokens, kHeads * kDim, DType::kF32, 1), k(kTokens, kKvHeads * kDim, DType::kF32, 2),
      v(kTokens, kKvHeads * kDim, DType::kF32, 3), out(kTokens, kHeads * kDim, DType::kF32, 4),
      last(1, kHeads * kDim, DType::kF32, 5);
  TokenLayout layout;
  layout.size = kTokens;
  const AttnSchedule schedule = CompileSchedule(AttnPattern{}, layout);
  const AttnSequence sequence{.query_begin = 0, .key_begin = 0, .schedule = &schedule};
  AttentionForward({.shape = {.heads = kHeads, .kv_heads = kKvHeads, .head_dim = kDim, .scale = scale},
                    .q = q,
                    .k = k,
                    .v = v,
                    .out = out,
                    .lse = nullptr,
                    .sequences = {&sequence, 1}});
  const DecodeArgs::Row row{.k = k, .v = v};
  AttentionDecode({.shape = {.heads = kHeads, .kv_heads = kKvHeads, .head_dim = kDim, .scale = scale},
                   .q = static_cast<ConstMat>(q).Rows(kTokens - 1, 1),
                   .out = last,
                   .rows = {&row, 1}});
  for (int c = 0; c < kHeads * kDim; ++c) EXPECT_NEAR(last(0, c), out(kTokens - 1, c), 1e-6);
}

}  // namespace
}  // namespace hawser
