// The decoder over every cache policy against dense attention in f64 with the visible sets and positions that the
// policy's own recurrence gives.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/kv/state.h"
#include "hawser/model/decoder.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/model_reference.h"
#include "hawser/testing/stream_reference.h"
#include "hawser/testing/test_folder.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

using testing::ReferenceModel;
using testing::StreamReference;

constexpr int32_t kTokens = 90;
constexpr double kVisible = 0.02;  // a change of what is seen moves logits by more than this

/// What each token attends to, and the keys held when it came.
struct Plan {
  std::vector<std::vector<int64_t>> attended;
  std::vector<int64_t> held;
};

class KvDecodeTest : public ::testing::Test {
 protected:
  KvDecodeTest() {
    SetThreads(1);  // steps this small are faster so
    Rng rng{.seed = 4, .stream = 4};
    flags_.resize(spec_.vocab);
    for (uint8_t& flag : flags_) flag = rng.Below(5) == 0;
    for (int32_t i = 0; i < kTokens; ++i) ids_.push_back(static_cast<int32_t>(rng.Below(spec_.vocab)));
  }

  ~KvDecodeTest() override { SetThreads(0); }

  using Logits = std::vector<std::vector<float>>;

  KvCache NewCache(const std::string& policy) {
    return NewKvCache(backend_.get(), Model().spec(), ParseKvForm(policy), flags_, DType::kF32, kTokens);
  }

  /// Logits of every token, fed in pieces of random length up to `most`.
  Logits Decode(KvCache* cache, int32_t most, uint64_t seed = 0) {
    Rng rng{.seed = seed, .stream = 8};
    Logits logits;
    for (int32_t t = 0; t < kTokens;) {
      const int32_t n = std::min(kTokens - t, 1 + static_cast<int32_t>(rng.Below(most)));
      const Logits rows = Feed(cache, {ids_.begin() + t, ids_.begin() + t + n});
      logits.insert(logits.end(), rows.begin(), rows.end());
      t += n;
    }
    return logits;
  }
  Logits Decode(const std::string& policy, int32_t most = 1, uint64_t seed = 0) {
    KvCache cache = NewCache(policy);
    return Decode(&cache, most, seed);
  }

  Logits Feed(KvCache* cache, const std::vector<int32_t>& ids) {
    Matrix rows(static_cast<int64_t>(ids.size()), spec_.vocab);
    Model().Extend(ids, cache, rows);
    Logits logits;
    for (int64_t r = 0; r < rows.rows(); ++r) logits.emplace_back(rows.Row<float>(r), rows.Row<float>(r) + spec_.vocab);
    return logits;
  }

  Plan StreamPlan(const StreamReference::Sizes& sizes, bool full) const {
    StreamReference reference(sizes, full);
    Plan plan;
    int64_t held = 0;
    for (int32_t id : ids_) {
      const testing::StreamStep step = reference.Step(flags_[id]);
      plan.attended.push_back(step.attended);
      plan.held.push_back(held);
      held = static_cast<int64_t>(step.stored.size());
    }
    return plan;
  }
  Plan SinkPlan(int64_t a, int64_t c) const {
    Plan plan;
    for (int64_t t = 0; t < kTokens; ++t) {
      std::vector<int64_t> sees;
      for (int64_t k = 0; k <= t; ++k) {
        if (k < a || k >= t - c) sees.push_back(k);
      }
      plan.attended.push_back(sees);
      plan.held.push_back(std::min(t, a + c));
    }
    return plan;
  }
  Plan PatternPlan(const AttnPattern& pattern) const {
    Plan plan;
    for (int64_t t = 0; t < kTokens; ++t) {
      std::vector<int64_t> sees;
      for (int64_t k = 0; k <= t; ++k) {
        if (k < pattern.sinks || t - k < pattern.window || (pattern.separators && flags_[ids_[k]])) sees.push_back(k);
      }
      plan.attended.push_back(sees);
    }
    return plan;
  }

  std::vector<std::vector<double>> Dense(const Plan& plan, KvPositions positions) const {
    const auto rank = [&](int32_t q, int32_t k) {
      const std::vector<int64_t>& v = plan.attended[q];
      return static_cast<double>(std::lower_bound(v.begin(), v.end(), k) - v.begin());
    };
    return ReferenceModel(params_)
        .Forward(
            ids_, [&](int32_t q, int32_t k) { return std::ranges::binary_search(plan.attended[q], k); },
            [&](int32_t q, int32_t k) -> double {
              if (positions == KvPositions::kRank) return rank(q, k);
              return static_cast<double>(positions == KvPositions::kAbsolute ? k : plan.held[k]);
            })
        .logits;
  }

  template <class A, class B>
  static double Difference(const A& a, const B& b, int32_t begin = 0, int32_t end = kTokens) {
    double worst = 0;
    for (int32_t t = begin; t < end; ++t) {
      for (size_t i = 0; i < a[t].size(); ++i) {
        const double difference = std::abs(static_cast<double>(a[t][i]) - static_cast<double>(b[t][i]));
        if (!(difference <= worst)) worst = difference;  // a NaN sticks out
      }
    }
    return worst;
  }

  void ExpectDense(const std::string& policy, const Plan& plan) {
    const auto want = Dense(plan, MakeKvPolicy(policy)->positions());
    for (int32_t most : {1, 4, 40}) {
      EXPECT_LT(Difference(Decode(policy, most, most), want), kTolerance) << policy << " in pieces up to " << most;
    }
    EXPECT_GT(Difference(Decode("full"), want), kVisible) << policy << " hides nothing that matters";
  }

  void ExpectSameAsScored(const char* pattern, const char* policy);

  static constexpr double kTolerance = 1e-3;
  ModelSpec spec_ = TinySpec({.layers = 3, .context = kTokens});
  ParamStore params_ = LoudModel(spec_, 17);
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  /// Of the parameters and the spec as they are now.
  Decoder Model() { return {backend_.get(), &params_}; }
  std::vector<uint8_t> flags_;
  std::vector<int32_t> ids_;
};

TEST_F(KvDecodeTest, E1_DroppingUnseenKeysIsTheMaskedForward) {
  ExpectDense("window:7", PatternPlan({.window = 7}));
  ExpectDense("window:1", PatternPlan({.window = 1}));
  ExpectDense("sep:3,8", PatternPlan({.window = 8, .sinks = 3, .separators = true}));
  ExpectDense("sep:0,1", PatternPlan({.window = 1, .separators = true}));
  ExpectDense("sep:12,4", PatternPlan({.window = 4, .sinks = 12, .separators = true}));
  // Differences of positions are all that counts, and a window has no gaps: ranks change nothing.
  ExpectDense("window:7,positions=rank", PatternPlan({.window = 7}));
}

void KvDecodeTest::ExpectSameAsScored(const char* pattern, const char* policy) {
  Batch batch;
  batch.ids = ids_;
  batch.weights.assign(kTokens, 1.0f);
  batch.pattern = ParseLayeredPattern(pattern);
  TokenLayout layout;
  layout.size = kTokens;
  for (int32_t t = 0; t < kTokens; ++t) {
    batch.positions.push_back(t);
    batch.targets.push_back(t + 1 < kTokens ? ids_[t + 1] : -1);
    layout.is_separator.push_back(flags_[ids_[t]]);
  }
  batch.sequences.push_back({0, layout});
  std::vector<float> scored(kTokens), decoded(kTokens);
  Model().Score(batch, scored.data());
  for (int32_t most : {1, kTokens}) {
    KvCache cache = NewCache(policy);
    for (int32_t t = 0; t < kTokens; t += most) {
      const size_t n = std::min(most, kTokens - t);
      Model().ExtendScore({&ids_[t], n}, {&batch.targets[t], n}, &cache, &decoded[t]);
    }
    for (int32_t t = 0; t < kTokens; ++t) EXPECT_NEAR(decoded[t], scored[t], 5e-4) << policy << " t=" << t;
  }
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

TEST_F(KvDecodeTest, ModelsWithAWindowOfTheirOwn) {
  const Logits narrow = Decode("window:9");
  // What a stream still holds of before the window is out of sight, however near
  // its slot is: 9 tokens are more than the recent run has after a trim.
  Plan plan = StreamPlan({.a = 2, .s = 4, .w = 6, .c = 20}, false);
  for (int64_t t = 0; t < kTokens; ++t) std::erase_if(plan.attended[t], [&](int64_t k) { return t - k >= 9; });
  const auto stream = Dense(plan, KvPositions::kAbsolute);
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.sliding_window = 9; });  // the decoder's too
  for (int32_t most : {1, 20}) {
    EXPECT_LT(Difference(Decode("full", most), narrow), kTolerance);
    EXPECT_LT(Difference(Decode("sep-stream:2,4,6,20,positions=absolute", most), stream), kTolerance);
  }
}

TEST_F(KvDecodeTest, ModelsWithAWindowInSomeLayers) {
  const Logits mixed = Decode("window:9,full-layers=1"), narrow = Decode("window:9");
  EXPECT_GT(Difference(mixed, narrow), 100 * kTolerance);
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.sliding_window = 9; });
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.full_layers = {1}; });
  spec_ = params_.spec();
  for (int32_t most : {1, 20}) {
    for (const char* policy : {"full", "window:9,full-layers=1"}) {
      EXPECT_LT(Difference(Decode(policy, most), mixed), kTolerance) << policy;
    }
  }
}

TEST_F(KvDecodeTest, KeysTurnWithALengthThatGrows) {
  ChangeSpec(&params_,
             [&](ModelSpec& spec) { spec.rope.scaling = {.kind = RopeKind::kDynamic, .factor = 4, .original = 8}; });
  spec_ = params_.spec();
  Decoder decoder(backend_.get(), &params_);
  const auto cache_of = [&](const char* policy, int64_t length) {
    return NewKvCache(backend_.get(), spec_, ParseKvForm(policy), flags_, DType::kF32, length);
  };
  const auto logits_of = [&](KvCache* cache, int32_t begin, int32_t count) {
    Matrix rows(1, spec_.vocab);
    decoder.Extend(std::span(ids_).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)), cache, rows.view());
    return std::vector<float>(rows.Row<float>(0), rows.Row<float>(0) + spec_.vocab);
  };
  const auto near = [&](const std::vector<float>& a, const std::vector<float>& b, double error) {
    double most = 0;
    for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
    return most < error;
  };
  for (const char* policy : {"full", "full:dtype=q8_0", "window:9", "sep:3,8", "sink:3,9", "sink:3,9,dtype=q8_0",
                             "sep-stream:2,4,6,20", "sep-stream:2,4,6,20,positions=absolute"}) {
    SCOPED_TRACE(policy);
    // A prompt has the frequencies of its end, whatever its chunks.
    if (std::string_view(policy) == "full") {
      KvCache prompt = cache_of(policy, 0), fixed = cache_of(policy, 30);
      prompt.BeginPrefill(30);
      const auto got = logits_of(&prompt, 0, 30);
      prompt.EndPrefill();
      EXPECT_EQ(got, logits_of(&fixed, 0, 30));
    }
    // Chunks give what single tokens give, and a stream that was saved goes on as if it had not been.
    KvCache whole = cache_of(policy, 0), single = cache_of(policy, 0);
    std::vector<float> last;
    const auto chunked = logits_of(&whole, 0, 40);
    for (int32_t t = 0; t < 40; ++t) last = logits_of(&single, t, 1);
    EXPECT_TRUE(near(chunked, last, kTolerance));
    const auto file = FreshPath("dynamic_state");
    SaveKvState(single, ModelFingerprint(params_), file, {});
    KvCache loaded = cache_of(policy, 0);
    LoadKvState(file, ModelFingerprint(params_), &loaded);
    for (int32_t t = 40; t < 44; ++t) EXPECT_EQ(logits_of(&loaded, t, 1), logits_of(&single, t, 1));
    single.Reset();
    for (int32_t t = 0; t < 40; ++t) EXPECT_EQ(logits_of(&single, t, 1).size(), last.size());
  }
  // Of one layer the keys do not depend on what came before: the last row is that of a pass over all with one base.
  params_ = LoudModel(TinySpec({.layers = 1, .context = kTokens}), 17);
  ChangeSpec(&params_,
             [&](ModelSpec& spec) { spec.rope.scaling = {.kind = RopeKind::kDynamic, .factor = 4, .original = 8}; });
  spec_ = params_.spec();
  Decoder shallow(backend_.get(), &params_);
  KvCache grown = cache_of("full", 0), fixed = cache_of("full", 40);
  Matrix a(1, spec_.vocab), b(1, spec_.vocab);
  for (int32_t t = 0; t < 40; ++t) shallow.Extend(std::span(ids_).subspan(static_cast<size_t>(t), 1), &grown, a.view());
  shallow.Extend(std::span(ids_).first(40), &fixed, b.view());
  for (int32_t v = 0; v < spec_.vocab; ++v) EXPECT_NEAR(a.Row<float>(0)[v], b.Row<float>(0)[v], kTolerance);
  for (const char* policy : {"sink:3,9,positions=cachelen"}) {
    EXPECT_THROW(cache_of(policy, 0), Error);
    EXPECT_NO_THROW(cache_of(policy, 64));
  }
}

TEST_F(KvDecodeTest, Bfloat16StreamsStayClose) {
  const ParamStore low = Cast(params_, DType::kBF16);
  Decoder decoder(backend_.get(), &low);
  for (const char* policy : {"sep-stream:2,4,6,20", "sink:3,9", "sep:3,8", "full"}) {
    std::vector<int32_t> targets(ids_.begin() + 1, ids_.end());
    targets.push_back(-1);
    std::vector<float> exact(kTokens), rounded(kTokens);
    KvCache wide = NewCache(policy),
            narrow = NewKvCache(backend_.get(), spec_, ParseKvForm(policy), flags_, DType::kBF16, kTokens);
    Model().ExtendScore(ids_, targets, &wide, exact.data());
    decoder.ExtendScore(ids_, targets, &narrow, rounded.data());
    double a = 0, b = 0;
    for (int32_t t = 0; t < kTokens; ++t) a += exact[t], b += rounded[t];
    EXPECT_NEAR(a, b, 0.05 * a) << policy;
    EXPECT_EQ(narrow.bytes() * 2, wide.bytes());
  }
}

TEST_F(KvDecodeTest, Q8StreamsStayCloseAndDoNotDependOnThreads) {
  std::vector<int32_t> targets(ids_.begin() + 1, ids_.end());
  targets.push_back(-1);
  for (const std::string policy : {"sep-stream:2,4,6,20", "sep-stream:2,4,6,20,policy=full,positions=absolute",
                                   "sink:3,9", "sep:3,8", "window:9", "fix:2,7,4", "sink:3,9,positions=cachelen"}) {
    const auto nats = [&](const std::string& form) {
      std::vector<float> nll(kTokens);
      KvCache cache = NewCache(form);
      Model().ExtendScore(ids_, targets, &cache, nll.data());
      double sum = 0;
      for (float x : nll) sum += x;
      return sum;
    };
    const double exact = nats(policy), blocks = nats(policy + ",dtype=q8_0");
    EXPECT_NEAR(blocks, exact, 0.02 * exact) << policy;
    EXPECT_NE(blocks, exact) << policy;
    const Logits one = Decode(policy + ",dtype=q8_0", 5, 3);
    SetThreads(2);
    EXPECT_EQ(Decode(policy + ",dtype=q8_0", 5, 3), one) << policy;
    SetThreads(1);
  }
}

}  // namespace
}  // namespace hawser
