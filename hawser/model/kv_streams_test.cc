// Streams beside one another, forked, rolled back and fed again (testing/kv_decode.h).
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/testing/kv_decode.h"

namespace hawser {
namespace {

TEST_F(KvDecodeTest, E5_SequencesDoNotTouchOneAnother) {
  const char* const policies[] = {"sep-stream:2,4,6,20", "sink:3,9", "sep:3,8", "full"};
  std::vector<KvCache> caches;
  std::vector<Logits> alone, together(std::size(policies));
  for (const char* policy : policies) {
    alone.push_back(Decode(policy));
    caches.push_back(NewCache(policy));
  }
  for (int32_t t = 0; t < kTokens; ++t) {
    for (size_t i = 0; i < caches.size(); ++i) {
      if (t % static_cast<int32_t>(i + 1) != 0 && t > 50) continue;  // ragged: some sequences end early
      if (static_cast<size_t>(t) == together[i].size()) together[i].push_back(Feed(&caches[i], {ids_[t]})[0]);
    }
  }
  for (size_t i = 0; i < caches.size(); ++i) {
    for (size_t t = 0; t < together[i].size(); ++t) ASSERT_EQ(together[i][t], alone[i][t]) << policies[i] << " t=" << t;
  }
}

TEST_F(KvDecodeTest, E5_BatchOfRaggedStreamsIsEachStreamAlone) {
  const char* const policies[] = {"sep-stream:2,4,6,20", "sink:3,9", "sep:3,8,full-layers=0", "full",
                                  "sep-stream:2,4,6,20,policy=full,positions=absolute"};
  constexpr int32_t kBegin[] = {0, 37, 11, 5, 60};  // streams are of different lengths when they meet
  std::vector<KvCache> caches;
  std::vector<Logits> alone;
  for (size_t i = 0; i < std::size(policies); ++i) {
    alone.push_back(Decode(policies[i]));
    caches.push_back(NewCache(policies[i]));
    if (kBegin[i] > 0) Feed(&caches[i], {ids_.begin(), ids_.begin() + kBegin[i]});
  }
  for (int32_t step = 0; step < 80; ++step) {
    std::vector<KvCache*> rows;
    std::vector<int32_t> tokens;
    std::vector<size_t> who;
    for (size_t i = caches.size(); i-- > 0;) {  // some end early, some come late
      if (kBegin[i] + step >= kTokens || (i == 3 && step < 7 && step > 2)) continue;
      rows.push_back(&caches[i]);
      tokens.push_back(ids_[static_cast<size_t>(caches[i].seen())]);
      who.push_back(i);
    }
    Matrix logits(static_cast<int64_t>(rows.size()), spec_.vocab);
    Model().Step(tokens, rows, logits);
    for (size_t r = 0; r < who.size(); ++r) {
      const std::vector<float>& want = alone[who[r]][static_cast<size_t>(rows[r]->seen() - 1)];
      for (int32_t v = 0; v < spec_.vocab; ++v) {
        ASSERT_NEAR(logits.Row<float>(static_cast<int64_t>(r))[v], want[static_cast<size_t>(v)], 5e-4)
            << policies[who[r]] << " step " << step;
      }
    }
  }
  Matrix logits(2, spec_.vocab);
  KvCache* one[] = {&caches[0]};
  EXPECT_THROW(Model().Step(std::vector<int32_t>{1, 2}, one, logits), Error);
}

/// Every row of a stream that was wanted, by the token it is of.
struct RowsOfStream : RowSink {
  explicit RowsOfStream(Decoder* d, size_t streams) : decoder(d), logits(streams) {}
  void Rows(std::span<const Row> rows, ConstMat hidden) override {
    Matrix out(hidden.rows, decoder->spec().vocab);
    decoder->Logits(hidden, out);
    for (size_t r = 0; r < rows.size(); ++r) {
      const float* row = out.Row<float>(static_cast<int64_t>(r));
      order.push_back(rows[r]);
      logits[rows[r].chunk].emplace_back(row, row + out.cols());
    }
  }
  Decoder* decoder;
  std::vector<std::vector<std::vector<float>>> logits;
  std::vector<Row> order;
};

TEST_F(KvDecodeTest, ChunksOfAnyLengthsShareAPass) {
  const std::vector<std::string> policies = {"full", "sep-stream:3,5,9,24", "sink:3,12", "window:9", "sep:3,9", "full"};
  const std::vector<int32_t> before = {0, 40, 17, 61, 0, 30}, now = {kTokens, 1, 29, 1, 33, 1};
  std::vector<KvCache> caches;
  for (const std::string& policy : policies) caches.push_back(NewCache(policy));
  std::vector<DecodeChunk> chunks;
  for (size_t i = 0; i < caches.size(); ++i) {
    if (before[i] > 0) Model().Extend(std::span(ids_).first(before[i]), &caches[i], {});
    const Wanted wanted = i % 3 == 0 ? Wanted::kAll : i == 2 ? Wanted::kNone : Wanted::kLast;
    chunks.push_back({&caches[i], std::span(ids_).subspan(before[i], now[i]), wanted});
  }
  Decoder model = Model();
  RowsOfStream sink(&model, caches.size());
  model.Run(chunks, &sink);
  for (size_t i = 0; i < caches.size(); ++i) {
    const auto alone = Decode(policies[i], kTokens, i);
    const Wanted wanted = chunks[i].wanted;
    const size_t count = wanted == Wanted::kAll ? now[i] : wanted == Wanted::kLast ? 1 : 0;
    ASSERT_EQ(sink.logits[i].size(), count) << policies[i];
    EXPECT_EQ(caches[i].seen(), before[i] + now[i]);
    const auto first = alone.begin() + before[i] + now[i] - static_cast<int64_t>(count);
    const Logits want(first, first + static_cast<int64_t>(count));
    EXPECT_LE(Difference(sink.logits[i], want, 0, static_cast<int32_t>(count)), 2e-5) << policies[i];
  }
  std::vector<int64_t> next(caches.size(), -1);
  for (const RowSink::Row& row : sink.order) {
    EXPECT_GT(row.token, next[row.chunk]);
    next[row.chunk] = row.token;
  }
}

/// The last hidden rows of a stream, of every token.
struct HiddenOfStream : RowSink {
  explicit HiddenOfStream(size_t streams) : hidden(streams) {}
  void Rows(std::span<const Row> rows, ConstMat last) override {
    for (size_t r = 0; r < rows.size(); ++r) {
      const float* row = last.Row<float>(static_cast<int64_t>(r));
      hidden[rows[r].chunk].insert(hidden[rows[r].chunk].end(), row, row + last.cols);
    }
  }
  std::vector<std::vector<float>> hidden;
};

// Products of one row, of a few and of many round differently; a chunk that is apart does not meet the others in one.
TEST_F(KvDecodeTest, AChunkApartIsTheSameToTheBitWhoeverSharesThePass) {
  const std::vector<std::string> policies = {"full", "sep-stream:3,5,9,24", "sink:3,12", "window:9",
                                             "sep-stream:3,5,9,24,dtype=q8_0"};
  Decoder model = Model();
  const auto run = [&](std::span<const size_t> who, bool loose_too) {
    std::vector<KvCache> caches;
    caches.reserve(64);
    std::vector<DecodeChunk> chunks;
    const auto add = [&](size_t i, bool apart) {
      const auto before = static_cast<int32_t>(5 * (i % 9)), now = i % 3 == 0 ? 20 + static_cast<int32_t>(i) : 1;
      caches.push_back(NewCache(policies[i % policies.size()]));
      if (before > 0) model.Extend(std::span(ids_).first(before), &caches.back(), {});
      chunks.push_back({&caches.back(), std::span(ids_).subspan(before, now), Wanted::kAll, apart});
    };
    for (const size_t i : who) {
      if (loose_too) add(i + 7, false);
      add(i, true);
    }
    HiddenOfStream sink(chunks.size());
    model.Run(chunks, &sink);
    std::vector<std::vector<float>> apart;
    for (size_t c = 0; c < chunks.size(); ++c) {
      if (chunks[c].apart) apart.push_back(sink.hidden[c]);
    }
    return apart;
  };
  std::vector<size_t> all(21);
  std::iota(all.begin(), all.end(), 0);
  const auto together = run(all, false), among_others = run(all, true);
  for (const size_t i : all) {
    const auto alone = run({&i, 1}, false);
    EXPECT_EQ(together[i], alone[0]) << i;
    EXPECT_EQ(among_others[i], alone[0]) << i;
  }
}

TEST_F(KvDecodeTest, AForkGoesOnByItself) {
  for (const std::string policy : {"full", "sep-stream:3,5,9,24", "sink:3,12", "window:9", "sep:3,9",
                                   "sep-stream:3,5,9,24,dtype=q8_0", "sink:3,12,positions=absolute"}) {
    constexpr int32_t kShared = 50;
    const Logits alone = Decode(policy);
    KvCache cache = NewCache(policy);
    for (int32_t t = 0; t < kShared; ++t) Feed(&cache, {ids_[static_cast<size_t>(t)]});
    const std::unique_ptr<KvCache> fork = cache.Fork();
    EXPECT_EQ(fork->seen(), kShared);
    EXPECT_EQ(fork->usage().mean, cache.usage().mean);
    for (int32_t t = 0; t < 20; ++t) Feed(fork.get(), {ids_[static_cast<size_t>(t)]});  // something else
    const std::unique_ptr<KvCache> late = cache.Fork();
    for (KvCache* one : {&cache, late.get()}) {
      for (int32_t t = kShared; t < kTokens; ++t) {
        const Logits row = Feed(one, {ids_[static_cast<size_t>(t)]});
        ASSERT_EQ(row[0], alone[static_cast<size_t>(t)]) << policy << " token " << t;
      }
    }
  }
}

TEST_F(KvDecodeTest, AForkOfFewerTokensIsTheCacheOfThose) {
  constexpr int32_t kFirst = 33;
  for (const std::string policy : {"full", "full:dtype=q8_0", "sep:3,9", "sink:3,12"}) {
    const Logits alone = Decode(policy);
    KvCache cache = NewCache(policy);
    Decode(&cache, 1);
    const std::unique_ptr<KvCache> fork = cache.Fork(kFirst);
    ASSERT_EQ(fork != nullptr, policy.starts_with("full")) << policy;
    EXPECT_EQ(cache.holds_all(), policy.starts_with("full"));
    if (fork == nullptr) continue;
    EXPECT_EQ(fork->separators_seen(), std::ranges::count_if(std::span(ids_).first(kFirst), [&](int32_t id) {
                return flags_[static_cast<size_t>(id)] != 0;
              }));
    for (int32_t t = kFirst; t < kTokens; ++t) {
      ASSERT_EQ(Feed(fork.get(), {ids_[static_cast<size_t>(t)]})[0], alone[static_cast<size_t>(t)]) << policy;
    }
  }
}

TEST_F(KvDecodeTest, AChunkThatIsTakenBackNeverCame) {
  for (const std::string policy : {"full", "sep-stream:3,5,9,24", "sink:3,12", "sep:3,9"}) {
    const Logits alone = Decode(policy);
    KvCache cache = NewCache(policy);
    for (int32_t t = 0; t < kTokens; ++t) {
      if (t % 7 == 3) {
        const KvCache::Chunk chunk = cache.Begin(std::span(ids_).subspan(static_cast<size_t>(t), 1), 1);
      }
      ASSERT_EQ(Feed(&cache, {ids_[static_cast<size_t>(t)]})[0], alone[static_cast<size_t>(t)]) << policy << ' ' << t;
    }
    EXPECT_EQ(cache.seen(), kTokens);
  }
}

TEST_F(KvDecodeTest, E11_ReplayAfterResetIsTheSameToTheBit) {
  for (const char* policy : {"sep-stream:2,4,6,20", "sep-stream:2,4,6,20,policy=full", "sink:3,9", "sep:3,8",
                             "sep-stream:2,4,6,20,dtype=q8_0"}) {
    KvCache cache = NewCache(policy);
    const Logits first = Decode(&cache, 5, 3);
    cache.Reset();
    EXPECT_EQ(Decode(&cache, 5, 3), first) << policy;
  }
}

}  // namespace
}  // namespace hawser
