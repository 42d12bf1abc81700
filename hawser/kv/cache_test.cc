// The cache alone: which rows it holds, how they are rotated, and what it counts (testing/fed_cache.h).
#include "hawser/kv/cache.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/kv/report.h"
#include "hawser/testing/fed_cache.h"

namespace hawser {
namespace {

/// Every row, checked after each of many chunks of at most `most` tokens.
void ExpectRows(Backend* backend, const CacheSpec& spec, const std::string& policy, int32_t most) {
  FedCache fed(backend, spec, policy);
  Rng rng{.seed = 3, .stream = static_cast<uint64_t>(most)};
  while (fed.cache().seen() < 150 && !::testing::Test::HasFatalFailure()) {
    fed.Chunk(20, 1 + static_cast<int32_t>(rng.Below(most)), [](FedCache& f) { f.Check(); });
  }
}

TEST_F(KvCacheTest, E11_RowsAreThoseOfTheSlotsFreshlyRotated) {
  for (const char* policy : kPolicies) {
    for (int32_t most : {1, 13}) {
      for (const char* dtype : {"", "dtype=bf16", "dtype=q8_0"})
        ExpectRows(backend_.get(), spec_, WithOption(policy, dtype), most);
    }
  }
}

TEST_F(KvCacheTest, SinksTakeLongChunks) {
  // Ranks by two queries: no key moves, however long the chunk.
  for (const char* policy : {"sink:3,60", "sink:0,60", "window:60,positions=rank", "sink:3,60,dtype=q8_0"}) {
    FedCache fed(backend_.get(), spec_, policy);
    fed.Chunk(100, 100);
    for (int i = 0; i < 4; ++i) {
      const int32_t n = fed.Chunk(2000, 2000, [](FedCache& f) { f.Check(); });
      EXPECT_EQ(n, 512) << policy;
    }
    EXPECT_TRUE(fed.cache().groups()[0].two_phases());
    EXPECT_EQ(static_cast<int64_t>(fed.cache().slots().size()),
              fed.cache().policy().initial() + fed.cache().policy().Pattern().window - 1);
  }
  // Rotations that are rounded by the size of positions stay at small ones.
  spec_.rope.numerics.table = FloatFormat::kBF16;
  FedCache rounded(backend_.get(), spec_, "sink:3,60");
  EXPECT_FALSE(rounded.cache().groups()[0].two_phases());
  rounded.Chunk(100, 100);
  EXPECT_EQ(rounded.Chunk(2000, 2000), 1);
  // Frequencies that follow the stream stay what they are where no rank reaches beyond the first of them.
  spec_.rope.numerics = {};
  for (const auto& [original, chunk] : {std::pair(64, 512), {63, 1}}) {
    spec_.rope.scaling = {.kind = RopeKind::kDynamic, .factor = 4, .original = original};
    FedCache dynamic(backend_.get(), spec_, "sink:3,60", DType::kF32, 0.2, 0);
    dynamic.Chunk(32, 32);
    while (dynamic.cache().seen() < 100) dynamic.Chunk(1, 1);
    EXPECT_EQ(dynamic.Chunk(2000, 2000), chunk) << original;
    EXPECT_EQ(dynamic.cache().groups()[0].grows(), chunk == 1);
  }
}

TEST_F(KvCacheTest, PartialRotationPairingAndDtype) {
  spec_.rope.rotary_dim = 6;
  for (RopePairing pairing : {RopePairing::kHalf, RopePairing::kAdjacent}) {
    spec_.rope.pairing = pairing;
    for (DType dtype : {DType::kF32, DType::kBF16}) {
      for (const char* policy :
           {"sep-stream:2,3,4,14", "sep-stream:2,3,4,14,dtype=q8_0", "sink:3,7", "sink:3,7,dtype=q8_0"}) {
        FedCache fed(backend_.get(), spec_, policy, dtype);
        while (fed.cache().seen() < 100 && !HasFatalFailure()) fed.Chunk(5, 5, [](FedCache& f) { f.Check(); });
      }
    }
  }
}

TEST_F(KvCacheTest, PromptsFreeWhatNoOneCanSee) {
  // After every chunk of a prompt exactly what the next token sees is left, so memory follows the kept keys.
  for (const char* policy : {"sep:2,64", "sink:3,60,positions=absolute", "window:64", "fix:2,64,20"}) {
    FedCache fed(backend_.get(), spec_, policy, DType::kF32, 0.05);
    const AttnPattern pattern = fed.cache().policy().Pattern();
    int64_t most = 0;
    while (fed.cache().seen() < 6000) {
      fed.Chunk(6000 - fed.cache().seen(), 1024,
                [&](FedCache& f) { most = std::max(most, static_cast<int64_t>(f.cache().slots().size())); });
      const int64_t next = fed.cache().seen();
      for (const SlotInfo& slot : fed.cache().slots()) {
        ASSERT_TRUE(next - slot.index < pattern.window || Pinned(pattern, slot)) << policy;
      }
    }
    const int64_t kept = fed.cache().usage().final;
    EXPECT_LE(most, kept + 512) << policy;
    EXPECT_LT(kept, 64 + 6000 / 10) << policy;
    const int64_t row = 2 * spec_.layers * fed.width() * 4;
    EXPECT_LE(fed.cache().bytes(), (2 * most + 16) * row) << policy;
  }
}

TEST_F(KvCacheTest, LayersWithTheSamePolicyShareSlots) {
  spec_ = CacheSpec{.layers = 5, .kv_heads = 2, .head_dim = 8};
  FedCache fed(backend_.get(), spec_, "sep:2,6+9+6+all+9,full-layers=0");
  while (fed.cache().seen() < 200) fed.Chunk(200 - fed.cache().seen(), 30);
  const KvCache& cache = fed.cache();
  EXPECT_EQ(cache.slots(0).size(), 200u);
  EXPECT_EQ(cache.slots(3).data(), cache.slots(0).data());
  EXPECT_EQ(cache.slots(1).data(), cache.slots(4).data());
  EXPECT_EQ(cache.slots(1).size(),
            cache.slots(2).size() + 3 - std::ranges::count_if(cache.slots(1), [&](const SlotInfo& s) {
              return s.separator && s.index >= 200 - 8 && s.index < 200 - 5;
            }));
  for (int32_t layer = 0; layer < 5; ++layer) {
    const auto slots = cache.slots(layer);
    ASSERT_EQ(cache.Values(layer).rows(), static_cast<int64_t>(slots.size()));
    for (size_t r = 0; r < slots.size(); ++r) {
      ASSERT_EQ(cache.Values(layer).Run(static_cast<int64_t>(r), 1).Row<float>(0)[3],
                FedCache::Element(layer + 100, slots[r].index, 3));
    }
  }
  const KvUsage all = cache.usage();
  EXPECT_EQ(all.final, 200);
  EXPECT_EQ(all.peak, 200);
  int64_t stored = 0, peaks = 0;
  for (int32_t layer = 0; layer < 5; ++layer) {
    stored += static_cast<int64_t>(cache.slots(layer).size());
    peaks += cache.usage(layer).peak;
  }
  EXPECT_DOUBLE_EQ(all.final_mean, static_cast<double>(stored) / 5);
  EXPECT_DOUBLE_EQ(all.final_mean, 200 * all.final_ratio);
  EXPECT_DOUBLE_EQ(all.peak_mean, static_cast<double>(peaks) / 5);
  EXPECT_DOUBLE_EQ(KvReportJson(cache)["final_mean"], all.final_mean);
  const std::string text = KvReportText(cache);
  EXPECT_NE(text.find(fmt::format("at the end {:g} of 200 slots ({:.1f} %)", all.final_mean, all.final_mean / 2)),
            std::string::npos)
      << text;
  EXPECT_NE(text.find("the layer that holds most: peak 200, at the end 200"), std::string::npos) << text;
  EXPECT_DOUBLE_EQ(all.mean, (2 * cache.usage(0).mean + 2 * cache.usage(1).mean + cache.usage(2).mean) / 5);
  EXPECT_DOUBLE_EQ(cache.usage(1).final_ratio, static_cast<double>(cache.slots(1).size()) / 200);
  EXPECT_THROW(FedCache(backend_.get(), spec_, "sep:2,6+9"), Error);
  EXPECT_THROW(FedCache(backend_.get(), spec_, "window:3,full-layers=5"), Error);
}

TEST_F(KvCacheTest, LongStreamsNeitherDriftNorGrow) {
  // A stored key is never rotated again from its rotated form, and what is bounded stays where it is.
  for (const char* policy : {"sink:3,20", "sep-stream:2,3,10,40", "window:30", "sep-stream:2,3,10,40,policy=full",
                             "window:30,dtype=q8_0", "sep-stream:2,3,10,40,dtype=q8_0"}) {
    FedCache fed(backend_.get(), spec_, policy);
    while (fed.cache().seen() < 200) fed.Chunk(1, 1);
    const int64_t bytes = fed.cache().bytes();
    while (fed.cache().seen() < 5000) fed.Chunk(1, 1);
    fed.Chunk(1, 1, [](FedCache& f) { f.Check(); });
    EXPECT_EQ(fed.cache().bytes(), bytes) << policy;
    const bool rank = fed.cache().policy().positions() == KvPositions::kRank;
    const bool blocks = fed.cache().stored() == DType::kQ8_0;  // one of keys, and what they are rotated by
    const int64_t row = blocks ? spec_.layers * fed.cache().row_bytes() + (rank ? 4 * spec_.rope.rotary_dim : 0)
                               : (rank ? 3 : 2) * spec_.layers * fed.width() * 4;
    const int64_t lines = int64_t{3} * spec_.layers * 64;  // tensors begin at lines
    EXPECT_LE(bytes, (fed.cache().policy().MaxSlots() * 5 / 4 + 16) * row + lines) << policy;
  }
}

TEST_F(KvCacheTest, E4_ChunkedEqualsTokenByToken) {
  for (const char* policy : kPolicies) {
    for (uint64_t seed = 0; seed < 8; ++seed) {
      FedCache one(backend_.get(), spec_, policy), many(backend_.get(), spec_, policy);
      Rng rng{.seed = seed, .stream = 6};
      while (many.cache().seen() < 120) {
        many.Chunk(40, 1 + static_cast<int32_t>(rng.Below(30)));
        while (one.cache().seen() < many.cache().seen()) one.Chunk(1, 1);
        const auto a = one.cache().slots(), b = many.cache().slots();
        ASSERT_TRUE(std::equal(a.begin(), a.end(), b.begin(), b.end())) << policy << " at " << one.cache().seen();
        ASSERT_EQ(one.cache().usage().mean, many.cache().usage().mean) << policy;
        ASSERT_EQ(one.cache().usage().peak, many.cache().usage().peak) << policy;
        ASSERT_EQ(one.cache().usage().ratio, many.cache().usage().ratio) << policy;
      }
    }
  }
}

TEST_F(KvCacheTest, UsageIsTheMeanOfTheStoredSizes) {
  FedCache full(backend_.get(), spec_, "full");
  while (full.cache().seen() < 10) full.Chunk(10 - full.cache().seen(), 7);
  EXPECT_DOUBLE_EQ(full.cache().usage().mean, 5.5);
  EXPECT_EQ(full.cache().usage().peak, 10);
  EXPECT_DOUBLE_EQ(full.cache().usage().ratio, 1.0);

  // Every token a separator: from t = c on, sizes run through a+s+w .. c, and their mean is (a+s+w+c)/2.
  FedCache stream(backend_.get(), spec_, "sep-stream:2,3,4,14", DType::kF32, 1.0);
  while (stream.cache().seen() < 3014) stream.Chunk(3014 - stream.cache().seen(), 100);
  const double warm_up = 14 * 15 / 2, periods = 3000 * (9 + 14) / 2.0;
  EXPECT_DOUBLE_EQ(stream.cache().usage().mean, (warm_up + periods) / 3014);
  EXPECT_EQ(stream.cache().usage().peak, 14);
  EXPECT_DOUBLE_EQ(stream.cache().usage().ratio, (warm_up + periods) / (3014.0 * 3015 / 2));
}

TEST_F(KvCacheTest, OneTokenNeedsNoSchedule) {
  for (const char* policy : kPolicies) {
    FedCache fed(backend_.get(), spec_, policy);
    for (int i = 0; i < 60; ++i) {
      const int32_t n = fed.Chunk(1 + i % 3, 3, [&](FedCache& f) {
        const AttnSchedule& schedule = f.cache().schedule();
        if (!f.cache().needs_schedule()) return;
        EXPECT_EQ(schedule.num_keys, static_cast<int32_t>(f.cache().slots().size()));
      });
      EXPECT_LE(n, 3);
      fed.Chunk(1, 1, [&](FedCache& f) { EXPECT_FALSE(f.cache().needs_schedule()) << policy; });
    }
  }
  spec_.sliding_window = 4;  // the model's own window hides what the policy keeps
  FedCache fed(backend_.get(), spec_, "full");
  for (int i = 0; i < 10; ++i) {
    fed.Chunk(1, 1, [&](FedCache& f) { EXPECT_EQ(f.cache().needs_schedule(), i >= 4) << i; });
  }
}

TEST_F(KvCacheTest, BytesAreThoseOfTheStoredDType) {
  spec_ = CacheSpec{.layers = 3, .kv_heads = 2, .head_dim = 40};  // a block of 32 and one of 8: 34 + 10 bytes
  for (const auto& [policy, row] : {std::pair("full", 2 * 2 * 40 * 4), std::pair("full:dtype=bf16", 2 * 2 * 40 * 2),
                                    std::pair("full:dtype=q8_0", 2 * 2 * (34 + 10))}) {
    FedCache fed(backend_.get(), spec_, policy);
    while (fed.cache().seen() < 100) fed.Chunk(1, 1);
    EXPECT_EQ(fed.cache().row_bytes(), row) << policy;
    EXPECT_EQ(KvReportJson(fed.cache())["peak_bytes"], 3 * 100 * row) << policy;
    EXPECT_EQ(fed.cache().bytes() % (3 * row), 0) << policy;
    EXPECT_GE(fed.cache().bytes(), 3 * 100 * row) << policy;
  }
}

TEST_F(KvCacheTest, MistakesAreNamed) {
  const auto make = [&](size_t flags, DType dtype) {
    return NewCacheOf(backend_.get(), spec_, "full", std::vector<uint8_t>(flags), dtype, 100);
  };
  EXPECT_THROW(make(3, DType::kF32), Error);
  EXPECT_THROW(make(0, DType::kF16), Error);
  KvCache cache = make(0, DType::kF32);
  spec_.rope.numerics.math = FloatFormat::kBF16;
  EXPECT_THROW(FedCache(backend_.get(), spec_, "full:dtype=q8_0"), Error);
  for (int32_t token : {-1, spec_.vocab, std::numeric_limits<int32_t>::max()}) {
    EXPECT_THROW(cache.Begin(std::vector<int32_t>{0, token}, 2), Error);
  }
  EXPECT_EQ(cache.Begin(std::vector<int32_t>{0, spec_.vocab - 1}, 2).size(), 2);
}

}  // namespace
}  // namespace hawser
