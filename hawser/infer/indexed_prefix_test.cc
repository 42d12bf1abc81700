// Texts of a scheduler behind an indexed prefix: which begin there, and that they are those of the whole prompt.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/infer/generation.h"
#include "hawser/infer/scheduler.h"
#include "hawser/infer/squeeze.h"
#include "hawser/kv/state.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/scheduled_texts.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

constexpr int64_t kIndexed = 400;

class IndexedPrefixTest : public ::testing::Test {
 protected:
  IndexedPrefixTest() {
    SetThreads(1);
    prefix_ = Ids(1, kIndexed);
    index_ = std::make_shared<const PrefixIndex>(
        IndexPrefix(backend_.get(), &decoder_, Weights(params_), prefix_, {}, 0, {.window = 32}));
  }
  ~IndexedPrefixTest() override { SetThreads(0); }

  std::vector<int32_t> Ids(uint64_t seed, int64_t count) const {
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < count; ++i) ids.push_back(static_cast<int32_t>(RandomBits(seed, 7, i) % 64));
    return ids;
  }
  /// A prompt that begins with the prefix, and `more` tokens of its own.
  Request Behind(uint64_t seed, int64_t more) const {
    Request request{.prompt = prefix_};
    const std::vector<int32_t> own = Ids(seed, more);
    request.prompt.insert(request.prompt.end(), own.begin(), own.end());
    request.generate = {.max_new = 12, .sampler = {.temperature = 0}};
    return request;
  }
  std::unique_ptr<Scheduler> New(const std::string& keep, SchedulerOptions options = {}) {
    options.prefix = std::make_shared<SqueezedReader>(backend_.get(), index_, ParseKeepRule(keep));
    return std::make_unique<Scheduler>(backend_.get(), &decoder_, &tokenizer_, DType::kF32, options);
  }
  std::vector<int32_t> Dense(const Request& request) {
    KvCache cache = NewKvCache(backend_.get(), spec_, {}, {}, DType::kF32, 0);
    Generation generation(&decoder_, &cache);
    return Generate(generation, request.prompt, tokenizer_, request.generate).ids;
  }
  Heard Ask(Scheduler* scheduler, Request request) {
    Heard heard;
    scheduler->Submit(std::move(request), heard.Sink());
    while (scheduler->Step()) {
    }
    EXPECT_FALSE(heard.error) << heard.error->what();
    return heard;
  }

  ModelSpec spec_ = TinySpec({.context = 2048});
  ParamStore params_ = LoudModel(spec_, 23);
  testing::ByteTokenizer tokenizer_{64};
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  Decoder decoder_{backend_.get(), &params_};
  std::vector<int32_t> prefix_;
  std::shared_ptr<const PrefixIndex> index_;
};

TEST_F(IndexedPrefixTest, PromptsThatBeginWithItAreNotReadThatFar) {
  const auto scheduler = New("1", {.slots = 2, .rows = 64});
  for (const int64_t more : {1, 20, 100}) {
    const Request request = Behind(5, more);
    const int64_t read = scheduler->stats().prompt_tokens;
    const Heard heard = Ask(scheduler.get(), request);
    EXPECT_EQ(heard.ids(), Dense(request)) << more;  // all keys are read
    EXPECT_EQ(heard.cached, kIndexed);
    EXPECT_EQ(heard.end.prompt_tokens, kIndexed + more);
    EXPECT_EQ(heard.end.indexed_tokens, kIndexed);
    EXPECT_DOUBLE_EQ(heard.end.indexed_share, 1);
    EXPECT_EQ(heard.end.evicted_tokens, 0);
    EXPECT_EQ(scheduler->stats().prompt_tokens - read, more);
  }
  EXPECT_EQ(scheduler->stats().indexed, 3);
  Request shown = Behind(5, 3);
  shown.show_cache = true;
  EXPECT_EQ(Ask(scheduler.get(), shown).end.held, std::string(kIndexed, 'i') + std::string(3 + 11, 'w'));
}

TEST_F(IndexedPrefixTest, OthersRunAsWithoutIt) {
  const auto scheduler = New("0.2", {.slots = 2, .rows = 64});
  std::vector<Request> others(4, Behind(5, 20));
  others[0].prompt[kIndexed - 1] ^= 1;  // the last token of the prefix is another
  others[1].prompt.resize(kIndexed);    // nothing is behind it
  others[2].prompt.resize(100);
  others[3].prompt_logprobs = true;
  others[3].top_logprobs = 0;
  for (const Request& request : others) {
    const Heard heard = Ask(scheduler.get(), request);
    EXPECT_EQ(heard.ids(), Dense(request));
    EXPECT_EQ(heard.cached, 0);
    EXPECT_EQ(heard.end.indexed_tokens, 0);
  }
  Request bounded = Behind(5, 20);
  bounded.kv = ParseKvForm("sink:4,60");
  EXPECT_EQ(Ask(scheduler.get(), bounded).end.indexed_tokens, 0);
  EXPECT_EQ(scheduler->stats().indexed, 0);
}

TEST_F(IndexedPrefixTest, WhatIsReadIsSaidByTheSchedulerOrTheRequest) {
  const auto scheduler = New("0.2", {.slots = 2, .rows = 64, .prefix_bytes = 1 << 20});
  const double share = Ask(scheduler.get(), Behind(5, 20)).end.indexed_share;
  EXPECT_GT(share, 0.05);
  EXPECT_LE(share, 0.2);
  Request more = Behind(5, 20);
  more.keep = ParseKeepRule("0.6");
  const Heard heard = Ask(scheduler.get(), more);
  EXPECT_EQ(heard.cached, kIndexed);  // what was read by another rule is another text
  EXPECT_GT(heard.end.indexed_share, 0.4);
  // By the same rule what prompts have in common behind the prefix is read once.
  more.prompt.push_back(9);
  EXPECT_GE(Ask(scheduler.get(), more).cached, kIndexed + 20);
}

TEST_F(IndexedPrefixTest, SeedsGiveTheSameBitsAtAnyLoad) {
  Request request = Behind(5, 70);
  request.generate.sampler = {.temperature = 0.7, .seed = 4};
  request.top_logprobs = 2;
  request.share = false;
  const SchedulerOptions options{.slots = 8, .rows = 24, .prefix_bytes = 1 << 20};
  const Heard alone = Ask(New("0.3", options).get(), request);
  const auto scheduler = New("0.3", options);
  std::vector<Heard> others(6);
  Heard busy;
  for (size_t i = 0; i < others.size(); ++i) {
    if (i == 3) scheduler->Submit(request, busy.Sink());
    scheduler->Submit(i % 2 == 0 ? Behind(i, 30) : Request{.prompt = Ids(i, 50), .generate = {.max_new = 9}},
                      others[i].Sink());
    scheduler->Step();
  }
  while (scheduler->Step()) {
  }
  ASSERT_EQ(busy.tokens.size(), alone.tokens.size());
  for (size_t i = 0; i < busy.tokens.size(); ++i) {
    EXPECT_EQ(busy.tokens[i].id, alone.tokens[i].id);
    EXPECT_EQ(busy.tokens[i].logprob, alone.tokens[i].logprob);
  }
}

// Pieces of a prompt end where tiles do, whatever else is read in a step.
TEST_F(IndexedPrefixTest, WhatIsReadDoesNotHangOnLoad) {
  const Request request = Behind(5, 250);
  const SchedulerOptions options{.slots = 8, .rows = 100};
  const Heard alone = Ask(New("0.3", options).get(), request);
  const auto scheduler = New("0.3", options);
  std::vector<Heard> others(4);
  Heard busy;
  for (size_t i = 0; i < others.size(); ++i) {
    if (i == 2) scheduler->Submit(request, busy.Sink());
    scheduler->Submit({.prompt = Ids(i + 20, 130 + 7 * static_cast<int64_t>(i)), .generate = {.max_new = 20}},
                      others[i].Sink());
    scheduler->Step();
  }
  while (scheduler->Step()) {
  }
  EXPECT_EQ(busy.ids(), alone.ids());
  EXPECT_DOUBLE_EQ(busy.end.indexed_share, alone.end.indexed_share);
}

TEST_F(IndexedPrefixTest, ATextGoesOnBehindIt) {
  const auto scheduler = New("0.4", {.slots = 2, .rows = 64});
  Request whole = Behind(5, 20);
  whole.generate.max_new = 30;
  const std::vector<int32_t> wanted = Ask(scheduler.get(), whole).ids();
  const auto text = std::make_shared<LongText>();
  text->cache = scheduler->NewIndexedCache({});
  EXPECT_EQ(text->cache->seen(), kIndexed);
  Request part{.prompt = {whole.prompt.begin() + kIndexed, whole.prompt.end()}};
  part.behind = text;
  part.generate = whole.generate;
  std::vector<int32_t> ids;
  for (const int64_t more : {11, 19}) {
    part.generate.max_new = more;
    const Heard heard = Ask(scheduler.get(), part);
    const std::vector<int32_t> some = heard.ids();
    ids.insert(ids.end(), some.begin(), some.end());
    EXPECT_EQ(heard.end.indexed_tokens, kIndexed);
    part.prompt.clear();
  }
  EXPECT_EQ(ids, wanted);
}

TEST_F(IndexedPrefixTest, AStateKnowsItsPrefix) {
  const auto path = FreshFolder("indexed_state") / "s.kv";
  const auto behind = [&](std::shared_ptr<const PrefixIndex> index) {
    KvCache cache = NewKvCache(backend_.get(), spec_, {}, {}, DType::kF32, 0);
    if (index != nullptr) cache.Follow(std::make_shared<SqueezedReader>(backend_.get(), index, ParseKeepRule("0.4")));
    return cache;
  };
  const std::vector<int32_t> text = Ids(8, 40);
  const auto logits = [&](KvCache* cache) {
    Matrix row(1, spec_.vocab);
    decoder_.Extend(std::span(text).subspan(20), cache, row);
    return std::vector<float>(row.Row<float>(0), row.Row<float>(0) + spec_.vocab);
  };
  KvCache cache = behind(index_);
  decoder_.Extend(std::span(text).first(20), &cache, {});
  const uint64_t model = ModelFingerprint(Weights(params_));
  SaveKvState(cache, model, path, {});
  const std::vector<float> wanted = logits(&cache);
  EXPECT_EQ(ReadKvStateInfo(path).prefix, PrefixName(*index_));
  EXPECT_EQ(ReadKvStateInfo(path).seen, kIndexed + 20);
  KvCache again = behind(index_);
  LoadKvState(path, model, &again);
  EXPECT_EQ(again.seen(), kIndexed + 20);
  EXPECT_EQ(logits(&again), wanted);
  // Not without it, nor behind another; and what stands alone not behind one.
  KvCache plain = behind(nullptr);
  ExpectError(ErrorKind::kUsage, {"another indexed prefix (--index): 400 tokens", "this run has none"},
              [&] { LoadKvState(path, model, &plain); });
  EXPECT_EQ(plain.seen(), 0);
  const auto other = std::make_shared<const PrefixIndex>(
      IndexPrefix(backend_.get(), &decoder_, Weights(params_), prefix_, {}, 0, {.window = 40}));
  KvCache elsewhere = behind(other);
  ExpectError(ErrorKind::kUsage, {"another indexed prefix"}, [&] { LoadKvState(path, model, &elsewhere); });
  decoder_.Extend(std::span(text).first(20), &plain, {});
  SaveKvState(plain, model, path, {});
  KvCache follows = behind(index_);
  ExpectError(ErrorKind::kUsage, {"(--index): none"}, [&] { LoadKvState(path, model, &follows); });
}

TEST_F(IndexedPrefixTest, FormsThatDropKeysAreRefused) {
  ExpectError(ErrorKind::kUnsupported, {"drops keys", "--kv full"},
              [&] { New("0.2", {.kv = ParseKvForm("sink:4,60")}); });
}

}  // namespace
}  // namespace hawser
