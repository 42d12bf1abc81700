// Texts of a scheduler end alone, whatever ends them, and take no other with them.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <vector>

#include "hawser/base/out_of_memory.h"
#include "hawser/infer/scheduler.h"
#include "hawser/ops/forwarding_backend.h"
#include "hawser/testing/scheduled_texts.h"

namespace hawser {
namespace {

/// Runs out of memory where `times` passes of a decoder begin, the first of them its pass number `fails`.
struct FailingPasses : ForwardingBackend {
  using ForwardingBackend::ForwardingBackend;
  void EmbedForward(ConstMat table, const int32_t* ids, Mat y, float scale) override {
    if (++passes >= fails && passes < fails + times) throw OutOfMemory(ErrorKind::kIo, "no room");
    ForwardingBackend::EmbedForward(table, ids, y, scale);
  }
  int64_t passes = 0, fails = 0, times = 1;
};

TEST_F(SchedulerTest, TextsEndWhenNobodyListensOrTheyAreCancelled) {
  const auto scheduler = New({.slots = 2, .rows = 16});
  Request request{.prompt = {1, 2, 3}};
  request.generate = {.max_new = 50, .sampler = {.temperature = 0}};
  Heard gone, cancelled, waiting, whole;
  scheduler->Submit(request, gone.Sink(/*most=*/4));
  const uint64_t id = scheduler->Submit(request, cancelled.Sink());
  scheduler->Submit(request, whole.Sink());
  const uint64_t later = scheduler->Submit(request, waiting.Sink());
  for (int i = 0; i < 3; ++i) scheduler->Step();
  std::thread([&] {
    scheduler->Cancel(id);
    scheduler->Cancel(later);
    scheduler->Cancel(12345);
  }).join();
  RunAll(scheduler.get());
  EXPECT_EQ(gone.tokens.size(), 4u);
  EXPECT_FALSE(gone.stop);
  EXPECT_EQ(cancelled.stop, StopReason::kCancelled);
  EXPECT_EQ(cancelled.tokens.size(), 3u);
  EXPECT_EQ(waiting.stop, StopReason::kCancelled);
  EXPECT_EQ(whole.ids(), Alone(request).ids);
}

TEST_F(SchedulerTest, AFaultEndsItsOwnRequestAlone) {
  // Token 60 has an embedding that no number holds, so that what reads it ends in NaN.
  params_.Get(Role::kEmbedding).Row<float>(60)[0] = NAN;
  Decoder decoder(backend_.get(), &params_);
  Scheduler scheduler(backend_.get(), &decoder, &tokenizer_, DType::kF32, {.slots = 3, .rows = 16});
  Request good{.prompt = {1, 2, 3, 4}}, bad{.prompt = {1, 60, 3}};
  good.generate = bad.generate = {.max_new = 8, .sampler = {.temperature = 0, .never = {60}}};
  Heard first, second, third;
  scheduler.Submit(good, first.Sink());
  scheduler.Submit(bad, second.Sink());
  scheduler.Submit(good, third.Sink());
  RunAll(&scheduler);
  ASSERT_TRUE(second.error);
  EXPECT_EQ(second.error->kind(), ErrorKind::kNumeric);
  EXPECT_EQ(first.tokens.size(), 8u);
  EXPECT_EQ(third.ids(), first.ids());
}

TEST_F(SchedulerTest, AListenerThatFailsEndsItsOwnRequestAlone) {
  const auto scheduler = New({.slots = 3, .rows = 16});
  Request request{.prompt = {1, 2, 3, 4}};
  request.generate = {.max_new = 8, .sampler = {.temperature = 0}};
  Heard first, third;
  int heard = 0;
  scheduler->Submit(request, first.Sink());
  scheduler->Submit(request, [&](const Event&) -> bool {
    if (++heard == 4) throw std::bad_alloc();
    return true;
  });
  scheduler->Submit(request, third.Sink());
  RunAll(scheduler.get());
  EXPECT_EQ(heard, 4);
  EXPECT_EQ(first.ids(), Alone(request).ids);
  EXPECT_EQ(third.ids(), first.ids());
  EXPECT_EQ(scheduler->stats().running, 0);
}

TEST_F(SchedulerTest, ATextThatIsLeftIsWholeAgain) {
  const auto scheduler = New({.slots = 2, .rows = 7});
  Request request{.prompt = Prompt(4, 30)};
  request.generate = {.max_new = 1000, .sampler = {.temperature = 0}};
  request.kv = ParseKvForm("sink:2,10");
  Request first = request;
  first.generate.max_new = 20;
  const std::vector<int32_t> wanted = Alone(first).ids;
  for (const int steps : {0, 2, 9}) {            // waiting, reading, writing
    for (const bool vanishes : {false, true}) {  // or cancelled
      const auto text = std::make_shared<LongText>();
      text->cache = scheduler->NewCache(*request.kv);
      request.behind = text;
      Heard heard, other;
      scheduler->Submit({.prompt = {1}, .generate = {.max_new = 60}}, other.Sink());
      scheduler->Step();  // from now on prompts are read in pieces
      bool gone = false;
      const EventSink sink = heard.Sink();
      const uint64_t id = scheduler->Submit(request, [&](const Event& event) { return sink(event) && !gone; });
      for (int i = 0; i < steps; ++i) scheduler->Step();
      vanishes ? void(gone = true) : scheduler->Cancel(id);
      if (vanishes && steps < 9) scheduler->Cancel(id);  // nothing is told while it waits or reads
      RunAll(scheduler.get());
      ASSERT_NE(text->cache, nullptr) << steps;
      std::vector<int32_t> ids = heard.ids();
      Request rest = first;
      rest.behind = text;
      if (steps > 0) rest.prompt.clear();
      rest.generate.max_new = 20 - static_cast<int64_t>(ids.size());
      Heard then;
      scheduler->Submit(rest, then.Sink());
      RunAll(scheduler.get());
      const std::vector<int32_t> more = then.ids();
      ids.insert(ids.end(), more.begin(), more.end());
      EXPECT_EQ(ids, wanted) << steps << " " << vanishes;
    }
  }
}

// What stays of a dense prompt is chosen at its end: of one that is cut nothing was read, and all of it is pending.
TEST_F(SchedulerTest, APromptBehindATextIsReadWholeWhateverCutsIt) {
  for (const char* form : {"sink:2,20", "sink:2,20,prefill=dense", "snapkv:12,window=4", "tova:12", "expected:40%"}) {
    Request first{.prompt = Prompt(4, 25)}, second{.prompt = Prompt(5, 40), .progress = true};
    first.generate = {.max_new = 4, .sampler = {.temperature = 0}};
    second.generate = {.max_new = 12, .sampler = {.temperature = 0}};
    const auto say = [&](Scheduler* scheduler, const std::shared_ptr<LongText>& text, Request request) {
      request.behind = text;
      Heard heard;
      scheduler->Submit(request, heard.Sink());
      RunAll(scheduler);
      return heard.ids();
    };
    const auto begun = [&](Scheduler* scheduler) {
      auto text = std::make_shared<LongText>();
      text->cache = scheduler->NewCache(ParseKvForm(form));
      EXPECT_EQ(say(scheduler, text, first).size(), 4u);
      return text;
    };
    const auto calm = New({.rows = 64});
    const std::vector<int32_t> wanted = say(calm.get(), begun(calm.get()), second);
    ASSERT_EQ(wanted.size(), 12u);
    for (const std::string cut : {"cancelled", "left", "ended", "failed"}) {
      FailingPasses backend(backend_.get());
      Decoder decoder(&backend, &params_);
      Scheduler scheduler(&backend, &decoder, &tokenizer_, DType::kF32, {.slots = 2, .rows = 7});
      const auto text = begun(&scheduler);
      Heard heard, other;
      scheduler.Submit({.prompt = {1}, .generate = {.max_new = 60}}, other.Sink());
      scheduler.Step();  // from now on prompts are read in pieces
      Request request = second;
      request.behind = text;
      bool gone = false;
      const EventSink sink = heard.Sink();
      const uint64_t id = scheduler.Submit(request, [&](const Event& event) { return sink(event) && !gone; });
      for (int i = 0; i < 3; ++i) scheduler.Step();
      EXPECT_EQ(heard.read, (std::vector<int64_t>{7, 14, 21}));
      if (cut == "cancelled") scheduler.Cancel(id);
      if (cut == "left") gone = true;
      if (cut == "ended") scheduler.EndAll(Error(ErrorKind::kIo, "the server ends"));
      if (cut == "failed") {  // both texts together, then each
        backend.fails = backend.passes + 1;
        backend.times = 3;
      }
      RunAll(&scheduler);
      EXPECT_TRUE(heard.tokens.empty()) << form << " " << cut;
      ASSERT_NE(text->cache, nullptr) << form << " " << cut;
      Request rest = second;
      rest.prompt.clear();
      EXPECT_EQ(say(calm.get(), text, rest), wanted) << form << " " << cut;
    }
  }
}

TEST_F(SchedulerTest, APromptOfOneTokenThatIsCutStaysAPrompt) {
  for (const char* form : {"full", "sink:2,20,prefill=dense", "snapkv:12,window=4", "tova:12", "expected:40%"}) {
    FailingPasses backend(backend_.get());
    Decoder decoder(&backend, &params_);
    Scheduler scheduler(&backend, &decoder, &tokenizer_, DType::kF32, {.slots = 2, .rows = 64});
    const auto say = [&](const std::shared_ptr<LongText>& text, std::vector<int32_t> prompt, int64_t most) {
      Request request{.prompt = std::move(prompt), .generate = {.max_new = most, .sampler = {.temperature = 0}}};
      request.behind = text;
      Heard heard;
      scheduler.Submit(request, heard.Sink());
      RunAll(&scheduler);
      return heard.ids();
    };
    std::vector<std::shared_ptr<LongText>> texts;
    for (int i = 0; i < 2; ++i) {
      texts.push_back(std::make_shared<LongText>());
      texts[i]->cache = scheduler.NewCache(ParseKvForm(form));
      say(texts[i], Prompt(4, 45), 0);
    }
    const std::vector<int32_t> wanted = say(texts[0], {7}, 12);
    ASSERT_EQ(wanted.size(), 12u) << form;
    backend.fails = backend.passes + 1;
    backend.times = 1;
    EXPECT_TRUE(say(texts[1], {7}, 12).empty()) << form;
    ASSERT_NE(texts[1]->cache, nullptr) << form;
    EXPECT_EQ(texts[1]->state.pending, (std::vector<int32_t>{7})) << form;
    EXPECT_EQ(say(texts[1], {}, 12), wanted) << form;
    EXPECT_EQ(texts[1]->cache->usage().final_mean, texts[0]->cache->usage().final_mean) << form;
  }
}

TEST_F(SchedulerTest, ADensePromptBehindATextHasRoomForBoth) {
  for (const char* form : {"sink:2,20,prefill=dense", "tova:12", "snapkv:12,window=4"}) {
    Request request{.prompt = Prompt(4, 90)};
    request.generate = {.max_new = 4, .sampler = {.temperature = 0}};
    request.behind = std::make_shared<LongText>();
    const auto scheduler = New({.rows = 16});
    request.behind->cache = scheduler->NewCache(ParseKvForm(form));
    Heard first, second;
    scheduler->Submit(request, first.Sink());
    RunAll(scheduler.get());
    const KvCache& cache = *request.behind->cache;
    const int64_t room = cache.bytes() + cache.BytesFor(91, 4);
    EXPECT_THROW(New({.kv_bytes = room - 1})->Submit(request, second.Sink()), Error) << form;
    const auto exact = New({.rows = 16, .kv_bytes = room});
    exact->Submit(request, second.Sink());
    int64_t most = 0;
    while (exact->Step()) most = std::max(most, exact->stats().kv_bytes);
    EXPECT_LE(most, room) << form;
    EXPECT_EQ(second.tokens.size(), 4u) << form;
  }
}

TEST_F(SchedulerTest, ProgressIsToldAndTimeRunsOut) {
  const auto scheduler = New({.slots = 2, .rows = 10});
  Request slow{.prompt = {1}};
  slow.generate = {.max_new = 100};
  Request request{.prompt = Prompt(3, 35), .progress = true};
  request.generate = {.max_new = 1};
  Request late = request;
  late.timeout = std::chrono::milliseconds(1);
  Heard a, b, c;
  scheduler->Submit(slow, a.Sink());
  scheduler->Step();
  scheduler->Submit(request, b.Sink());
  scheduler->Submit(late, c.Sink());
  std::this_thread::sleep_for(std::chrono::milliseconds(3));
  RunAll(scheduler.get());
  EXPECT_EQ(b.read, (std::vector<int64_t>{10, 20, 30, 35}));
  ASSERT_TRUE(c.error);
  EXPECT_NE(std::string_view(c.error->what()).find("1 ms"), std::string_view::npos);
  Heard d;
  scheduler->Submit(slow, d.Sink());
  scheduler->Step();
  scheduler->EndAll(Error(ErrorKind::kIo, "the server ends"));
  ASSERT_TRUE(d.error);
  EXPECT_THROW(scheduler->Submit(slow, d.Sink()), Error);
}

// A prompt whose policy takes it piece by piece needs several passes, and single tokens beside it the first alone.
TEST_F(SchedulerTest, WhatAPassHasReachedGoesOnWhereItFailsLater) {
  FailingPasses backend(backend_.get());
  Decoder decoder(&backend, &params_);
  Scheduler scheduler(&backend, &decoder, &tokenizer_, DType::kF32, {.slots = 3, .rows = 64});
  Request good{.prompt = {1, 2, 3, 4}}, bad{.prompt = Prompt(5, 60), .kv = ParseKvForm("sep-stream:2,4,8,24")};
  good.generate = bad.generate = {.max_new = 8, .sampler = {.temperature = 0}};
  Heard first, second;
  scheduler.Submit(good, first.Sink());
  scheduler.Step();
  scheduler.Submit(bad, second.Sink());
  backend.fails = backend.passes + 2;
  RunAll(&scheduler);
  EXPECT_FALSE(first.error);
  EXPECT_EQ(first.ids(), Alone(good).ids);
  ASSERT_TRUE(second.error);
  EXPECT_EQ(second.error->kind(), ErrorKind::kIo);
  EXPECT_EQ(scheduler.stats().running, 0);
}

TEST_F(SchedulerTest, APassThatFailsIsRunAgainForEach) {
  FailingPasses backend(backend_.get());
  Decoder decoder(&backend, &params_);
  Scheduler scheduler(&backend, &decoder, &tokenizer_, DType::kF32, {.slots = 3, .rows = 64});
  Request request{.prompt = {1, 2, 3, 4}};
  request.generate = {.max_new = 8, .sampler = {.temperature = 0}};
  Request other = request;
  other.prompt = {7, 8};
  Heard first, second;
  scheduler.Submit(request, first.Sink());
  scheduler.Submit(other, second.Sink());
  scheduler.Step();
  backend.fails = backend.passes + 1;
  RunAll(&scheduler);
  EXPECT_EQ(first.ids(), Alone(request).ids);
  EXPECT_EQ(second.ids(), Alone(other).ids);
}

}  // namespace
}  // namespace hawser
