// What a token sees through each cache policy (testing/kv_decode.h).
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <numeric>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/testing/kv_decode.h"

namespace hawser {
namespace {

using testing::ReferenceModel;
using testing::StreamReference;

TEST_F(KvDecodeTest, E1_DroppingUnseenKeysIsTheMaskedForward) {
  ExpectDense("window:7", PatternPlan({.window = 7}));
  ExpectDense("window:1", PatternPlan({.window = 1}));
  ExpectDense("sep:3,8", PatternPlan({.window = 8, .sinks = 3, .separators = true}));
  ExpectDense("sep:0,1", PatternPlan({.window = 1, .separators = true}));
  ExpectDense("sep:12,4", PatternPlan({.window = 4, .sinks = 12, .separators = true}));
  // Differences of positions are all that counts, and a window has no gaps: ranks change nothing.
  ExpectDense("window:7,positions=rank", PatternPlan({.window = 7}));
}

TEST_F(KvDecodeTest, E1_FundamentalFormEqualsScoringWithItsPattern) {
  const std::pair<const char*, const char*> forms[] = {
      {"sinks=3 window=8 sep", "sep:3,8"},
      {"sinks=3 window=8 sep full-layers=0+-1", "sep:3,8,full-layers=0+-1"},
      {"sinks=3 window=9+4+all sep", "sep:3,9+4+all"},
      {"sinks=2 window=7 every=4 full-layers=1", "fix:2,7,4,full-layers=1"},
      {"sinks=2 window=5+9+6", "sink:2,4+8+5,positions=absolute"},
  };
  for (const auto& [pattern, policy] : forms) ExpectSameAsScored(pattern, policy);
}

TEST_F(KvDecodeTest, E1_HoldsForOtherSoftmaxesToo) {
  const Logits standard = Decode("full");
  for (const char* softmax : {"self-adjust", "self-adjust:nb=0.5", "self-adjust-product"}) {
    ChangeSpec(&params_, [&](ModelSpec& spec) { spec.softmax = ParseSoftmax(softmax); });
    EXPECT_GT(Difference(Decode("full"), standard), kVisible) << softmax;
    ExpectSameAsScored("full", "full");
    ExpectSameAsScored("sinks=3 window=8 sep full-layers=0", "sep:3,8,full-layers=0");
    for (const char* policy : {"sep-stream:2,4,6,20", "sep-stream:2,4,6,20,policy=full,positions=absolute"}) {
      EXPECT_LT(Difference(Decode(policy, 1), Decode(policy, 30)), kTolerance) << softmax << " " << policy;  // E4
    }
  }
}

TEST_F(KvDecodeTest, BilevelPositionsAreTheSameInCachesAndBatches) {
  spec_.segments = {.places = 4, .separators = {1, 5, 8, 20, 33, 34, 50}};
  params_ = LoudModel(spec_, 17);
  std::vector<double> segments;
  SegmentCounter counter;
  for (const int32_t id : ids_) {
    segments.push_back(static_cast<double>(counter.segment));
    counter.Pass(spec_.segments, id);
  }
  ASSERT_GT(segments.back(), 4);
  const auto plan = PatternPlan({.window = 8, .sinks = 3, .separators = true});
  const auto want = ReferenceModel(params_)
                        .Forward(
                            ids_, [&](int32_t q, int32_t k) { return std::ranges::binary_search(plan.attended[q], k); },
                            [&](int32_t, int32_t k) { return segments[static_cast<size_t>(k)]; })
                        .logits;
  for (const int32_t most : {1, 4, 40}) EXPECT_LT(Difference(Decode("sep:3,8", most), want), kTolerance);
  ExpectSameAsScored("full", "full");
  ExpectSameAsScored("sinks=3 window=8 sep", "sep:3,8");
  const std::string stream = "sep-stream:2,4,6,20,positions=absolute";
  EXPECT_LT(Difference(Decode(stream, 1), Decode(stream, 30)), kTolerance);
  EXPECT_THROW(NewCache("sep-stream:2,4,6,20"), Error);
  KvCache again = NewCache(stream);
  const Logits first = Decode(&again, 5, 3);
  again.Reset();
  EXPECT_EQ(Decode(&again, 5, 3), first);
}

TEST_F(KvDecodeTest, QueriesGrowWithTheirPositionInEveryCache) {
  const Logits still = Decode("full");
  ChangeSpec(&params_, [&](ModelSpec& spec) {
    spec.rope.query_scale = {.kind = QueryScaleKind::kLog, .context = 6, .first_layer = 1};
  });
  EXPECT_GT(Difference(Decode("full"), still), kVisible);
  for (const int32_t most : {1, 40}) {
    EXPECT_LT(Difference(Decode("full", most), still, 0, 6), kTolerance) << "below the context";
  }
  ExpectSameAsScored("full", "full");
  ExpectSameAsScored("sinks=3 window=8 sep", "sep:3,8");
  ExpectDense("sink:3,9", SinkPlan(3, 9));  // by the place in the cache
  ExpectDense("sink:3,9,positions=cachelen", SinkPlan(3, 9));
  ExpectDense("sep-stream:2,4,6,20", StreamPlan({.a = 2, .s = 4, .w = 6, .c = 20}, false));
}

TEST_F(KvDecodeTest, E2_E3_E4_StreamsAreDenseAttentionOverTheRecurrence) {
  const StreamReference::Sizes sizes{.a = 2, .s = 4, .w = 6, .c = 20};
  for (const char* positions : {"absolute", "rank", "cachelen"}) {
    for (bool full : {false, true}) {
      ExpectDense(fmt::format("sep-stream:2,4,6,20,policy={},positions={}", full ? "full" : "overflow", positions),
                  StreamPlan(sizes, full));
    }
    ExpectDense(fmt::format("sink:3,9,positions={}", positions), SinkPlan(3, 9));
  }
  ExpectDense("sep-stream:0,1,1,3", StreamPlan({.a = 0, .s = 1, .w = 1, .c = 3}, false));
  ExpectDense("sep-stream:0,1,1,4,policy=full", StreamPlan({.a = 0, .s = 1, .w = 1, .c = 4}, true));
  ExpectDense("sep-stream:1,9,2,14", StreamPlan({.a = 1, .s = 9, .w = 2, .c = 14}, false));
}

TEST_F(KvDecodeTest, SinksReadByASecondQueryStandAtRanks) {
  const RopeScaling scalings[] = {{.kind = RopeKind::kLinear, .factor = 1.7},
                                  {.kind = RopeKind::kDynamic, .factor = 4, .original = 32},
                                  {.kind = RopeKind::kYarn, .factor = 4, .original = 32}};
  const RopeSpec plain = spec_.rope;
  for (const RopeScaling& scaling : scalings) {
    for (const RopePairing pairing : {RopePairing::kHalf, RopePairing::kAdjacent}) {
      RopeSpec rope = plain;
      if (pairing == RopePairing::kAdjacent) rope.rotary_dim /= 2;
      rope.pairing = pairing;
      rope.scaling = scaling;
      ChangeSpec(&params_, [&](ModelSpec& spec) { spec.rope = rope; });
      ExpectDense("sink:3,12", SinkPlan(3, 12));
      ExpectDense("sink:0,12", SinkPlan(0, 12));
    }
  }
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.rope = plain; });
  ExpectDense("sink:1,20", SinkPlan(1, 20));
  ExpectDense("window:13,positions=rank", PatternPlan({.window = 13}));
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.unplaced_layers = {1}; });
  ExpectDense("sink:3,12", SinkPlan(3, 12));
  // Before anything is dropped it is full attention, with all that can be held it always is.
  EXPECT_LT(Difference(Decode("sink:3,60", 40), Decode("full"), 0, 63), kTolerance);
  EXPECT_EQ(Decode("sink:3,all", 40, 2), Decode("full", 40, 2));
}

// What is held was made with what was seen then: in one layer that is what a pass over the held tokens alone gives, in
// several it is not.
TEST_F(KvDecodeTest, StreamsAreRecomputationInOneLayerAlone) {
  const int32_t at = 70, first = 3, last = 12;
  for (const int32_t layers : {1, 3}) {
    spec_ = TinySpec({.layers = layers, .context = kTokens});
    params_ = LoudModel(spec_, 17);
    const Logits streamed = Decode("sink:3,12", 40);
    std::vector<int32_t> held(ids_.begin(), ids_.begin() + first);
    held.insert(held.end(), ids_.begin() + at - last, ids_.begin() + at + 1);
    KvCache cache = NewCache("full");
    const Logits again = {Feed(&cache, held).back()}, streamed_at = {streamed[at]};
    const double difference = Difference(streamed_at, again, 0, 1);
    if (layers == 1) {
      EXPECT_LT(difference, kTolerance);
    } else {
      EXPECT_GT(difference, kVisible);
    }
  }
}

TEST_F(KvDecodeTest, BiasesByDistanceAreThoseOfRanks) {
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.places = Places::kAlibi; });
  ExpectDense("sink:3,12", SinkPlan(3, 12));
  ExpectDense("sep-stream:2,4,6,20", StreamPlan({.a = 2, .s = 4, .w = 6, .c = 20}, false));
}

TEST_F(KvDecodeTest, SinksInBlocksAreTheSameInChunks) {
  for (const int32_t most : {4, 40}) {
    EXPECT_LT(Difference(Decode("sink:3,12,dtype=q8_0", most), Decode("sink:3,12,dtype=q8_0")), kTolerance) << most;
  }
}

TEST_F(KvDecodeTest, E2_E4_LayersHaveStreamsOfTheirOwn) {
  const StreamReference::Sizes sizes[] = {{.a = 2, .s = 4, .w = 6, .c = 20}, {.a = 2, .s = 4, .w = 3, .c = 12}};
  const std::string policy = "sep-stream:2,4,6+3+6,20+12+20,positions=absolute,full-layers=2";
  const Plan plans[] = {StreamPlan(sizes[0], false), StreamPlan(sizes[1], false), PatternPlan({})};
  const auto want = ReferenceModel(params_)
                        .ForwardLayers(
                            ids_,
                            [&](int32_t layer, int32_t q, int32_t k) {
                              return std::ranges::binary_search(plans[layer].attended[q], k);
                            },
                            [](int32_t, int32_t k) { return static_cast<double>(k); })
                        .logits;
  for (int32_t most : {1, 4, 40}) EXPECT_LT(Difference(Decode(policy, most, most), want), kTolerance) << most;
  EXPECT_GT(Difference(Decode("sep-stream:2,4,6,20,positions=absolute"), want), kVisible);
}

TEST_F(KvDecodeTest, DensePromptsSeeEverythingAndAreTrimmedAtTheirEnd) {
  constexpr int32_t kPrompt = 50;
  const auto feed = [&](KvCache* cache, int32_t begin, int32_t end) {
    cache->BeginPrefill();
    Logits logits;
    for (int32_t t = begin; t < end; t += 20) {  // a prompt may come in several calls
      const Logits rows = Feed(cache, {ids_.begin() + t, ids_.begin() + std::min(t + 20, end)});
      logits.insert(logits.end(), rows.begin(), rows.end());
    }
    cache->EndPrefill();
    return logits;
  };
  const auto expect = [&](const std::string& policy, const Plan& plan, int64_t held) {
    KvCache cache = NewCache(policy + ",prefill=dense");
    Logits logits = feed(&cache, 0, kPrompt);
    EXPECT_EQ(static_cast<int64_t>(cache.slots().size()), held) << policy;
    EXPECT_EQ(cache.usage().peak, kPrompt) << policy;
    for (int32_t t = kPrompt; t < kTokens; ++t) logits.push_back(Feed(&cache, {ids_[t]})[0]);
    EXPECT_LT(Difference(logits, Dense(plan, ParseKvForm(policy).positions)), kTolerance) << policy;
    EXPECT_GT(Difference(logits, Decode(policy)), kVisible) << policy;
  };
  Plan sep = PatternPlan({.window = 8, .sinks = 3, .separators = true});
  int64_t pinned = 3 + 7;
  for (int32_t k = 3; k < kPrompt - 7; ++k) pinned += flags_[ids_[k]];
  for (int32_t t = 0; t < kPrompt; ++t) sep.attended[t] = PatternPlan({}).attended[t];
  expect("sep:3,8", sep, pinned);
  Plan sinks = SinkPlan(3, 9);
  for (int32_t t = 0; t < kPrompt; ++t) sinks.attended[t] = PatternPlan({}).attended[t];
  expect("sink:3,9", sinks, 3 + 9);

  for (const bool full : {false, true}) {
    for (const char* positions : {"absolute", "rank"}) {
      StreamReference reference({.a = 2, .s = 4, .w = 6, .c = 20}, full);
      std::vector<bool> flags;
      for (int32_t t = 0; t < kPrompt; ++t) flags.push_back(flags_[ids_[t]] != 0);
      reference.DensePrompt(flags);
      Plan plan = PatternPlan({});
      for (int32_t t = kPrompt; t < kTokens; ++t) plan.attended[t] = reference.Step(flags_[ids_[t]] != 0).attended;
      // What SepCache compresses it compresses when the next token comes.
      expect(fmt::format("sep-stream:2,4,6,20,policy={},positions={}", full ? "full" : "overflow", positions), plan,
             full ? kPrompt : 2 + 4 + 6);
    }
  }
  // A further prompt sees what the policy has kept, and all of itself.
  KvCache twice = NewCache("sink:3,9,prefill=dense");
  Logits logits = feed(&twice, 0, 40);
  const Logits second = feed(&twice, 40, 70);
  logits.insert(logits.end(), second.begin(), second.end());
  for (int32_t t = 70; t < kTokens; ++t) logits.push_back(Feed(&twice, {ids_[t]})[0]);
  Plan plan = SinkPlan(3, 9);
  for (int32_t t = 0; t < 40; ++t) plan.attended[t] = PatternPlan({}).attended[t];
  for (int64_t t = 41; t < 70; ++t) {
    plan.attended[t] = plan.attended[40];
    for (int64_t k = 41; k <= t; ++k) plan.attended[t].push_back(k);
  }
  EXPECT_LT(Difference(logits, Dense(plan, KvPositions::kRank)), kTolerance);
  // It starts from what the policy keeps: the cache is no larger than the policy's share and the prompt.
  KvCache cache = NewCache("sep-stream:2,4,6,20,policy=full,prefill=dense");
  feed(&cache, 0, 40);
  feed(&cache, 40, 70);
  EXPECT_EQ(cache.slots().size(), 2u + 4 + 5 + 30);
}

TEST_F(KvDecodeTest, ChosenKeysAreWhatIsSeen) {
  // With one head of keys a layer sees what its head keeps.
  constexpr int32_t kPrompt = 50;
  spec_ = TinySpec({.layers = 3, .kv_heads = 1, .context = kTokens});
  params_ = LoudModel(spec_, 17);
  const Logits full = Decode("full");
  for (const char* policy : {"snapkv:40%,window=6", "expected:40%,future=20", "tova:20", "tova:20,prefill=sparse"}) {
    for (const int32_t most : {1, 20}) {
      KvCache cache = NewCache(policy);
      const bool dense = cache.form().prefill == KvPrefill::kDense;
      std::vector<std::vector<std::vector<int64_t>>> seen(kTokens, std::vector<std::vector<int64_t>>(spec_.layers));
      const auto note = [&](int32_t t) {  // token by token behind a prompt: what is held, and itself
        for (int32_t layer = 0; layer < spec_.layers; ++layer) {
          for (const SlotInfo& slot : cache.slots(layer)) seen[t][layer].push_back(slot.index);
          seen[t][layer].push_back(t);
        }
      };
      Logits logits;
      if (dense) cache.BeginPrefill();
      for (int32_t t = 0; t < kTokens;) {
        if (dense && t == kPrompt) cache.EndPrefill();
        const bool prompt = dense && t < kPrompt;
        const int32_t n = prompt ? std::min(most, kPrompt - t) : 1;
        if (!prompt) note(t);
        const Logits rows = Feed(&cache, {ids_.begin() + t, ids_.begin() + t + n});
        logits.insert(logits.end(), rows.begin(), rows.end());
        t += n;
      }
      const auto want = ReferenceModel(params_)
                            .ForwardLayers(
                                ids_,
                                [&](int32_t layer, int32_t q, int32_t k) {
                                  return (dense && q < kPrompt) || std::ranges::binary_search(seen[q][layer], k);
                                },
                                [](int32_t, int32_t k) { return static_cast<double>(k); })
                            .logits;
      EXPECT_LT(Difference(logits, want), kTolerance) << policy;
      EXPECT_GT(Difference(full, want), kVisible) << policy;
      EXPECT_EQ(cache.slots().size(), dense && most > 0 && std::string_view(policy)[0] != 't' ? 20u + 40 : 20u);
    }
  }
}

TEST_F(KvDecodeTest, ChosenKeysInChunksAndBesideOtherStreams) {
  const Logits single = Decode("tova:20,prefill=sparse");
  EXPECT_LT(Difference(Decode("tova:20,prefill=sparse", 30, 4), single), kTolerance);
  // Without a prompt, and with a share that is all, nothing goes.
  for (const char* policy : {"snapkv:40%,window=6", "expected:100%"}) {
    EXPECT_EQ(Decode(policy, 40, 2), Decode("full", 40, 2)) << policy;
  }
}

TEST_F(KvDecodeTest, E3_RankLeavesAbsolutePositionsWithTheFirstTrim) {
  const Logits rank = Decode("sep-stream:2,4,6,20"), absolute = Decode("sep-stream:2,4,6,20,positions=absolute");
  EXPECT_EQ(rank[20], absolute[20]);
  EXPECT_EQ(Difference(rank, absolute, 0, 21), 0);
  EXPECT_GT(Difference(rank, absolute, 21, 22), kVisible);
}

TEST_F(KvDecodeTest, E8_BeforeTheFirstTrimStreamingIsFullAttention) {
  const Logits full = Decode("full");
  const auto first_difference = [&](const char* policy) {
    const Logits logits = Decode(policy);
    int32_t t = 0;
    while (t < kTokens && logits[t] == full[t]) ++t;
    return t;
  };
  EXPECT_EQ(first_difference("sep-stream:2,4,6,20"), 21);
  EXPECT_EQ(first_difference("sep-stream:2,4,6,20,policy=full"), 19);
  EXPECT_EQ(first_difference("sink:3,9"), 13);
  EXPECT_EQ(first_difference("window:7"), 7);
  EXPECT_EQ(first_difference("sep-stream:2,4,6,200"), kTokens);
}

}  // namespace
}  // namespace hawser
