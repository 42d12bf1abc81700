#include "hawser/infer/prefix_cache.h"

#include <gtest/gtest.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "hawser/device/registry.h"

namespace hawser {
namespace {

class PrefixCacheTest : public ::testing::Test {
 protected:
  std::unique_ptr<KvCache> NewCache() const {
    const KvShape shape{.vocab = 8, .kv_heads = 1, .head_dim = 8, .layers = std::vector<KvLayerShape>(2)};
    return std::make_unique<KvCache>(backend_.get(), shape, KvForm(), std::vector<uint8_t>(), 0);
  }
  static void Feed(KvCache* cache, std::span<const int32_t> ids) {
    const auto count = static_cast<int32_t>(ids.size());
    KvCache::Chunk chunk = cache->Begin(ids, count);
    const Matrix rows(count, 8);
    for (int32_t layer = 0; layer < cache->layers(); ++layer) cache->Append(layer, rows, rows);
    chunk.Commit();
  }
  static std::vector<int32_t> Ids(int64_t count) {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(i * i % 7));
    return ids;
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

TEST_F(PrefixCacheTest, WhatTextsShareIsHeldOnce) {
  const std::vector<int32_t> prefix = Ids(4000);
  const std::unique_ptr<KvCache> read = NewCache();
  Feed(read.get(), prefix);
  PrefixCache kept(2 * read->bytes());  // of copies it would hold one, with its ids
  for (int32_t text = 0; text < 5; ++text) {
    std::unique_ptr<KvCache> cache = read->Fork();
    std::vector<int32_t> ids = prefix;
    ids.push_back(text);
    Feed(cache.get(), std::span(ids).last(1));
    kept.Keep("full", std::move(ids), std::move(cache));
    EXPECT_EQ(kept.size(), static_cast<size_t>(text) + 1);
    EXPECT_LE(kept.bytes(), 2 * read->bytes());
  }
  std::vector<int32_t> ids = prefix;
  for (const int32_t next : {3, 5}) ids.push_back(next);
  const PrefixCache::Hit hit = kept.Find("full", ids);
  EXPECT_EQ(hit.length, 4001);
  ASSERT_NE(hit.cache, nullptr);
  EXPECT_EQ(hit.cache->seen(), 4001);
  // Texts of their own fill the rest, and the oldest go.
  const std::unique_ptr<KvCache> other = NewCache();
  std::vector<int32_t> others(4000, 6);
  Feed(other.get(), others);
  kept.Keep("full", others, other->Fork());
  EXPECT_LT(kept.size(), 6u);
  EXPECT_LE(kept.bytes(), 2 * read->bytes());
  EXPECT_EQ(kept.Find("full", std::vector<int32_t>(4001, 6)).length, 4000);
  kept.Clear();
  EXPECT_EQ(kept.bytes(), 0);
}

}  // namespace
}  // namespace hawser
