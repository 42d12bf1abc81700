// What a cache holds after it was rolled back, forked, truncated or emptied (testing/fed_cache.h).
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "hawser/testing/fed_cache.h"

namespace hawser {
namespace {

/// Everything that a cache holds: slots, rows, rotations and figures.
struct Contents {
  explicit Contents(const KvCache& cache) : seen(cache.seen()), separators(cache.separators_seen()) {
    for (int32_t layer = 0; layer < cache.layers(); ++layer) {
      slots.emplace_back(cache.slots(layer).begin(), cache.slots(layer).end());
      Add(cache.Keys(layer));
      Add(cache.Values(layer));
      means.push_back(cache.usage(layer).mean);
      const KeyRotation rotation = cache.rotation(layer);
      const auto table = cache.slots(layer).size() * static_cast<size_t>(rotation.half);
      if (rotation.half > 0) rotations.insert(rotations.end(), rotation.cos, rotation.cos + table);
    }
  }
  bool operator==(const Contents&) const = default;

  int64_t seen, separators;
  std::vector<std::vector<SlotInfo>> slots;
  std::vector<std::byte> rows;
  std::vector<double> means;
  std::vector<float> rotations;

 private:
  void Add(const KvRows& from) {
    for (int64_t r = 0; r < from.rows(); ++r) {
      const ConstMat row = from.Run(r, 1);
      const auto* data = static_cast<const std::byte*>(row.data);
      rows.insert(rows.end(), data, data + row.cols * static_cast<int64_t>(SizeOf(row.dtype)));
    }
  }
};

TEST_F(KvCacheTest, AChunkThatIsRolledBackLeavesTheSameBytes) {
  for (const std::string policy : kPolicies) {
    for (const char* dtype : {"", "dtype=q8_0"}) {
      const std::string text = WithOption(policy, dtype);
      FedCache fed(backend_.get(), spec_, text), plain(backend_.get(), spec_, text);
      Rng rng{.seed = 5, .stream = 2};
      while (fed.cache().seen() < 300) {
        const auto n = static_cast<int32_t>(1 + rng.Below(40));
        // What a policy drops before any token that comes is dropped for this one.
        const bool trims = policy.find("policy=full") != std::string::npos;
        const Contents before(fed.cache());
        fed.RollBack(n, n);
        if (!trims) {
          ASSERT_EQ(Contents(fed.cache()), before) << text << " at " << fed.cache().seen();
        }
        const Contents once(fed.cache());
        fed.RollBack(n, 1);
        ASSERT_EQ(Contents(fed.cache()), once) << text << " at " << fed.cache().seen();
        const int32_t took = fed.Chunk(n, n);
        ASSERT_EQ(plain.Chunk(n, n), took);
        ASSERT_EQ(Contents(fed.cache()), Contents(plain.cache())) << text << " at " << fed.cache().seen();
      }
    }
  }
}

TEST_F(KvCacheTest, ARollbackTakesBackLongerFrequenciesToo) {
  spec_.rope.scaling = {.kind = RopeKind::kDynamic, .factor = 4, .original = 8};
  for (const char* policy : {"full", "full:dtype=q8_0", "window:30", "sep-stream:2,3,4,14"}) {
    FedCache fed(backend_.get(), spec_, policy, DType::kF32, 0.2, 0);
    while (fed.cache().seen() < 40) {
      const Contents before(fed.cache());
      fed.RollBack(20, 20);
      ASSERT_EQ(Contents(fed.cache()), before) << policy << " at " << fed.cache().seen();
      fed.Chunk(3, 3);
    }
  }
}

TEST_F(KvCacheTest, ForksThatDivergeAreCachesFedApart) {
  for (const std::string policy : kPolicies) {
    for (const int64_t shared : {1, 90, 256, 300}) {
      FedCache apart(backend_.get(), spec_, policy), fed(backend_.get(), spec_, policy);
      while (fed.cache().seen() < shared) fed.Chunk(shared - fed.cache().seen(), 50);
      while (apart.cache().seen() < shared) apart.Chunk(shared - apart.cache().seen(), 50);
      FedCache fork = fed.Fork(shared);
      const std::array<FedCache*, 3> all = {&fed, &fork, &apart};
      for (int round = 0; round < 40; ++round) {
        fork.Salt(round / 7);  // other tokens come to it in some rounds
        for (FedCache* one : all) one->Chunk(1 + round % 9, 9);
      }
      EXPECT_EQ(Contents(fed.cache()), Contents(apart.cache())) << policy << " after " << shared;
      fork.Chunk(1, 1, [](FedCache& f) { f.Check(); });
    }
  }
}

TEST_F(KvCacheTest, MemoryOfManyForksIsThatOfTheirPrefix) {
  FedCache fed(backend_.get(), spec_, "full");
  while (fed.cache().seen() < 2000) fed.Chunk(2000 - fed.cache().seen(), 500);
  std::vector<std::unique_ptr<KvCache>> forks;
  std::vector<const KvCache*> all = {&fed.cache()};
  for (int i = 0; i < 16; ++i) {
    forks.push_back(fed.cache().Fork(2000 - 7 * i));
    all.push_back(forks.back().get());
  }
  EXPECT_EQ(HeldBytes(all), fed.cache().bytes());
  const int64_t page = KvRows::kPage * fed.cache().row_bytes() * spec_.layers;
  for (const auto& fork : forks) {
    KvCache::Chunk chunk = fork->Begin(std::vector<int32_t>{1}, 1);
    const Matrix rows(1, fed.width());
    for (int32_t layer = 0; layer < spec_.layers; ++layer) fork->Append(layer, rows, rows);
    chunk.Commit();
  }
  EXPECT_EQ(HeldBytes(all), fed.cache().bytes() + 16 * page);
}

TEST_F(KvCacheTest, TruncatedIsNeverHavingHadTheTail) {
  for (const char* policy : {"full", "full:dtype=q8_0", "full:dtype=bf16", "sink:3,700", "window:700"}) {
    FedCache fed(backend_.get(), spec_, policy), plain(backend_.get(), spec_, policy);
    for (const int64_t stop : {0, 3, 255, 256, 257, 511, 600}) {
      while (fed.cache().seen() < stop) fed.Chunk(stop - fed.cache().seen(), 100);
      while (plain.cache().seen() < stop) plain.Chunk(stop - plain.cache().seen(), 100);
      fed.Salt(1);
      fed.Chunk(90, 90);
      fed.Salt(0);
      ASSERT_TRUE(fed.Truncate(stop)) << policy;
      Contents got(fed.cache()), want(plain.cache());
      got.means = want.means = {};  // figures count what came
      ASSERT_EQ(got, want) << policy << " at " << stop;
    }
  }
  FedCache dropped(backend_.get(), spec_, "window:9");
  dropped.Chunk(30, 30);
  EXPECT_FALSE(dropped.Truncate(20));
  EXPECT_EQ(dropped.cache().seen(), 30);
}

TEST_F(KvCacheTest, ResetForgetsEverything) {
  for (const char* policy : kPolicies) {
    FedCache fed(backend_.get(), spec_, policy), fresh(backend_.get(), spec_, policy);
    while (fed.cache().seen() < 77) fed.Chunk(7, 7);
    fed.cache().Reset();
    EXPECT_EQ(fed.cache().seen(), 0);
    EXPECT_EQ(fed.cache().slots().size(), 0u);
    while (fed.cache().seen() < 61) {
      fed.Chunk(1, 1);
      fresh.Chunk(1, 1);
    }
    EXPECT_EQ(fed.cache().usage().mean, fresh.cache().usage().mean);
    const ConstMat a = fed.cache().Keys(1).m, b = fresh.cache().Keys(1).m;  // of fewer slots than a page
    ASSERT_EQ(a.rows, b.rows);
    for (int64_t i = 0; i < a.rows * a.cols; ++i) ASSERT_EQ(a.Row<float>(0)[i], b.Row<float>(0)[i]) << policy;
  }
}

}  // namespace
}  // namespace hawser
