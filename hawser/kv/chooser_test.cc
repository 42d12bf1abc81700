// Which keys stay where queries choose: the cache alone, shown queries that are no model's.
#include "hawser/kv/chooser.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/kv/cache.h"
#include "hawser/kv/chooser_golden.h"
#include "hawser/testing/hostile.h"

namespace hawser {
namespace {

constexpr int32_t kVocab = 64;

/// Of a stream of numbers, by a hash: the twin of rows() in scripts/goldens/choosers.py.
float GoldenValue(uint64_t stream, uint64_t token, uint64_t column) {
  constexpr uint64_t kMask = 0xffffffff;
  uint64_t h = (stream * 1009 + token) * 1009 + column;
  h = (h * 2654435761) & kMask;
  h = ((h ^ (h >> 15)) * 2246822519) & kMask;
  h = ((h ^ (h >> 13)) * 3266489917) & kMask;
  h ^= h >> 16;
  return static_cast<float>(static_cast<double>(h & 0xffffff) / 0x1p22 - 2);
}

Matrix GoldenRows(uint64_t stream, int64_t begin, int64_t count, int64_t columns) {
  Matrix m(count, columns);
  for (int64_t r = 0; r < count; ++r) {
    for (int64_t c = 0; c < columns; ++c) m.Row<float>(r)[c] = GoldenValue(stream, begin + r, c);
  }
  return m;
}

class KeyChooserTest : public ::testing::Test {
 protected:
  KvShape Shape() const {
    return {.vocab = kVocab,
            .kv_heads = kChooserKvHeads,
            .head_dim = kChooserDim,
            .heads = kChooserHeads,
            .score_scale = 1 / std::sqrt(static_cast<float>(kChooserDim)),
            .layers = {KvLayerShape{.rope = RopeSpec{.rotary_dim = kChooserDim}}}};
  }
  KvCache NewCache(const std::string& form, const KvShape& shape) {
    return KvCache(backend_.get(), shape, ParseKvForm(form), {}, 4096);
  }
  KvCache NewCache(const std::string& form) { return NewCache(form, Shape()); }

  /// Tokens from where the cache is to `end`, in pieces of at most `most`; every third is taken back once.
  void Feed(KvCache* cache, int64_t end, int64_t most) {
    const int64_t columns = int64_t{kChooserKvHeads} * kChooserDim;
    for (int turn = 0; cache->seen() < end; ++turn) {
      const std::vector<int32_t> ids(static_cast<size_t>(std::min(most, end - cache->seen())), 7);
      KvCache::Chunk chunk = cache->Begin(ids, static_cast<int32_t>(ids.size()));
      const bool back = turn % 3 == 1;
      const int64_t n = chunk.size(), at = cache->seen();
      for (int32_t layer = 0; layer < cache->layers(); ++layer) {
        cache->Append(layer, GoldenRows(back ? 12 : 2, at, n, columns), GoldenRows(back ? 13 : 3, at, n, columns));
        cache->Observe(layer, GoldenRows(back ? 11 : 1, at, n, int64_t{kChooserHeads} * kChooserDim), nullptr);
      }
      if (!back) chunk.Commit();
    }
  }
  void Prompt(KvCache* cache, int64_t end, int64_t most) {
    cache->BeginPrefill(end - cache->seen());
    Feed(cache, end, most);
    cache->EndPrefill();
  }
  static std::vector<std::vector<int64_t>> Places(const KvCache& cache, int32_t layer = 0) {
    const KvGroup& group = cache.groups()[static_cast<size_t>(cache.place(layer).group)];
    std::vector<std::vector<int64_t>> places(kChooserKvHeads);
    for (int32_t head = 0; head < kChooserKvHeads; ++head) {
      for (int64_t slot = 0; slot < group.table().size(); ++slot) {
        places[static_cast<size_t>(head)].push_back(group.PlaceOf(head, slot));
      }
    }
    return places;
  }
  /// Every head's part of every row is that of the token it says.
  static void ExpectRows(const KvCache& cache) {
    const std::vector<std::vector<int64_t>> places = Places(cache);
    const KvRows values = cache.Values(0);
    for (int64_t slot = 0; slot < values.rows(); ++slot) {
      const auto* row = static_cast<const float*>(values.Run(slot, 1).data);
      for (int64_t c = 0; c < values.m.cols; ++c) {
        const int64_t place = places[static_cast<size_t>(c / kChooserDim)][static_cast<size_t>(slot)];
        ASSERT_EQ(row[c], GoldenValue(3, static_cast<uint64_t>(place), static_cast<uint64_t>(c)))
            << "slot " << slot << " column " << c;
      }
    }
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

TEST_F(KeyChooserTest, KeepsWhatKvpressKeeps) {
  for (const ChooserGolden& golden : kChooserGolden) {
    for (const int64_t most : {60, 13, 1}) {
      KvCache cache = NewCache(golden.form);
      Prompt(&cache, kChooserTokens, most);
      EXPECT_EQ(Places(cache), golden.places) << golden.form << " in pieces of " << most;
      ExpectRows(cache);
      Feed(&cache, kChooserTokens + 9, 4);
      ExpectRows(cache);
    }
  }
}

TEST_F(KeyChooserTest, StoredOtherwiseAFewKeysDiffer) {
  for (const ChooserGolden& golden : kChooserGolden) {
    for (const char* dtype : {"bf16", "q8_0"}) {
      KvCache cache = NewCache(std::string(golden.form) + ",dtype=" + dtype);
      Prompt(&cache, kChooserTokens, 13);
      const auto places = Places(cache);
      for (size_t head = 0; head < places.size(); ++head) {
        std::vector<int64_t> same;
        std::ranges::set_intersection(places[head], golden.places[head], std::back_inserter(same));
        EXPECT_EQ(places[head].size(), golden.places[head].size());
        EXPECT_GE(same.size() + 2, places[head].size()) << golden.form << " " << dtype;
      }
    }
  }
}

TEST_F(KeyChooserTest, SharesAreOfAllThatWasSeen) {
  KvCache cache = NewCache("snapkv:25%,window=4");
  Prompt(&cache, 48, 48);
  EXPECT_EQ(cache.slots().size(), 12u);
  EXPECT_EQ(cache.usage().peak, 48);
  Feed(&cache, 58, 1);  // what is generated stays
  EXPECT_EQ(cache.slots().size(), 22u);
  Prompt(&cache, 100, 20);  // and may go at the end of the next prompt
  EXPECT_EQ(cache.slots().size(), 25u);
  ExpectRows(cache);
  // A prompt that is too short for its share keeps the queries that were asked.
  KvCache brief = NewCache("snapkv:25%,window=40");
  Prompt(&brief, 48, 48);
  EXPECT_EQ(brief.slots().size(), 40u);
  EXPECT_EQ(Places(brief)[0].front(), 8);
  KvCache all = NewCache("expected:100%");
  Prompt(&all, 48, 48);
  EXPECT_TRUE(all.holds_all());
}

TEST_F(KeyChooserTest, TovaKeepsItsSizeAtEveryStep) {
  KvCache whole = NewCache("tova:12,prefill=sparse"), single = NewCache("tova:12,prefill=sparse"),
          prompt = NewCache("tova:12");
  Feed(&whole, 200, 50);
  Feed(&single, 200, 1);
  EXPECT_EQ(whole.slots().size(), 12u);
  EXPECT_EQ(whole.usage().peak, 12);
  EXPECT_EQ(Places(whole), Places(single));
  EXPECT_EQ(Places(whole)[0], Places(whole)[1]);
  EXPECT_EQ(Places(whole)[0].back(), 199);
  ExpectRows(whole);
  EXPECT_LE(whole.policy().MaxSlots(), 13);
  Prompt(&prompt, 100, 30);
  EXPECT_EQ(prompt.slots().size(), 12u);
  Feed(&prompt, 130, 1);
  EXPECT_EQ(prompt.slots().size(), 12u);
  EXPECT_LT(prompt.bytes(), whole.bytes() * 3);
}

TEST_F(KeyChooserTest, ForksChooseByThemselves) {
  for (const char* form : {"snapkv:20,window=4", "tova:20", "expected:20,future=8"}) {
    KvCache cache = NewCache(form);
    Prompt(&cache, 50, 50);
    const std::unique_ptr<KvCache> fork = cache.Fork();
    EXPECT_EQ(cache.Fork(30), nullptr) << form;
    EXPECT_FALSE(cache.Truncate(30));
    const auto before = Places(cache);
    Prompt(fork.get(), 90, 90);
    EXPECT_EQ(Places(cache), before) << form;
    ExpectRows(cache);
    Prompt(&cache, 90, 7);
    EXPECT_EQ(Places(cache), Places(*fork)) << form;
    cache.Reset();
    Prompt(&cache, 50, 50);
    EXPECT_EQ(Places(cache), before) << form;
  }
}

TEST_F(KeyChooserTest, LayersWithAWindowOfTheirOwnKeepIt) {
  KvShape shape = Shape();
  shape.layers.push_back(shape.layers[0]);
  shape.layers.push_back(shape.layers[0]);
  shape.layers[1].window = 9;
  KvCache cache = NewCache("snapkv:20,window=4", shape);
  Prompt(&cache, 50, 50);
  EXPECT_EQ(cache.policy(1).Name(), "window:9");
  EXPECT_EQ(cache.slots(0).size(), 20u);
  EXPECT_EQ(cache.slots(1).size(), 8u);
  EXPECT_NE(cache.place(0).group, cache.place(2).group);
  EXPECT_EQ(Places(cache, 0), Places(cache, 2));
}

TEST_F(KeyChooserTest, KeysThatTurnDoSoHeadByHead) {
  // Frequencies that follow the stream: what a head keeps is rotated from its own place.
  KvShape shape = Shape();
  shape.layers[0].rope->scaling = {.kind = RopeKind::kDynamic, .factor = 4, .original = 16};
  KvCache cache(backend_.get(), shape, ParseKvForm("snapkv:20,window=4"), {}, 0);
  Prompt(&cache, 50, 50);
  Feed(&cache, 53, 1);
  const RopeFrequencies frequencies = ComputeFrequencies(*shape.layers[0].rope, 53);
  const auto places = Places(cache);
  for (int64_t slot = 0; slot < 20; ++slot) {
    for (int32_t head = 0; head < kChooserKvHeads; ++head) {
      const int64_t place = places[static_cast<size_t>(head)][static_cast<size_t>(slot)];
      const auto* key = static_cast<const float*>(cache.Keys(0).Run(slot, 1).data) + head * kChooserDim;
      for (int64_t i = 0; i < kChooserDim / 2; ++i) {
        const double angle = static_cast<double>(place) * frequencies.inv_freq[static_cast<size_t>(i)];
        const auto came = [&](int64_t c) {
          return double{GoldenValue(2, static_cast<uint64_t>(place), static_cast<uint64_t>(head * kChooserDim + c))};
        };
        ASSERT_NEAR(key[i], came(i) * std::cos(angle) - came(i + kChooserDim / 2) * std::sin(angle), 1e-5) << slot;
      }
    }
  }
  ExpectError(ErrorKind::kUnsupported, {"snapkv:20,window=4,dtype=q8_0", "--context"},
              [&] { KvCache(backend_.get(), shape, ParseKvForm("snapkv:20,window=4,dtype=q8_0"), {}, 0); });
  KvCache blocks(backend_.get(), shape, ParseKvForm("tova:20,dtype=q8_0"), {}, 0);
  Prompt(&blocks, 50, 50);
  EXPECT_EQ(blocks.slots().size(), 20u);
}

TEST_F(KeyChooserTest, WhatQueriesCannotChooseIsRefusedByName) {
  const auto refused = [&](const char* why, auto&& change) {
    for (const char* form : {"snapkv:25%", "tova:12", "expected:25%"}) {
      KvShape shape = Shape();
      change(&shape);
      ExpectError(ErrorKind::kUnsupported, {form, why}, [&] { NewCache(form, shape); });
    }
  };
  refused("ALiBi", [](KvShape* shape) { shape->alibi = AlibiSpec(); });
  refused("segments", [](KvShape* shape) { shape->segments = {.places = 4, .separators = {1}}; });
  refused("softmax", [](KvShape* shape) { shape->standard_softmax = false; });
  refused("every layer", [](KvShape* shape) { shape->layers[0].window = 9; });
  refused("string", [](KvShape* shape) { shape->layers[0].rope->fold = {.shift = 4}; });
}

TEST(GreatestSlots, OfEqualScoresTheFirst) {
  const float scores[] = {1, 3, 2, 3, NAN, INFINITY, 2};
  EXPECT_EQ(GreatestSlots(scores, 4), (std::vector<int32_t>{1, 2, 3, 5}));
  EXPECT_EQ(GreatestSlots(scores, 6), (std::vector<int32_t>{0, 1, 2, 3, 5, 6}));
  EXPECT_EQ(GreatestSlots(scores, 9).size(), 7u);
}

}  // namespace
}  // namespace hawser
