#include "hawser/kv/policy.h"

#include <gtest/gtest.h>

#include <cmath>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/testing/stream_reference.h"

namespace hawser {
namespace {

using testing::StreamReference;
using testing::StreamStep;

/// A cache without floats: what each token attends to and what is held after it.
class SlotRun {
 public:
  explicit SlotRun(const KvPolicy& policy) : policy_(policy) {}

  struct Row {
    std::vector<int64_t> attended;
    std::vector<int64_t> stored;  // known for the last token of a chunk only
    int64_t most = 0;
  };

  /// Runs one chunk of at most `limit` of the coming tokens; one row a token.
  std::vector<Row> Chunk(std::vector<SlotInfo> coming, size_t limit) {
    if (coming.size() > limit) coming.resize(limit);
    if (policy_.TrimBefore(slots_, coming[0], &keep_)) Trim();
    const int64_t n = policy_.ChunkLimit(slots_, coming);
    EXPECT_GE(n, 1);
    EXPECT_LE(n, static_cast<int64_t>(coming.size()));
    std::vector<Row> rows;
    for (int64_t i = 0; i < n; ++i) {
      slots_.push_back(coming[i]);
      Row row;
      for (size_t k = 0; k < slots_.size(); ++k) {
        if (Sees(slots_.back(), slots_[k])) row.attended.push_back(slots_[k].index);
      }
      rows.push_back(row);
    }
    rows.back().most = static_cast<int64_t>(slots_.size());
    if (policy_.TrimAfter(slots_, &keep_)) Trim();
    for (const SlotInfo& slot : slots_) rows.back().stored.push_back(slot.index);
    return rows;
  }

  std::vector<Row> Run(const std::vector<SlotInfo>& stream, const std::vector<size_t>& limits) {
    std::vector<Row> all;
    for (size_t i = 0; all.size() < stream.size(); ++i) {
      const auto rows =
          Chunk({stream.begin() + static_cast<int64_t>(all.size()), stream.end()}, limits[i % limits.size()]);
      all.insert(all.end(), rows.begin(), rows.end());
    }
    return all;
  }

  const std::vector<SlotInfo>& slots() const { return slots_; }

 private:
  bool Sees(const SlotInfo& q, const SlotInfo& k) const {
    const AttnPattern p = policy_.Pattern();
    return q.index - k.index < p.window || Pinned(p, k);
  }
  void Trim() {
    std::vector<SlotInfo> kept;
    for (int32_t i : keep_) {
      ASSERT_TRUE(kept.empty() || slots_[i].index > kept.back().index);
      kept.push_back(slots_[i]);
    }
    slots_ = kept;
  }

  const KvPolicy& policy_;
  std::vector<SlotInfo> slots_;
  std::vector<int32_t> keep_;
};

std::vector<SlotInfo> Stream(const std::vector<bool>& separators) {
  std::vector<SlotInfo> stream;
  for (size_t i = 0; i < separators.size(); ++i) {
    stream.push_back({.index = static_cast<int64_t>(i), .token = static_cast<int32_t>(i), .separator = separators[i]});
  }
  return stream;
}

std::vector<bool> RandomFlags(Rng& rng, size_t length) {
  const double density = std::array{0.0, 0.1, 0.3, 1.0}[rng.Below(4)];
  std::vector<bool> flags(length);
  for (size_t i = 0; i < length; ++i) flags[i] = rng.Uniform() < density;
  return flags;
}

/// One line of a trace by hand: attended count, separators, past and local window, size.
struct TraceRow {
  int64_t t, attended;
  std::vector<int64_t> sep, past, local;
  int64_t size;
};

std::vector<int64_t> Range(int64_t first, int64_t last) {
  std::vector<int64_t> range;
  for (int64_t i = first; i <= last; ++i) range.push_back(i);
  return range;
}

void ExpectTrace(const char* text, int64_t a, const std::vector<bool>& flags, const std::vector<TraceRow>& trace) {
  const auto policy = MakeKvPolicy(text);
  const auto rows = SlotRun(*policy).Run(Stream(flags), {1});
  for (const TraceRow& want : trace) {
    EXPECT_EQ(static_cast<int64_t>(rows[want.t].attended.size()), want.attended) << text << " t=" << want.t;
    std::vector<int64_t> stored = Range(0, a - 1);
    for (const auto* part : {&want.sep, &want.past, &want.local})
      stored.insert(stored.end(), part->begin(), part->end());
    EXPECT_EQ(rows[want.t].stored, stored) << text << " t=" << want.t;
    EXPECT_EQ(static_cast<int64_t>(stored.size()), want.size) << "the trace itself, t=" << want.t;
  }
}

// 0A 1B 2, 3C 4D 5. 6E 7\n 8F 9G 10H 11I 12\n 13J 14K 15, 16L 17M 18N 19. 20O 21P 22? 23Q 24R 25S 26, 27T
std::vector<bool> WorkedFlags() {
  std::vector<bool> flags(28);
  for (int i : {2, 5, 7, 12, 15, 19, 22, 26}) flags[i] = true;
  return flags;
}

TEST(KvPolicy, WorkedTraceOverflow) {
  ExpectTrace("sep-stream:2,2,4,11", 2, WorkedFlags(),
              {{5, 6, {}, {}, Range(2, 5), 6},
               {8, 9, {}, Range(2, 4), Range(5, 8), 9},
               {9, 10, {}, Range(2, 5), Range(6, 9), 10},
               {10, 11, {}, Range(2, 6), Range(7, 10), 11},
               {11, 12, {5, 7}, {}, Range(8, 11), 8},
               {12, 9, {5, 7}, {8}, Range(9, 12), 9},
               {13, 10, {5, 7}, {8, 9}, Range(10, 13), 10},
               {14, 11, {5, 7}, Range(8, 10), Range(11, 14), 11},
               {15, 12, {5, 7}, {}, Range(12, 15), 8},
               {16, 9, {5, 7}, {12}, Range(13, 16), 9},
               {19, 12, {12, 15}, {}, Range(16, 19), 8},
               {22, 11, {12, 15}, Range(16, 18), Range(19, 22), 11},
               {23, 12, {15, 19}, {}, Range(20, 23), 8},
               {25, 10, {15, 19}, {20, 21}, Range(22, 25), 10},
               {27, 12, {19, 22}, {}, Range(24, 27), 8}});
}

TEST(KvPolicy, WorkedTraceFull) {
  ExpectTrace("sep-stream:2,2,4,11,policy=full", 2, WorkedFlags(),
              {{5, 6, {}, {}, Range(2, 5), 6},
               {8, 9, {}, Range(2, 4), Range(5, 8), 9},
               {9, 10, {}, Range(2, 5), Range(6, 9), 10},
               {10, 8, {2, 5}, {}, Range(7, 10), 8},
               {11, 9, {2, 5}, {7}, Range(8, 11), 9},
               {12, 10, {2, 5}, {7, 8}, Range(9, 12), 10},
               {13, 8, {5, 7}, {}, Range(10, 13), 8},
               {14, 9, {5, 7}, {10}, Range(11, 14), 9},
               {15, 10, {5, 7}, {10, 11}, Range(12, 15), 10},
               {16, 8, {7, 12}, {}, Range(13, 16), 8},
               {19, 8, {12, 15}, {}, Range(16, 19), 8},
               {22, 8, {12, 15}, {}, Range(19, 22), 8},
               {23, 9, {12, 15}, {19}, Range(20, 23), 9},
               {25, 8, {15, 19}, {}, Range(22, 25), 8},
               {27, 10, {15, 19}, {22, 23}, Range(24, 27), 10}});
}

TEST(KvPolicy, StreamWithoutSeparators) {
  const auto policy = MakeKvPolicy("sep-stream:1,2,2,6");
  const auto rows = SlotRun(*policy).Run(Stream(std::vector<bool>(11)), {1});
  const std::vector<size_t> sizes = {1, 2, 3, 4, 5, 6, 3, 4, 5, 6, 3};
  for (size_t t = 0; t < rows.size(); ++t) EXPECT_EQ(rows[t].stored.size(), sizes[t]) << t;
  EXPECT_EQ(rows[6].stored, (std::vector<int64_t>{0, 5, 6}));
  EXPECT_EQ(rows[10].stored, (std::vector<int64_t>{0, 9, 10}));
}

TEST(KvPolicy, SinkKeepsTheFirstAndTheLast) {
  for (const char* text : {"sink:2,4", "sink:2,4,positions=absolute", "sink:2,4,positions=cachelen"}) {
    const auto policy = MakeKvPolicy(text);
    const auto rows = SlotRun(*policy).Run(Stream(std::vector<bool>(20)), {1});
    EXPECT_EQ(rows[6].stored, (std::vector<int64_t>{0, 1, 3, 4, 5, 6}));
    for (size_t t = 6; t < rows.size(); ++t) EXPECT_EQ(rows[t].attended.size(), 7u) << text;
  }
}

TEST(KvPolicy, E2_E4_StreamsMatchTheRecurrence) {
  for (uint64_t seed = 0; seed < 100000; ++seed) {
    Rng rng{.seed = seed, .stream = 1};
    const StreamReference::Sizes z{.a = static_cast<int64_t>(rng.Below(4)),
                                   .s = static_cast<int64_t>(1 + rng.Below(4)),
                                   .w = static_cast<int64_t>(1 + rng.Below(5)),
                                   .c = 0,
                                   .accumulate = true,
                                   .bounded = true};
    const int64_t c = z.a + z.s + z.w + 1 + static_cast<int64_t>(rng.Below(6));
    const bool full = seed % 2 == 1, accumulate = seed % 3 != 1, bounded = seed % 5 > 1;
    const auto policy =
        MakeKvPolicy(fmt::format("sep-stream:{},{},{},{},policy={},accumulate={},bounded={}", z.a, z.s, z.w, c,
                                 full ? "full" : "overflow", accumulate ? "on" : "off", bounded ? "on" : "off"));
    StreamReference reference({z.a, z.s, z.w, c, accumulate, bounded}, full);
    const std::vector<bool> flags = RandomFlags(rng, 8 + rng.Below(25));
    std::vector<StreamStep> want;
    for (bool flag : flags) want.push_back(reference.Step(flag));

    const std::vector<size_t> limits = {1 + rng.Below(3), seed % 3 == 0 ? 1 : 1 + rng.Below(12)};
    SlotRun run(*policy);
    const std::vector<SlotRun::Row> rows = run.Run(Stream(flags), limits);
    for (size_t t = 0; t < rows.size(); ++t) {
      ASSERT_EQ(rows[t].attended, want[t].attended) << policy->Name() << " seed " << seed << " t=" << t;
      if (bounded) {
        ASSERT_LE(rows[t].most, policy->MaxSlots());
      }
      if (rows[t].most == 0) continue;
      const std::vector<int64_t>& stored = rows[t].stored;
      ASSERT_EQ(stored, want[t].stored) << policy->Name() << " seed " << seed << " t=" << t;
      if (bounded) {
        ASSERT_LE(static_cast<int64_t>(stored.size()), c);
      }
      ASSERT_EQ(stored.back(), static_cast<int64_t>(t));
      for (int64_t i = 0; i < std::min(z.a, static_cast<int64_t>(t) + 1); ++i) ASSERT_EQ(stored[i], i);
      if (want[t].compressed) {
        ASSERT_EQ(stored.size(), z.a + want[t].separators.size() + z.w);
        if (bounded) {
          ASSERT_LE(static_cast<int64_t>(want[t].separators.size()), z.s);
        }
        for (int64_t p : want[t].separators) ASSERT_TRUE(flags[p]);
      }
    }
  }
}

// Unbounded separators and room for one past token (c = a + s + w + 1): from the first separator kept on, what a token
// attends to is the mask of the fundamental form with n = w.
TEST(KvPolicy, E6_UnboundedStreamIsTheFundamentalMask) {
  for (uint64_t seed = 0; seed < 500; ++seed) {
    Rng rng{.seed = seed, .stream = 7};
    const auto a = static_cast<int64_t>(rng.Below(4)), w = static_cast<int64_t>(1 + rng.Below(6));
    const auto policy = MakeKvPolicy(fmt::format("sep-stream:{},1,{},{},policy=full,bounded=off", a, w, a + w + 2));
    const auto mask = MakeKvPolicy(fmt::format("sep:{},{}", a, w))->Pattern();
    const std::vector<bool> flags = RandomFlags(rng, 60);
    const auto rows = SlotRun(*policy).Run(Stream(flags), {1});
    bool kept = false;
    for (int64_t t = 0; t < 60; ++t) {
      kept = kept || (t - w >= a && flags[t - w]);
      if (!kept) continue;
      std::vector<int64_t> want;
      for (int64_t k = 0; k <= t; ++k) {
        if (t - k < mask.window || mask.Pins(k, flags[k])) want.push_back(k);
      }
      ASSERT_EQ(rows[t].attended, want) << policy->Name() << " seed " << seed << " t=" << t;
    }
  }
}

TEST(KvPolicy, E6_AllSeparatorsHeldIsTheMaskWithAWindowThatBreathes) {
  for (bool full : {false, true}) {
    const int64_t a = 2, s = 100, w = 3, c = 120;
    const auto policy = MakeKvPolicy(fmt::format("sep-stream:{},{},{},{}{}", a, s, w, c, full ? ",policy=full" : ""));
    Rng rng{.seed = 5, .stream = full};
    std::vector<bool> flags(400);
    int64_t left = 60;
    for (size_t i = a; i < flags.size(); ++i) flags[i] = left > 0 && rng.Uniform() < 0.15 && left-- > 0;
    const auto rows = SlotRun(*policy).Run(Stream(flags), {1});
    int64_t held = 0;
    for (int64_t t = c + 1; t < 400; ++t) {
      const std::vector<int64_t>& v = rows[t].attended;
      int64_t n = 1;  // the unbroken run that ends with t
      while (n < static_cast<int64_t>(v.size()) && v[v.size() - 1 - n] == t - n) ++n;
      held = 0;
      for (int64_t p = a; p <= t - n; ++p) held += flags[p];
      ASSERT_EQ(static_cast<int64_t>(v.size()), a + held + n) << t;
      EXPECT_LE(static_cast<int64_t>(v.size()), full ? c - 1 : c + 1);
      EXPECT_GE(n, full ? w : w + 1);
    }
    EXPECT_GT(held, 40);
  }
}

TEST(KvPolicy, MeanStoredSizeIsTheFormula) {
  // After warming up, over whole periods: (a+s+w+c)/2, and (a+s+w+c-1)/2 for the full trigger.
  for (bool full : {false, true}) {
    const auto policy = MakeKvPolicy(fmt::format("sep-stream:4,6,16,50{}", full ? ",policy=full" : ""));
    const int64_t period = 50 - 26 + (full ? 0 : 1);
    const auto rows = SlotRun(*policy).Run(Stream(std::vector<bool>(1000, true)), {1});
    double sum = 0;
    for (int64_t t = 1000 - 20 * period; t < 1000; ++t) sum += static_cast<double>(rows[t].stored.size());
    EXPECT_DOUBLE_EQ(sum / static_cast<double>(20 * period), full ? 75.0 / 2 : 76.0 / 2);
  }
}

TEST(KvPolicy, E1_PatternPoliciesHoldWhatALaterQuerySees) {
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    Rng rng{.seed = seed, .stream = 2};
    const uint64_t a = rng.Below(4), n = 1 + rng.Below(7);
    const std::string positions = std::array{"absolute", "rank", "cachelen"}[rng.Below(3)];
    const std::string form =
        std::array{fmt::format("window:{}", n), fmt::format("sink:{},{}", a, n), fmt::format("sep:{},{}", a, n),
                   fmt::format("fix:{},{},{}", a, n, 1 + seed % 5)}[seed % 4];
    const auto policy = MakeKvPolicy(form + ",positions=" + positions);
    const AttnPattern pattern = policy->Pattern();
    const std::vector<bool> flags = RandomFlags(rng, 40);
    TokenLayout layout;
    layout.size = 41;
    layout.is_separator.assign(flags.begin(), flags.end());
    layout.is_separator.push_back(0);
    SlotRun run(*policy);
    const auto rows = run.Run(Stream(flags), {1 + rng.Below(4), 1 + rng.Below(20)});
    for (int32_t t = 0; t < 40; ++t) {
      std::vector<int64_t> sees, next;
      for (int32_t k = 0; k <= t; ++k) {
        if (Visible(pattern, layout, t, k)) sees.push_back(k);
        if (Visible(pattern, layout, t + 1, k)) next.push_back(k);
      }
      ASSERT_EQ(rows[t].attended, sees) << policy->Name() << " seed " << seed << " t=" << t;
      if (rows[t].most == 0) continue;
      ASSERT_EQ(rows[t].stored, next) << policy->Name() << " seed " << seed << " t=" << t;
      // Positions that depend on what is held allow nothing in a chunk that some row does not see.
      if (policy->positions() != KvPositions::kAbsolute) {
        ASSERT_EQ(rows[t].most, static_cast<int64_t>(sees.size()));
      }
      if (policy->MaxSlots() >= 0) {
        ASSERT_LE(rows[t].most, policy->MaxSlots());
      }
    }
  }
}

TEST(KvPolicy, FixedIntervalsPinEachDthToken) {
  // The reference keeps 382 of 876: 3 + 256 + floor(617 / 5).
  const auto policy = MakeKvPolicy("fix:3,256,5");
  const auto rows = SlotRun(*policy).Run(Stream(std::vector<bool>(876)), {100});
  EXPECT_EQ(rows.back().attended.size(), 382u);
  EXPECT_EQ(rows.back().attended[3], 7);
  EXPECT_EQ(rows.back().attended[4], 12);
}

TEST(KvPolicy, FormulaMeanIsTheMeanOfTheStoredSizes) {
  const auto mean = [](const char* text, const std::vector<bool>& flags) {
    const auto policy = MakeKvPolicy(text);
    double sum = 0;
    for (const auto& row : SlotRun(*policy).Run(Stream(flags), {1})) sum += static_cast<double>(row.stored.size());
    return sum / static_cast<double>(flags.size());
  };
  const std::vector<bool> none(400), all(400, true);
  for (const char* text : {"full", "window:9", "sink:3,20", "sep:3,17", "window:500", "sink:450,3"}) {
    EXPECT_DOUBLE_EQ(MakeKvPolicy(text)->FormulaMean(400, 0.0), mean(text, none)) << text;
  }
  EXPECT_DOUBLE_EQ(MakeKvPolicy("sep:3,17")->FormulaMean(400, 1.0), mean("sep:3,17", all));
  std::vector<bool> spread(400);
  for (size_t i = 0; i < spread.size(); ++i) spread[i] = i % 8 == 5;
  EXPECT_NEAR(MakeKvPolicy("sep:3,17")->FormulaMean(400, 0.125), mean("sep:3,17", spread), 1.0);
  EXPECT_NEAR(MakeKvPolicy("fix:3,17,4")->FormulaMean(400, 0), mean("fix:3,17,4", none), 1.0);
  EXPECT_NEAR(MakeKvPolicy("sep-stream:4,6,16,50")->FormulaMean(100000, 0.1), 38.0, 1e-9);
  EXPECT_NEAR(MakeKvPolicy("sep-stream:4,6,16,50,policy=full")->FormulaMean(100000, 0.1), 37.5, 1e-9);
  EXPECT_DOUBLE_EQ(MakeKvPolicy("sep-stream:4,6,16,50")->FormulaMean(50, 0.1),
                   mean("sep-stream:4,6,16,50", std::vector<bool>(50)));
  EXPECT_TRUE(std::isnan(MakeKvPolicy("sep-stream:4,6,16,50,bounded=off")->FormulaMean(1000, 0.1)));
}

TEST(KvPolicy, ChunksAreAsLongAsTheyMayBe) {
  const auto limit = [](const char* text, size_t resident, size_t coming) {
    const auto policy = MakeKvPolicy(text);
    SlotRun run(*policy);
    const auto stream = Stream(std::vector<bool>(resident + coming));
    if (resident > 0) run.Run({stream.begin(), stream.begin() + static_cast<int64_t>(resident)}, {1});
    return policy->ChunkLimit(run.slots(), {stream.begin() + static_cast<int64_t>(resident), stream.end()});
  };
  EXPECT_EQ(limit("full", 7, 5000), 5000);
  EXPECT_EQ(limit("window:64", 1000, 5000), 512);
  EXPECT_EQ(limit("sep:3,64", 1000, 5000), 512);
  EXPECT_EQ(limit("sink:4,60,positions=absolute", 1000, 5000), 512);
  EXPECT_EQ(limit("sink:4,60", 0, 5000), 65);
  EXPECT_EQ(limit("sink:4,60", 1000, 5000), 1);
  EXPECT_EQ(limit("sep-stream:4,64,256,800", 0, 5000), 801);
  EXPECT_EQ(limit("sep-stream:4,64,256,800,policy=full", 0, 5000), 799);
  EXPECT_EQ(limit("sep-stream:4,64,256,800", 801, 5000), 801 - 260);
  EXPECT_EQ(limit("sep-stream:4,64,256,800", 801, 3), 3);
}

/// A StreamingLLM cache (arXiv:2309.17453): the first `a` and the last `recent` tokens; one goes as soon as one too
/// many has been attended to.
std::vector<std::vector<int64_t>> StreamingLlm(int64_t a, int64_t recent, int64_t length) {
  std::vector<std::vector<int64_t>> attended;
  std::vector<int64_t> held;
  for (int64_t t = 0; t < length; ++t) {
    held.push_back(t);
    attended.push_back(held);
    if (static_cast<int64_t>(held.size()) > a + recent) held.erase(held.begin() + a);
  }
  return attended;
}

TEST(KvPolicy, E7_SinkIsStreamingLlm) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    Rng rng{.seed = seed, .stream = 3};
    const auto a = static_cast<int64_t>(rng.Below(6)), recent = static_cast<int64_t>(1 + rng.Below(9));
    const std::vector<bool> flags = RandomFlags(rng, 40);  // separators mean nothing here
    const std::string positions = std::array{"absolute", "rank", "cachelen"}[seed % 3];
    const auto policy = MakeKvPolicy(fmt::format("sink:{},{},positions={}", a, recent, positions));
    const auto rows = SlotRun(*policy).Run(Stream(flags), {1 + rng.Below(3), 1 + rng.Below(20)});
    const auto want = StreamingLlm(a, recent, 40);
    for (int64_t t = 0; t < 40; ++t) ASSERT_EQ(rows[t].attended, want[t]) << policy->Name() << " t=" << t;
  }
  // The trace by hand: a = 2, four recent ones.
  EXPECT_EQ(StreamingLlm(2, 4, 8)[6], (std::vector<int64_t>{0, 1, 2, 3, 4, 5, 6}));
  EXPECT_EQ(StreamingLlm(2, 4, 8)[7], (std::vector<int64_t>{0, 1, 3, 4, 5, 6, 7}));
}

// Without separators a stream is StreamingLLM that evicts in bulk: the first a and a recent run of w to c - a tokens
// that loses its surplus at once, every c - a - w + 1 tokens.
TEST(KvPolicy, E7_StreamsWithoutSeparatorsEvictInBulk) {
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    Rng rng{.seed = seed, .stream = 4};
    const auto a = static_cast<int64_t>(rng.Below(4)), s = static_cast<int64_t>(1 + rng.Below(3));
    const auto w = static_cast<int64_t>(1 + rng.Below(6));
    const int64_t c = a + s + w + 1 + static_cast<int64_t>(rng.Below(5)), period = c - a - w + 1;
    const auto policy = MakeKvPolicy(fmt::format("sep-stream:{},{},{},{}", a, s, w, c));
    const auto rows = SlotRun(*policy).Run(Stream(std::vector<bool>(60)), {1 + rng.Below(30)});
    for (int64_t t = 0; t < 60; ++t) {
      const int64_t run = t <= c ? t + 1 - a : w + 1 + (t - c - 1) % period;
      std::vector<int64_t> want = Range(0, std::min(a - 1, t));
      for (int64_t k = std::max(a, t - run + 1); k <= t; ++k) want.push_back(k);
      ASSERT_EQ(rows[t].attended, want) << policy->Name() << " t=" << t;
    }
  }
}

TEST(KvPolicy, E7_ExtremesAreFullAttention) {
  const std::vector<bool> all(30, true), none(30, false);
  for (const auto& [text, flags] : std::vector<std::pair<const char*, std::vector<bool>>>{
           {"sep:0,1", all}, {"sep:0,30", none}, {"window:30", none}, {"sink:30,1", none}, {"full", none}}) {
    const auto policy = MakeKvPolicy(text);
    const auto rows = SlotRun(*policy).Run(Stream(flags), {1});
    for (int64_t t = 0; t < 30; ++t) EXPECT_EQ(rows[t].attended, Range(0, t)) << text;
  }
  // No initial tokens and no separators: a sliding window.
  for (const char* text : {"sep:0,5", "sink:0,4", "window:5"}) {
    const auto policy = MakeKvPolicy(text);
    const auto rows = SlotRun(*policy).Run(Stream(none), {1});
    for (int64_t t = 0; t < 30; ++t) EXPECT_EQ(rows[t].attended, Range(std::max<int64_t>(0, t - 4), t)) << text;
  }
}

}  // namespace
}  // namespace hawser
