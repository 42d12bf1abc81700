#include "hawser/infer/focus.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/model/kv_shape.h"
#include "hawser/model/places.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

constexpr int32_t kFocusIds = 50;
constexpr FocusShape kFocusShape = {.chunk = 16, .prompt = 6, .local = 20};

std::vector<int32_t> FocusIds(int64_t count, uint64_t seed = 1, int32_t first = 1) {
  Rng rng{seed, 77};
  std::vector<int32_t> ids = {first};
  while (std::ssize(ids) < count) ids.push_back(static_cast<int32_t>(3 + rng.Below(kFocusIds - 3)));
  return ids;
}

/// A model, and candidates that are what it is (`own` = 0) or not.
struct FocusReader {
  explicit FocusReader(const ModelSpec& spec, uint64_t own = 9, int32_t bos_id = 1)
      : weights(LoudModel(spec, 5)),
        candidates(spec, CandidateLayout(weights.layout()), DType::kF32),
        base(backend.get(), &weights),
        condenser(backend.get(), WithCandidates(Weights(weights), &candidates)),
        bos(bos_id) {
    InitializeCandidates(LoudModel(spec, own == 0 ? 5 : own), &candidates);
  }
  FocusStream Stream(const FocusShape& shape, int64_t sync = 1) {
    return FocusStream(backend.get(), &base, &condenser, DType::kF32, bos, {shape, sync});
  }
  KvCache Cache() { return NewKvCache(backend.get(), weights.spec(), KvForm(), {}, DType::kF32, 0); }

  std::unique_ptr<Backend> backend = MakeBackend("cpu");
  ParamStore weights, candidates;
  Decoder base, condenser;
  int32_t bos;
};

ModelSpec ReaderSpec(int64_t context = 128) { return TinySpec({.vocab = kFocusIds, .layers = 3, .context = context}); }

std::vector<float> CopyOf(std::span<const float> logits) { return {logits.begin(), logits.end()}; }

double Furthest(std::span<const float> a, std::span<const float> b) {
  double most = 0;
  EXPECT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(static_cast<double>(a[i]) - b[i]));
  return most;
}

std::span<const float> RowOf(const Mat& m, int64_t row) { return {m.Row<float>(row), static_cast<size_t>(m.cols)}; }

template <class F>
void ExpectRefused(F&& f, ErrorKind kind, const std::string& reason) {
  try {
    f();
    ADD_FAILURE() << "was taken: " << reason;
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind) << error.what();
    EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
  }
}

// FO1. With the model's own projections a candidate is the last token of a plain forward over chunk and prompt; with
// others all tokens but the candidate are so.
TEST(FocusReading, CandidatesAreTheLastTokensOfChunkAndPrompt) {
  const std::vector<int32_t> ids = FocusIds(70);
  FocusReader plain(ReaderSpec(), /*own=*/0);
  FocusStream stream = plain.Stream(kFocusShape);
  stream.Prefill(ids);
  ASSERT_EQ(stream.memory(), 50);
  ASSERT_EQ(stream.chunks(), 4);
  for (int64_t c = 0; c < 4; ++c) {
    std::vector<int32_t> chunk(ids.begin() + c * 16, ids.begin() + std::min<int64_t>(50, (c + 1) * 16));
    chunk.push_back(1);
    chunk.insert(chunk.end(), ids.end() - 6, ids.end());
    Batch batch;
    batch.ids = chunk;
    for (size_t i = 0; i < chunk.size(); ++i) batch.positions.push_back(static_cast<int64_t>(i));
    batch.targets.assign(chunk.size(), -1);
    batch.weights.assign(chunk.size(), 0.0f);
    batch.sequences.push_back({.layout = {.size = static_cast<int32_t>(chunk.size())}});
    KeyBank bank(plain.backend.get(), plain.weights.spec(), DType::kF32);
    bank.MakeRaw(batch.rows());
    plain.base.Forward(batch, &bank);
    for (int32_t layer = 0; layer < 3; ++layer) {
      const BankedKeys want = bank.Layer(layer), found = stream.candidates().Layer(layer);
      EXPECT_LT(Furthest(RowOf(found.raw_k, c), RowOf(want.raw_k, batch.rows() - 1)), 2e-5) << c << " " << layer;
      EXPECT_LT(Furthest(RowOf(found.raw_v, c), RowOf(want.raw_v, batch.rows() - 1)), 2e-5) << c << " " << layer;
    }
  }
}

// The window sees rotated candidates at slots 0, 1, ...: a naive twin, row by row through another path of the network.
TEST(FocusReading, TheWindowStandsBehindTheCandidates) {
  FocusReader reader(ReaderSpec());
  const std::vector<int32_t> ids = FocusIds(70);
  FocusStream stream = reader.Stream(kFocusShape);
  const std::vector<float> logits = CopyOf(stream.Prefill(ids));
  Batch batch;
  batch.ids = {1};
  batch.ids.insert(batch.ids.end(), ids.begin() + 50, ids.end());
  for (int64_t i = 0; i < 21; ++i) batch.positions.push_back(4 + i);
  batch.weights.assign(21, 1.0f);
  batch.sequences.push_back({.layout = {.size = 25}, .before = 4});
  KeyBank bank(reader.backend.get(), reader.weights.spec(), DType::kF32);
  bank.MakeSeen(25);
  const ModelSpec& spec = reader.weights.spec();
  const RopeFrequencies frequencies = ComputeFrequencies(spec.rope, spec.context);
  for (int32_t layer = 0; layer < 3; ++layer) {
    const BankedKeys to = bank.Layer(layer), from = stream.candidates().Layer(layer);
    for (int64_t slot = 0; slot < 4; ++slot) {
      std::copy_n(from.raw_v.Row<float>(slot), to.v.cols, to.v.Row<float>(slot));
      for (int32_t head = 0; head < spec.kv_heads; ++head) {
        for (int32_t i = 0; i < spec.head_dim / 2; ++i) {
          const double angle = static_cast<double>(slot) * std::pow(10000.0, -2.0 * i / spec.head_dim);
          const float* k = from.raw_k.Row<float>(slot) + head * spec.head_dim;
          float* rotated = to.k.Row<float>(slot) + head * spec.head_dim;
          const double x = k[i], y = k[i + spec.head_dim / 2];
          rotated[i] = static_cast<float>(x * std::cos(angle) - y * std::sin(angle));
          rotated[i + spec.head_dim / 2] = static_cast<float>(y * std::cos(angle) + x * std::sin(angle));
        }
      }
    }
  }
  for (const int32_t target : {3, 17, 42}) {
    batch.targets.assign(21, -1);
    batch.targets.back() = target;
    std::vector<float> nll(21);
    reader.base.Score(batch, nll.data(), &bank);
    EXPECT_NEAR(nll.back(), -LogprobOf(logits, target, 0).logprob, 2e-5) << target;
  }
}

// FO2.
TEST(FocusReading, AShortTextIsReadAsEver) {
  FocusReader reader(ReaderSpec());
  for (const int64_t tokens : {1, 7, 20, 21}) {  // BOS alone is no memory
    const std::vector<int32_t> ids = FocusIds(tokens);
    FocusStream stream = reader.Stream(kFocusShape);
    KvCache cache = reader.Cache();
    Generation generation(&reader.base, &cache);
    std::vector<float> found = CopyOf(stream.Prefill(ids)), want = CopyOf(generation.Prefill(ids));
    EXPECT_EQ(found, want) << tokens;
    for (const int32_t id : {5, 6, 7}) {
      found = CopyOf(stream.Step(id));
      want = CopyOf(generation.Step(id));
      EXPECT_EQ(found, want) << tokens;
    }
    EXPECT_EQ(stream.chunks(), 0);
  }
  FocusStream stream = reader.Stream(kFocusShape);
  stream.Prefill(FocusIds(22));
  EXPECT_EQ(stream.memory(), 2);
  FocusReader without(ReaderSpec(), 9, /*bos_id=*/-1);
  FocusStream other = without.Stream(kFocusShape);
  other.Prefill(FocusIds(21));
  EXPECT_EQ(other.memory(), 1);
}

// FO3.
TEST(FocusReading, ChunksTogetherAreChunksAlone) {
  FocusReader reader(ReaderSpec());
  const std::vector<int32_t> ids = FocusIds(90);
  FocusStream stream = reader.Stream(kFocusShape);
  stream.Prefill(ids);
  const int64_t memory = stream.memory();
  for (int64_t c = 0; c < stream.chunks(); ++c) {
    KvCache cache = reader.Cache();
    std::vector<int32_t> fed(ids.begin() + c * 16, ids.begin() + std::min(memory, (c + 1) * 16));
    fed.push_back(1);
    fed.insert(fed.end(), ids.end() - 6, ids.end() - 1);
    for (const int32_t id : fed) reader.base.Extend({&id, 1}, &cache, Mat());  // token by token
    KeyBank bank(reader.backend.get(), reader.weights.spec(), DType::kF32);
    bank.MakeRaw(1);
    KvCache* caches[] = {&cache};
    reader.condenser.Peek({&ids.back(), 1}, caches, &bank);
    EXPECT_EQ(cache.seen(), std::ssize(fed)) << "a candidate leaves nothing behind";
    for (int32_t layer = 0; layer < 3; ++layer) {
      const BankedKeys want = bank.Layer(layer), found = stream.candidates().Layer(layer);
      EXPECT_LT(Furthest(RowOf(found.raw_k, c), RowOf(want.raw_k, 0)), 5e-5) << c;
      EXPECT_LT(Furthest(RowOf(found.raw_v, c), RowOf(want.raw_v, 0)), 5e-5) << c;
    }
  }
}

// FO4. In a model without places slots do not show, and the order of chunks does not either.
TEST(FocusReading, OrderOfChunksIsThatOfSlotsAlone) {
  for (const bool places : {true, false}) {
    ModelSpec spec = ReaderSpec();
    if (!places) spec.places = Places::kNone;
    FocusReader reader(spec, 9, /*bos_id=*/-1);
    const std::vector<int32_t> ids = FocusIds(68);  // three chunks of 16 and the window
    std::vector<int32_t> turned(ids.begin() + 16, ids.begin() + 48);
    turned.insert(turned.end(), ids.begin(), ids.begin() + 16);
    turned.insert(turned.end(), ids.begin() + 48, ids.end());
    FocusStream a = reader.Stream(kFocusShape), b = reader.Stream(kFocusShape);
    const std::vector<float> first = CopyOf(a.Prefill(ids)), second = CopyOf(b.Prefill(turned));
    for (int32_t layer = 0; layer < 3; ++layer) {
      for (const int64_t c : {0, 1, 2}) {
        EXPECT_LT(Furthest(RowOf(b.candidates().Layer(layer).raw_k, c),
                           RowOf(a.candidates().Layer(layer).raw_k, (c + 1) % 3)),
                  5e-5);
      }
    }
    if (places) {
      EXPECT_GT(Furthest(first, second), 1e-3);
    } else {
      EXPECT_LT(Furthest(first, second), 1e-4);
    }
  }
}

// FO5, FO8: what a token adds is what reading all anew with the longer prompt and window gives.
TEST(FocusReading, TokensAddWhatReadingAnewGives) {
  FocusReader reader(ReaderSpec());
  const std::vector<int32_t> ids = FocusIds(80);
  FocusStream stream = reader.Stream(kFocusShape), seldom = reader.Stream(kFocusShape, 4);
  stream.Prefill(std::span(ids).first(70));
  seldom.Prefill(std::span(ids).first(70));
  bool ever_apart = false;
  for (int64_t more = 1; more <= 10; ++more) {
    const int32_t id = ids[static_cast<size_t>(69 + more)];
    const std::vector<float> found = CopyOf(stream.Step(id)), frozen = CopyOf(seldom.Step(id));
    FocusStream anew = reader.Stream({.chunk = 16, .prompt = 6 + more, .local = 20 + more});
    const std::vector<float> want = CopyOf(anew.Prefill(std::span(ids).first(static_cast<size_t>(70 + more))));
    EXPECT_LT(Furthest(found, want), 1e-4) << more;
    if (more % 4 == 0) {
      EXPECT_LT(Furthest(frozen, want), 1e-4) << more;
    } else {
      ever_apart = ever_apart || Furthest(frozen, want) > 1e-3;
    }
  }
  EXPECT_TRUE(ever_apart) << "candidates are frozen in between";
}

TEST(FocusReading, RowsAreThoseOfTheFormula) {
  FocusReader reader(ReaderSpec());
  for (const int64_t sync : {1, 3}) {
    FocusStream stream = reader.Stream(kFocusShape, sync);
    stream.Prefill(FocusIds(70));
    const FocusRows before = stream.rows();
    EXPECT_EQ(before.chunk, 50 + 4 * 6);  // BOS and five of the prompt
    EXPECT_EQ(before.candidate, 4);
    EXPECT_EQ(before.local, 21);
    for (int32_t id = 3; id < 9; ++id) stream.Step(id);
    int64_t local = 0;
    for (int64_t token = 1; token <= 6; ++token) local += token % sync == 0 ? 21 + token : 1;
    EXPECT_EQ(stream.rows().chunk - before.chunk, 6 * 4);
    EXPECT_EQ(stream.rows().candidate - before.candidate, 6 / sync * 4);
    EXPECT_EQ(stream.rows().local - before.local, local);
  }
}

TEST(FocusReading, FurtherTurnsAndThreadsAndResetsChangeNothing) {
  FocusReader reader(ReaderSpec());
  const std::vector<int32_t> ids = FocusIds(75);
  std::vector<std::vector<float>> logits;
  for (const int threads : {1, 3}) {
    SetThreads(threads);
    FocusStream stream = reader.Stream(kFocusShape);
    stream.Prefill(FocusIds(40, /*seed=*/8));
    stream.Reset();
    stream.Prefill(std::span(ids).first(60));
    logits.push_back(CopyOf(stream.Prefill(std::span(ids).subspan(60))));
    FocusStream whole = reader.Stream(kFocusShape);
    logits.push_back(CopyOf(whole.Prefill(ids)));
    int asked = 0;
    FocusStream cancelled = reader.Stream(kFocusShape);
    EXPECT_TRUE(cancelled.Prefill(ids, [&](int64_t) { return ++asked > 0; }).empty());
  }
  SetThreads(0);
  for (const std::vector<float>& each : logits) EXPECT_EQ(each, logits[0]);
}

TEST(FocusReading, WhatDoesNotFitOrGoIsNamed) {
  FocusReader reader(ReaderSpec(64));
  const auto prefill = [&](const FocusShape& shape, int64_t tokens) { reader.Stream(shape).Prefill(FocusIds(tokens)); };
  ExpectRefused([&] { prefill({.chunk = 60, .prompt = 6, .local = 20}, 200); }, ErrorKind::kUsage,
                "60 tokens of a chunk, 1 of BOS and 6 of the prompt do not fit the context of 64");
  ExpectRefused([&] { prefill({.chunk = 4, .prompt = 6, .local = 20}, 300); }, ErrorKind::kUsage,
                "70 candidates, 1 BOS and 20 tokens of the window do not fit");
  ExpectRefused([&] { prefill({.chunk = 4, .prompt = 21, .local = 20}, 30); }, ErrorKind::kUsage, "prompt=21");
  ExpectRefused([&] { prefill({.chunk = 0, .prompt = 1, .local = 20}, 30); }, ErrorKind::kUsage, "chunk=0");
  ExpectRefused([&] { reader.Stream(kFocusShape).Prefill({}); }, ErrorKind::kUsage, "at least one token");
  // A stream says so where its answer does not fit any more, and FocusRoom told before.
  FocusStream stream = reader.Stream({.chunk = 16, .prompt = 6, .local = 20});
  stream.Prefill(FocusIds(100));
  const int64_t room = FocusRoom(reader.weights.spec(), kFocusShape, 100, /*bos=*/true);
  ASSERT_EQ(room, 64 - 1 - std::max(16 + 6, 5 + 20));
  for (int64_t i = 0; i < room; ++i) stream.Step(5);
  ExpectRefused([&] { stream.Step(5); }, ErrorKind::kUsage, "39 new ones do not fit");
  EXPECT_EQ(FocusReach(reader.weights.spec(), kFocusShape, 8), 20 + 16 * (64 - 1 - 20 - 8));
  EXPECT_EQ(FocusRoom(reader.weights.spec(), kFocusShape, 12, true), 52);

  const auto refused = [](const std::function<void(ModelSpec*)>& change, const char* reason) {
    ModelSpec spec = ReaderSpec();
    change(&spec);
    ExpectRefused([&] { CheckFocus(spec); }, ErrorKind::kUnsupported, reason);
  };
  refused([](ModelSpec* s) { s->places = Places::kAlibi; }, "biases scores by distance");
  refused([](ModelSpec* s) { s->segments = {.places = 8, .separators = {7}}; }, "segments");
  refused([](ModelSpec* s) { ApplyPlaces("dynamic:factor=4", 128, 512, s); }, "depend on the length");
  refused([](ModelSpec* s) { s->rope.fold = {.shift = 32, .window = 8}; }, "folds distances");
  refused([](ModelSpec* s) { s->sliding_window = 32; }, "see 32 tokens of its context of 128");
}

}  // namespace
}  // namespace hawser
