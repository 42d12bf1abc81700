// Keys and values in another form than that of queries: Q8_0, BF16 beside F32, and keys that are rotated when read.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <list>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/q8.h"
#include "hawser/cpu/attention.h"
#include "hawser/cpu/elementwise.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/ops/attention_reference.h"
#include "hawser/ops/op_args.h"
#include "hawser/testing/test_mat.h"
#include "hawser/testing/tolerance.h"

namespace hawser {
namespace {

using ::hawser::testing::AttentionTolerance;
using ::hawser::testing::TestMat;

/// Random keys or values, stored, and what they are when read.
class Stored {
 public:
  Stored(int64_t rows, int heads, int dim, DType dtype, uint64_t seed)
      : heads_(heads),
        dim_(dim),
        matrix_(rows, dtype == DType::kQ8_0 ? heads * Q8Bytes(dim) : int64_t{heads} * dim, dtype) {
    const TestMat values(rows, int64_t{heads} * dim, DType::kF32, seed, 1.0, 3);
    dtype == DType::kQ8_0 ? QuantizeMat(values, dim, matrix_) : CopyMat(values, matrix_);
  }
  ConstMat view() const { return matrix_; }
  Matrix& matrix() { return matrix_; }

  /// [rows, heads * dim], rotated in double.
  std::vector<double> Values(const KeyRotation& rotation = {}) const {
    std::vector<double> values;
    for (int64_t r = 0; r < matrix_.rows(); ++r) {
      for (int h = 0; h < heads_; ++h) {
        std::vector<float> head(static_cast<size_t>(dim_));
        if (matrix_.view().dtype == DType::kQ8_0) {
          const auto* row = static_cast<const std::byte*>(matrix_.view().Rows(r, 1).data);
          DequantizeQ8(row + h * Q8Bytes(dim_), dim_, head.data());
        } else {
          for (int c = 0; c < dim_; ++c) head[c] = static_cast<float>(testing::At(matrix_, r, h * dim_ + c));
        }
        std::vector<double> turned(head.begin(), head.end());
        for (int i = 0; i < rotation.half; ++i) {
          const bool adjacent = rotation.pairing == RopePairing::kAdjacent;
          const int a = adjacent ? 2 * i : i, b = adjacent ? 2 * i + 1 : i + rotation.half;
          const double cos = rotation.cos[r * rotation.half + i], sin = rotation.sin[r * rotation.half + i];
          turned[a] = head[a] * cos - head[b] * sin;
          turned[b] = head[b] * cos + head[a] * sin;
        }
        values.insert(values.end(), turned.begin(), turned.end());
      }
    }
    return values;
  }

 private:
  int heads_, dim_;
  Matrix matrix_;
};

class StoredKvTest : public ::testing::Test {
 protected:
  StoredKvTest() { SetThreads(1); }
  ~StoredKvTest() override {
    SetIsa(before_);
    SetThreads(0);
  }

  /// A table of random angles for `rows` rows.
  KeyRotation Rotation(int64_t rows, int32_t half, RopePairing pairing) {
    cos_.resize(static_cast<size_t>(rows * half));
    sin_.resize(cos_.size());
    for (size_t i = 0; i < cos_.size(); ++i) {
      const double angle = 6.28 * rng_.Uniform();
      cos_[i] = static_cast<float>(1.1 * std::cos(angle)), sin_[i] = static_cast<float>(1.1 * std::sin(angle));
    }
    return {.cos = cos_.data(), .sin = sin_.data(), .half = half, .pairing = pairing};
  }
  KeyRotation RandomRotation(int64_t rows, int dim) {
    const auto half = static_cast<int32_t>(rng_.Below(3)) * (dim / 4);  // none, half of the channels, or all
    return Rotation(rows, half, rng_.Below(2) == 0 ? RopePairing::kHalf : RopePairing::kAdjacent);
  }

  /// Scores as they are, biased, capped, or both; with `keys` places of keys, or none.
  AttnShape RandomShape(int heads, int kv_heads, int dim, int64_t keys) {
    slopes_.resize(rng_.Below(2) * static_cast<size_t>(heads));
    for (float& slope : slopes_) slope = 0.3f * static_cast<float>(rng_.Uniform());
    places_.clear();
    int32_t place = 1'000'000'000;
    for (int64_t i = 0; i < keys; ++i) places_.push_back(place += 1 + static_cast<int32_t>(rng_.Below(3)));
    if (rng_.Below(2) == 0) places_.clear();
    return {.heads = heads,
            .kv_heads = kv_heads,
            .head_dim = dim,
            .scale = static_cast<float>(1 / std::sqrt(dim)),
            .slopes = slopes_.empty() ? nullptr : slopes_.data(),
            .softcap = rng_.Below(2) == 0 ? 0.0f : 1.5f};
  }
  const int32_t* Places() const { return places_.empty() ? nullptr : places_.data(); }
  int64_t Place(int64_t key) const { return places_.empty() ? key : places_[static_cast<size_t>(key)]; }

  std::vector<float> slopes_;
  std::vector<int32_t> places_;
  Isa before_ = CurrentIsa();
  Rng rng_{.seed = 12, .stream = 3};
  std::vector<float> cos_, sin_;
};

constexpr int kDims[] = {2, 4, 8, 12, 32, 40, 64, 100, 128, 256};
constexpr DType kStored[] = {DType::kF32, DType::kBF16, DType::kQ8_0};

TEST_F(StoredKvTest, DecodeGivesAHeadTheBitsItHasWithoutThoseThatShareItsKeys) {
  constexpr int kGroup = 9, kSlots = 150;
  for (const Isa isa : AvailableIsas()) {
    SetIsa(isa);
    for (const int dim : {40, 64, 100}) {
      for (const DType stored : kStored) {
        const TestMat q(1, kGroup * dim, DType::kF32, rng_.Bits());
        const Stored k(kSlots, 1, dim, stored, rng_.Bits()), v(kSlots, 1, dim, stored, rng_.Bits());
        const DecodeArgs::Row row{.k = k.view(), .v = v.view()};
        const auto decode = [&](int first, int heads) {
          TestMat out(1, int64_t{heads} * dim, DType::kF32, 1);
          AttentionDecode({.shape = {.heads = heads, .kv_heads = 1, .head_dim = dim, .scale = 0.125f},
                           .q = static_cast<ConstMat>(q).Cols(int64_t{first} * dim, int64_t{heads} * dim),
                           .out = out,
                           .rows = {&row, 1}});
          return out.Values();
        };
        std::vector<double> alone;
        for (int h = 0; h < kGroup; ++h) {
          for (const double value : decode(h, 1)) alone.push_back(value);
        }
        for (int heads = 2; heads <= kGroup; ++heads) {
          const std::vector<double> together = decode(0, heads);
          ASSERT_TRUE(std::equal(together.begin(), together.end(), alone.begin()))
              << Name(isa) << " dim " << dim << " stored " << Name(stored) << " heads " << heads;
        }
      }
    }
  }
}

TEST_F(StoredKvTest, DecodeMatchesTheTwin) {
  for (const Isa isa : AvailableIsas()) {
    SetIsa(isa);
    for (const int dim : kDims) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        for (const DType stored : kStored) {
          const int kv_heads = 1 + static_cast<int>(rng_.Below(3)),
                    heads = kv_heads * (1 + static_cast<int>(rng_.Below(5)));
          const auto slots = static_cast<int64_t>(1 + rng_.Below(200));
          const TestMat q(1, int64_t{heads} * dim, dtype, rng_.Bits(), 1.0, 3);
          TestMat out(1, int64_t{heads} * dim, DType::kF32, 1);
          const Stored k(slots, kv_heads, dim, stored, rng_.Bits()), v(slots, kv_heads, dim, stored, rng_.Bits());
          const AttnShape shape = RandomShape(heads, kv_heads, dim, slots);
          const DecodeArgs::Row row{.k = k.view(),
                                    .v = v.view(),
                                    .rotation = RandomRotation(slots, dim),
                                    .key_place = Places(),
                                    .query_place = static_cast<int32_t>(Place(slots - 1)) + 2};
          const int64_t query_place = Places() == nullptr ? slots - 1 : row.query_place;
          const double scale = 1 / std::sqrt(dim);
          AttentionDecode({.shape = shape, .q = q, .out = out, .rows = {&row, 1}});
          NaiveAttention twin{.rows = 1,
                              .keys = slots,
                              .heads = heads,
                              .kv_heads = kv_heads,
                              .dim = dim,
                              .scale = scale,
                              .visible = [](int64_t, int64_t) { return true; },
                              .q = q.Values(),
                              .k = k.Values(row.rotation),
                              .v = v.Values(),
                              .softcap = shape.softcap,
                              .slopes = {slopes_.begin(), slopes_.end()},
                              .distance = [&](int64_t, int64_t key) { return query_place - Place(key); }};
          twin.Forward();
          for (int64_t c = 0; c < q.cols(); ++c) {
            ASSERT_NEAR(out(0, c), twin.out[c],
                        AttentionTolerance(DType::kF32, DType::kF32, dim, 20.0, twin.out_size[c], twin.out[c]))
                << Name(isa) << " dim " << dim << " stored " << Name(stored) << " half " << row.rotation.half;
          }
        }
      }
    }
  }
}

TEST_F(StoredKvTest, ForwardMatchesTheTwinUnderPatterns) {
  const AttnPattern patterns[] = {
      {}, {.window = 9}, {.window = 17, .sinks = 3}, {.window = 5, .sinks = 2, .separators = true}};
  for (const Isa isa : AvailableIsas()) {
    SetIsa(isa);
    for (const int dim : kDims) {
      for (const DType dtype : {DType::kF32, DType::kBF16}) {
        for (const DType stored : kStored) {
          const AttnPattern& pattern = patterns[rng_.Below(std::size(patterns))];
          const int kv_heads = 1 + static_cast<int>(rng_.Below(2)),
                    heads = kv_heads * (1 + static_cast<int>(rng_.Below(3)));
          const auto keys = static_cast<int32_t>(20 + rng_.Below(100));
          const auto queries = static_cast<int32_t>(1 + rng_.Below(static_cast<uint64_t>(keys)));
          TokenLayout layout;
          layout.size = keys;
          for (int32_t i = 0; i < keys; ++i) {
            layout.index.push_back(i);
            layout.is_separator.push_back(rng_.Below(4) == 0);
          }
          const AttnSchedule schedule = CompileSchedule(pattern, layout, queries);
          const AttnSequence sequence{.schedule = &schedule};
          const TestMat q(queries, int64_t{heads} * dim, dtype, rng_.Bits(), 1.0, 3);
          TestMat out(queries, int64_t{heads} * dim, DType::kF32, 1);
          const Stored k(keys, kv_heads, dim, stored, rng_.Bits()), v(keys, kv_heads, dim, stored, rng_.Bits());
          const KeyRotation rotation = RandomRotation(keys, dim);
          const double scale = 1 / std::sqrt(dim);
          const AttnShape shape = RandomShape(heads, kv_heads, dim, keys);
          AttentionForward({.shape = shape,
                            .q = q,
                            .k = k.view(),
                            .v = v.view(),
                            .out = out,
                            .sequences = {&sequence, 1},
                            .rotation = rotation,
                            .query_place = Places() == nullptr ? nullptr : Places() + keys - queries,
                            .key_place = Places()});
          NaiveAttention twin{
              .rows = queries,
              .keys = keys,
              .heads = heads,
              .kv_heads = kv_heads,
              .dim = dim,
              .scale = scale,
              .visible =
                  [&](int64_t row, int64_t key) {
                    return Visible(pattern, layout, static_cast<int32_t>(keys - queries + row),
                                   static_cast<int32_t>(key));
                  },
              .q = q.Values(),
              .k = k.Values(rotation),
              .v = v.Values(),
              .softcap = shape.softcap,
              .slopes = {slopes_.begin(), slopes_.end()},
              .distance = [&](int64_t row, int64_t key) { return Place(keys - queries + row) - Place(key); }};
          twin.Forward();
          // BF16 products take keys rounded to BF16, which moves a score by a unit of each of its terms.
          const DType operands = GetTileKernels(isa, dtype).dtype;
          const bool rounded = operands == DType::kBF16;
          for (int64_t r = 0; r < queries; ++r) {
            for (int64_t c = 0; c < q.cols(); ++c) {
              const size_t at = static_cast<size_t>(r * q.cols() + c);
              const double bound =
                  AttentionTolerance(operands, DType::kF32, dim, 20.0, twin.out_size[at], twin.out[at]) +
                  (rounded ? 8 * testing::RoundingUnit(DType::kBF16) * twin.out_size[at] : 0);
              ASSERT_NEAR(out(r, c), twin.out[at], bound)
                  << Name(isa) << " dim " << dim << " stored " << Name(stored) << " half " << rotation.half;
            }
          }
        }
      }
    }
  }
}

TEST_F(StoredKvTest, ThreadsDoNotMatter) {
  constexpr int kHeads = 4, kDim = 64;
  constexpr int64_t kSlots = 5000;
  const TestMat q(1, kHeads * kDim, DType::kF32, 5);
  const Stored k(kSlots, kHeads, kDim, DType::kQ8_0, 6), v(kSlots, kHeads, kDim, DType::kQ8_0, 7);
  const DecodeArgs::Row row{.k = k.view(), .v = v.view(), .rotation = Rotation(kSlots, kDim / 2, RopePairing::kHalf)};
  std::vector<std::vector<char>> results;
  for (const int threads : {1, 2}) {
    SetThreads(threads);
    TestMat out(1, kHeads * kDim, DType::kF32, 1);
    AttentionDecode({.shape = {.heads = kHeads, .kv_heads = kHeads, .head_dim = kDim, .scale = 0.125f},
                     .q = q,
                     .out = out,
                     .rows = {&row, 1}});
    results.push_back(out.Bytes());
  }
  EXPECT_EQ(results[0], results[1]);
}

TEST_F(StoredKvTest, ABlockThatIsNotFiniteShows) {
  Stored k(20, 1, 40, DType::kQ8_0, 1);
  const Stored v(20, 1, 40, DType::kQ8_0, 2);
  TestMat bad(1, 40, DType::kF32, 3);
  bad.Put(0, 35, std::numeric_limits<double>::infinity());  // in the short block
  QuantizeMat(bad, 40, k.matrix().view().Rows(7, 1));
  const TestMat q(1, 40, DType::kF32, 4);
  for (const Isa isa : AvailableIsas()) {
    SetIsa(isa);
    TestMat out(1, 40, DType::kF32, 5);
    const DecodeArgs::Row row{.k = k.view(), .v = v.view()};
    AttentionDecode(
        {.shape = {.heads = 1, .kv_heads = 1, .head_dim = 40, .scale = 1.0f}, .q = q, .out = out, .rows = {&row, 1}});
    EXPECT_TRUE(std::isnan(out(0, 0))) << Name(isa);
  }
}

TEST_F(StoredKvTest, WrongShapesAreNamed) {
  const Stored k(4, 2, 16, DType::kQ8_0, 1);
  const TestMat q(1, 32, DType::kF32, 4);
  TestMat out(1, 32, DType::kF32, 5);
  DecodeArgs::Row row{.k = k.view(), .v = k.view()};
  const DecodeArgs args{
      .shape = {.heads = 2, .kv_heads = 2, .head_dim = 16, .scale = 1.0f}, .q = q, .out = out, .rows = {&row, 1}};
  EXPECT_NO_THROW(AttentionDecode(args));
  row.k = k.view().Cols(0, 32);
  EXPECT_THROW(AttentionDecode(args), Error);
  row.k = k.view();
  row.rotation.half = 4;
  EXPECT_THROW(AttentionDecode(args), Error);  // no table
  row.rotation.half = 9;
  EXPECT_THROW(AttentionDecode(args), Error);
  Matrix to(4, 35, DType::kQ8_0);
  EXPECT_THROW(ValidateQuantize(q, 16, to), Error);
  EXPECT_THROW(ValidateQuantize(q, 17, to), Error);
}

/// The rows of a matrix in pages that lie anywhere, behind other rows of each page.
class InPages {
 public:
  InPages(ConstMat rows, int64_t before) {
    const int64_t bytes = rows.ld * static_cast<int64_t>(SizeOf(rows.dtype));
    rows_.m = rows;
    rows_.offset = before * bytes;
    for (int64_t first = 0; first < rows.rows; first += KvRows::kPage) {
      const int64_t count = std::min(KvRows::kPage, rows.rows - first);
      std::vector<std::byte>& page = memory_.emplace_back(static_cast<size_t>((before + KvRows::kPage) * bytes));
      std::memcpy(page.data() + rows_.offset, rows.Rows(first, count).data, static_cast<size_t>(count * bytes));
      pages_.push_back(page.data());
    }
    rows_.m.data = static_cast<const std::byte*>(pages_[0]) + rows_.offset;
    rows_.pages = pages_.data();
  }
  const KvRows& rows() const { return rows_; }

 private:
  KvRows rows_;
  std::list<std::vector<std::byte>> memory_;
  std::vector<const void*> pages_;
};

TEST_F(StoredKvTest, RowsInPagesGiveTheSameBits) {
  constexpr int kHeads = 4, kKvHeads = 2, kDim = 40;
  const std::vector<SoftmaxSpec> softmaxes = {{}, ParseSoftmax("self-adjust")};
  for (const Isa isa : AvailableIsas()) {
    SetIsa(isa);
    for (const DType stored : kStored) {
      for (const int64_t slots : {1, 255, 256, 257, 2500}) {
        const Stored k(slots, kKvHeads, kDim, stored, rng_.Bits()), v(slots, kKvHeads, kDim, stored, rng_.Bits());
        const InPages k_pages(k.view(), 3), v_pages(v.view(), 5);
        for (const SoftmaxSpec& softmax : softmaxes) {
          const bool standard = softmax == SoftmaxSpec();
          AttnShape shape = RandomShape(kHeads, kKvHeads, kDim, slots);
          if (!standard) shape.slopes = nullptr, shape.softcap = 0;
          shape.softmax = softmax;
          const KeyRotation rotation = RandomRotation(slots, kDim);
          const auto same = [&](const std::vector<double>& one, const std::vector<double>& other) {
            for (size_t i = 0; i < one.size(); ++i) {
              // Blocks of the other softmax begin where runs do, or pages.
              ASSERT_NEAR(one[i], other[i], standard ? 0 : 1e-4) << slots;
            }
          };
          const TestMat q(1, kHeads * kDim, DType::kF32, rng_.Bits(), 1.0, 3);
          TestMat out(1, kHeads * kDim, DType::kF32, 1), paged(1, kHeads * kDim, DType::kF32, 1);
          DecodeArgs::Row row{.k = k.view(),
                              .v = v.view(),
                              .rotation = rotation,
                              .key_place = Places(),
                              .query_place = static_cast<int32_t>(Place(slots - 1))};
          AttentionDecode({.shape = shape, .q = q, .out = out, .rows = {&row, 1}});
          row.k = k_pages.rows(), row.v = v_pages.rows();
          AttentionDecode({.shape = shape, .q = q, .out = paged, .rows = {&row, 1}});
          same(out.Values(), paged.Values());

          const int32_t queries = static_cast<int32_t>(std::min<int64_t>(slots, 70));
          const AttnSchedule schedule =
              CompileSchedule({.window = 90, .sinks = 3}, {.size = static_cast<int32_t>(slots)}, queries);
          const AttnSequence sequence{.schedule = &schedule};
          const TestMat many(queries, kHeads * kDim, DType::kF32, rng_.Bits(), 1.0, 3);
          TestMat all(queries, kHeads * kDim, DType::kF32, 1), all_paged(queries, kHeads * kDim, DType::kF32, 1);
          std::vector<int32_t> query_places;
          for (int64_t i = slots - queries; i < slots; ++i) query_places.push_back(static_cast<int32_t>(Place(i)));
          AttentionArgs args{.shape = shape,
                             .q = many,
                             .k = k.view(),
                             .v = v.view(),
                             .out = all,
                             .sequences = {&sequence, 1},
                             .rotation = rotation,
                             .query_place = Places() == nullptr ? nullptr : query_places.data(),
                             .key_place = Places()};
          AttentionForward(args);
          args.k = k_pages.rows(), args.v = v_pages.rows(), args.out = all_paged;
          AttentionForward(args);
          same(all.Values(), all_paged.Values());
        }
      }
    }
  }
  // Pages hold one sequence, from its first row on.
  const Stored k(300, 1, 8, DType::kF32, 1);
  const InPages pages(k.view(), 0);
  const AttnSchedule schedule = CompileSchedule({}, {.size = 10});
  const AttnSequence later{.key_begin = 20, .schedule = &schedule};
  const TestMat q(10, 8, DType::kF32, 2);
  TestMat out(10, 8, DType::kF32, 2);
  EXPECT_THROW(AttentionForward({.shape = {.heads = 1, .kv_heads = 1, .head_dim = 8, .scale = 1.0f},
                                 .q = q,
                                 .k = pages.rows(),
                                 .v = pages.rows(),
                                 .out = out,
                                 .sequences = {&later, 1}}),
               Error);
}

}  // namespace
}  // namespace hawser
