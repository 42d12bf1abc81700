// Texts that share passes, prefixes and a queue are the texts that each request gives alone.
#include "hawser/infer/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/infer/generation.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/scheduled_texts.h"

namespace hawser {
namespace {

TEST_F(SchedulerTest, ManyTextsAtOnceAreEachAlone) {
  const auto scheduler = New({.slots = 3, .rows = 7, .prefix_bytes = 1 << 20});
  const char* const forms[] = {"full", "sink:2,10", "window:9", "full", "sink:3,12,positions=absolute"};
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 12; ++i) {
    Request request{.prompt = Prompt(i, 1 + static_cast<int64_t>(i * i) % 37)};
    request.generate = {.max_new = static_cast<int64_t>(5 + 3 * i)};
    request.generate.sampler = {.temperature = i % 3 == 0 ? 0.0 : 0.5, .seed = i};
    if (i % 4 == 1) request.generate.stops = {"7"};
    request.kv = ParseKvForm(forms[i % std::size(forms)]);
    requests.push_back(request);
  }
  std::vector<Heard> heard(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(scheduler->Submit(requests[i], heard[i].Sink()), i + 1);
    if (i % 3 == 2) scheduler->Step();  // they come while others are under way
  }
  RunAll(scheduler.get());
  for (size_t i = 0; i < requests.size(); ++i) {
    const GenerateResult alone = Alone(requests[i]);
    ASSERT_TRUE(heard[i].stop) << i;
    EXPECT_EQ(heard[i].stop, alone.stop) << i;
    EXPECT_EQ(heard[i].text, alone.text) << i;
    EXPECT_EQ(heard[i].end.new_tokens, static_cast<int64_t>(alone.ids.size()));
  }
  const SchedulerStats stats = scheduler->stats();
  EXPECT_EQ(stats.running, 0);
  EXPECT_EQ(stats.waiting, 0);
}

TEST_F(SchedulerTest, WhatIsNotSharedIsTheSameToTheBitAtAnyLoad) {
  const char* const forms[] = {"full", "sink:2,10", "window:9"};
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 12; ++i) {
    Request request{.prompt = Prompt(i, 1 + static_cast<int64_t>(11 * i) % 67), .top_logprobs = 2};
    request.generate = {.max_new = 12, .sampler = {.temperature = 0.7, .seed = i}};
    request.prompt_logprobs = i % 3 == 0;
    request.kv = ParseKvForm(forms[i % std::size(forms)]);
    request.share = false;
    requests.push_back(request);
  }
  const SchedulerOptions options{.slots = 30, .rows = 24, .prefix_bytes = 1 << 20};
  const auto run = [&](std::span<const Request> some, bool busy) {
    const auto scheduler = New(options);
    std::vector<Heard> heard(some.size()), others(2 * some.size());
    for (size_t i = 0; i < some.size(); ++i) {
      for (size_t k = 2 * i; busy && k < 2 * i + 2; ++k) {
        Request other{.prompt = Prompt(k + 50, 1 + static_cast<int64_t>(7 * k) % 90)};
        other.generate = {.max_new = 20};
        scheduler->Submit(other, others[k].Sink());
      }
      scheduler->Submit(some[i], heard[i].Sink());
      if (busy && i % 2 == 0) scheduler->Step();
    }
    RunAll(scheduler.get());
    return heard;
  };
  const auto same = [](const TokenLogprob& a, const TokenLogprob& b) {
    return a.id == b.id && a.logprob == b.logprob && a.top == b.top;
  };
  const std::vector<Heard> busy = run(requests, true);
  for (size_t i = 0; i < requests.size(); ++i) {
    const Heard alone = run({&requests[i], 1}, false)[0];
    ASSERT_EQ(alone.tokens.size(), 12u);
    EXPECT_TRUE(std::ranges::equal(busy[i].tokens, alone.tokens, same)) << i;
    EXPECT_TRUE(std::ranges::equal(busy[i].prompt, alone.prompt, same)) << i;
  }
}

// Pieces that do not depend on the load may be longer than what a step reads of others.
TEST_F(SchedulerTest, LongPiecesOfTextsApartAreRead) {
  const auto scheduler = New({.slots = 2, .rows = 3000});
  Request request{.prompt = Prompt(6, 1100), .share = false};
  request.generate = {.max_new = 1, .sampler = {.temperature = 0}};
  Heard heard;
  scheduler->Submit(request, heard.Sink());
  RunAll(scheduler.get());
  EXPECT_EQ(heard.ids(), Alone(request).ids);
}

TEST_F(SchedulerTest, PrefixesAreReadOnce) {
  const auto scheduler = New({.slots = 4, .rows = 64, .prefix_bytes = 8 << 20});
  const std::vector<int32_t> shared = Prompt(5, 100);
  std::vector<Request> requests;
  for (uint64_t i = 0; i < 6; ++i) {
    Request request{.prompt = shared};
    const std::vector<int32_t> own = Prompt(50 + i, 7);
    request.prompt.insert(request.prompt.end(), own.begin(), own.end());
    request.generate = {.max_new = 12, .sampler = {.temperature = 0}};
    requests.push_back(request);
  }
  std::vector<Heard> heard(requests.size());
  for (size_t i = 0; i < requests.size(); ++i) scheduler->Submit(requests[i], heard[i].Sink());
  RunAll(scheduler.get());
  EXPECT_EQ(heard[0].cached, 0);
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_GE(heard[i].cached, i > 0 ? 100 : 0) << i;  // also of a neighbour that is still under way
    EXPECT_EQ(heard[i].ids(), Alone(requests[i]).ids) << i;
  }
  // A turn later in the same talk, under a cache that drops keys: what it has seen is a beginning of the prompt.
  for (const char* form : {"full", "sink:2,20"}) {
    Request first{.prompt = Prompt(6, 60)};
    first.generate = {.max_new = 10, .sampler = {.temperature = 0}};
    first.kv = ParseKvForm(form);
    Heard one, two, again;
    scheduler->Submit(first, one.Sink());
    RunAll(scheduler.get());
    Request second = first;
    const std::vector<int32_t> answer = one.ids(), more = Prompt(7, 9);
    second.prompt.insert(second.prompt.end(), answer.begin(), answer.end());
    second.prompt.insert(second.prompt.end(), more.begin(), more.end());
    scheduler->Submit(second, two.Sink());
    scheduler->Submit(first, again.Sink());
    RunAll(scheduler.get());
    EXPECT_EQ(two.cached, 69) << form;  // the last token was never fed
    EXPECT_EQ(two.ids(), Alone(second).ids) << form;
    EXPECT_EQ(again.ids(), one.ids()) << form;
  }
}

TEST_F(SchedulerTest, DensePromptsAreReadWhole) {
  // What stays of one hangs on all of its queries, and on where it began.
  const auto scheduler = New({.slots = 4, .rows = 16, .prefix_bytes = 8 << 20});
  const char* const forms[] = {"snapkv:50%,window=8", "tova:20", "expected:50%", "sink:2,20,prefill=dense"};
  for (const char* form : forms) {
    Request first{.prompt = Prompt(6, 60)};
    first.generate = {.max_new = 10, .sampler = {.temperature = 0}};
    first.kv = ParseKvForm(form);
    Request second = first, other = first;
    const std::vector<int32_t> more = Prompt(7, 9);
    second.prompt.insert(second.prompt.end(), more.begin(), more.end());
    other.kv = KvForm();
    Heard one, two, beside;
    scheduler->Submit(first, one.Sink());
    scheduler->Submit(other, beside.Sink());
    RunAll(scheduler.get());
    scheduler->Submit(second, two.Sink());
    RunAll(scheduler.get());
    EXPECT_EQ(two.cached, 0) << form;
    EXPECT_EQ(one.ids(), Alone(first).ids) << form;
    EXPECT_EQ(two.ids(), Alone(second).ids) << form;
    EXPECT_EQ(beside.ids(), Alone(other).ids) << form;
  }
}

TEST_F(SchedulerTest, LogProbabilitiesAreThoseOfTheModel) {
  const auto scheduler = New({.slots = 2, .rows = 16});
  Request request{.prompt = Prompt(9, 150), .top_logprobs = 3, .prompt_logprobs = true};
  request.generate = {.max_new = 5, .sampler = {.temperature = 0}};
  Heard heard, none;
  Request alone = request;
  alone.generate.max_new = 0;
  scheduler->Submit(request, heard.Sink());
  scheduler->Submit(alone, none.Sink());
  RunAll(scheduler.get());
  std::vector<int32_t> ids = request.prompt;
  const std::vector<int32_t> made = heard.ids();
  ids.insert(ids.end(), made.begin(), made.end());
  const std::vector<float> want = Logprobs(ids);
  ASSERT_EQ(heard.prompt.size(), 150u);
  ASSERT_EQ(none.prompt.size(), 150u);
  EXPECT_TRUE(none.tokens.empty());
  EXPECT_EQ(none.stop, StopReason::kLength);
  for (size_t t = 1; t < ids.size(); ++t) {
    const TokenLogprob& token = t < 150 ? heard.prompt[t] : heard.tokens[t - 150];
    EXPECT_EQ(token.id, ids[t]);
    EXPECT_NEAR(token.logprob, want[t - 1], 1e-4);
    ASSERT_EQ(token.top.size(), 3u);
    EXPECT_TRUE(std::ranges::is_sorted(token.top, std::greater(), &std::pair<int32_t, float>::second));
    const bool drawn = t >= 150;
    EXPECT_TRUE(!drawn || token.top[0] == std::pair(token.id, token.logprob));
  }
}

TEST_F(SchedulerTest, LogprobOfIsTheLogOfTheSoftmax) {
  const std::vector<float> logits = {1.0f, 3.0f, 3.0f, -2.0f, 0.5f};
  double sum = 0;
  for (const float x : logits) sum += std::exp(static_cast<double>(x));
  const TokenLogprob found = LogprobOf(logits, 4, 9);
  EXPECT_NEAR(found.logprob, 0.5 - std::log(sum), 1e-6);
  std::vector<int32_t> order;
  for (const auto& [id, logprob] : found.top) {
    order.push_back(id);
    EXPECT_NEAR(logprob, logits[static_cast<size_t>(id)] - std::log(sum), 1e-6);
  }
  EXPECT_EQ(order, (std::vector<int32_t>{1, 2, 0, 4, 3}));
}

TEST_F(SchedulerTest, HigherPrioritiesComeFirstAndTheQueueHasAnEnd) {
  const auto scheduler = New({.slots = 1, .rows = 16, .queue = 2});
  Request request{.prompt = {1, 2, 3}};
  request.generate = {.max_new = 2};
  std::vector<std::string> order;
  const auto named = [&](std::string name) {
    return [&order, name](const Event& event) {
      if (event.kind == Event::Kind::kEnd) order.push_back(name);
      return true;
    };
  };
  scheduler->Submit(request, named("first"));
  scheduler->Submit(request, named("second"));
  request.priority = 5;
  scheduler->Submit(request, named("urgent"));
  EXPECT_EQ(scheduler->Submit(request, named("too many")), 0u);
  RunAll(scheduler.get());
  EXPECT_EQ(order, (std::vector<std::string>{"urgent", "first", "second"}));
}

TEST_F(SchedulerTest, WithoutAQueueWhatHasASlotIsTaken) {
  const auto scheduler = New({.slots = 2, .rows = 16, .queue = 0});
  Request request{.prompt = {1, 2, 3}};
  request.generate = {.max_new = 8};
  const auto submit = [&] { return scheduler->Submit(request, [](const Event&) { return true; }); };
  EXPECT_NE(submit(), 0u);
  scheduler->Step();
  EXPECT_NE(submit(), 0u);
  EXPECT_EQ(submit(), 0u);
  RunAll(scheduler.get());
  EXPECT_NE(submit(), 0u);
  RunAll(scheduler.get());
}

TEST_F(SchedulerTest, WhatDoesNotFitIsRefused) {
  const int64_t room = New({})->NewCache({})->BytesFor(60, 0);
  const auto scheduler = New({.slots = 2, .kv_bytes = room, .context = 64});
  const auto refused = [&](Request request, std::string_view text) {
    try {
      scheduler->Submit(std::move(request), [](const Event&) { return true; });
      ADD_FAILURE() << "wanted: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string_view(error.what()).find(text), std::string_view::npos) << error.what();
    }
  };
  refused({.prompt = {}}, "at least one token");
  refused({.prompt = {3, 64}}, "token 1 of the prompt has id 64");
  refused({.prompt = {-1}}, "id -1");
  Request large{.prompt = Prompt(1, 60)};
  large.generate = {.max_new = 5};
  refused(large, "the context holds 64 tokens; the prompt has 60 and asks for 5 more");
  large.kv = ParseKvForm("sink:4,1000");
  large.generate.max_new = 2000;
  refused(large, "bytes, and " + std::to_string(room) + " are allowed");
  Request odd{.prompt = {1}};
  odd.generate.max_new = 4;
  odd.generate.sampler.top_p = 0;
  refused(odd, "top-p");
  // Two that fit one after the other.
  Request half{.prompt = Prompt(2, 40)};
  half.generate = {.max_new = 20, .sampler = {.temperature = 0}};
  Heard one, two;
  scheduler->Submit(half, one.Sink());
  scheduler->Submit(half, two.Sink());
  int64_t most = 0;
  while (scheduler->Step()) most = std::max(most, scheduler->stats().kv_bytes);
  EXPECT_LE(most, room);
  EXPECT_EQ(one.ids(), Alone(half).ids);
  EXPECT_EQ(two.ids(), one.ids());
}

// A dense prompt is held as a whole until it is read, whatever stays of it then.

TEST_F(SchedulerTest, DensePromptsAreGivenRoomForAllOfThem) {
  for (const char* form : {"sink:2,10,prefill=dense", "tova:12", "snapkv:12,window=4"}) {
    Request request{.prompt = Prompt(3, 400), .kv = ParseKvForm(form)};
    request.generate = {.max_new = 5, .sampler = {.temperature = 0}};
    const int64_t room = New({})->NewCache(*request.kv)->BytesFor(400, 5);
    EXPECT_GE(room, 400 * 2 * New({})->NewCache(*request.kv)->row_bytes()) << form;
    EXPECT_THROW(New({.kv_bytes = room - 1})->Submit(request, [](const Event&) { return true; }), Error) << form;
    const auto scheduler = New({.slots = 3, .rows = 64, .kv_bytes = room * 3 / 2});
    Heard one, two;
    scheduler->Submit(request, one.Sink());
    scheduler->Submit(request, two.Sink());
    int64_t most = 0, together = 0;
    while (scheduler->Step()) {
      most = std::max(most, scheduler->stats().kv_bytes);
      together = std::max(together, scheduler->stats().running);
    }
    EXPECT_LE(most, room) << form;
    EXPECT_LE(together, 1) << form;
    EXPECT_EQ(two.ids(), one.ids()) << form;
    EXPECT_EQ(one.ids(), Alone(request).ids) << form;
  }
}

TEST_F(SchedulerTest, TellsWhatTheCacheHolds) {
  const auto scheduler = New({.slots = 2, .rows = 16});
  Request request{.prompt = Prompt(4, 30), .show_cache = true};
  request.generate = {.max_new = 6, .sampler = {.temperature = 0}};
  request.kv = ParseKvForm("sink:3,8");
  Heard heard;
  scheduler->Submit(request, heard.Sink());
  RunAll(scheduler.get());
  EXPECT_EQ(heard.end.seen.size(), 35u);  // the last token is not fed
  EXPECT_EQ(heard.end.held, "aaa" + std::string(24, '-') + "wwwwwwww");
  EXPECT_EQ(heard.end.kept_tokens, 11);
  EXPECT_EQ(heard.end.evicted_tokens, 24);
}

TEST_F(SchedulerTest, ABiasDecides) {
  const auto scheduler = New({.slots = 2, .rows = 16});
  Request request{.prompt = {1, 2, 3}};
  request.generate = {.max_new = 6, .sampler = {.temperature = 0.7, .bias = {{9, 1000}, {9, 1}, {700, 5}}}};
  Heard heard;
  scheduler->Submit(request, heard.Sink());
  RunAll(scheduler.get());
  EXPECT_EQ(heard.ids(), std::vector<int32_t>(6, 9));
}

TEST_F(SchedulerTest, ATextMayGoOnFromASeedOfItsOwn) {
  const auto scheduler = New({.slots = 2, .rows = 16});
  std::vector<std::vector<int32_t>> told;
  for (const uint64_t earlier : {3, 4}) {
    for (const bool reseed : {false, true}) {
      const auto text = std::make_shared<LongText>();
      text->cache = scheduler->NewCache({});
      Request request{.prompt = Prompt(4, 20), .behind = text};
      request.generate = {.max_new = 0, .sampler = {.temperature = 0.9, .seed = earlier}};
      Heard first, second;
      scheduler->Submit(request, first.Sink());
      RunAll(scheduler.get());
      request.prompt = {5, 6};
      request.generate = {.max_new = 12, .sampler = {.temperature = 0.9, .seed = 9}, .reseed = reseed};
      scheduler->Submit(request, second.Sink());
      RunAll(scheduler.get());
      told.push_back(second.ids());
    }
  }
  EXPECT_EQ(told[1], told[3]);
  EXPECT_NE(told[0], told[2]);  // goes on with what drew the text before
  EXPECT_NE(told[0], told[1]);
}

TEST_F(SchedulerTest, ATextGoesOnFromRequestToRequestAsIfItWereOne) {
  const auto scheduler = New({.slots = 3, .rows = 7, .prefix_bytes = 1 << 20});
  for (const char* form : {"full", "sink:2,10", "window:9"}) {
    for (const double temperature : {0.0, 0.6}) {
      Request whole{.prompt = Prompt(4, 30)};
      whole.generate = {.max_new = 40, .sampler = {.temperature = temperature, .repeat_penalty = 1.2, .seed = 8}};
      whole.kv = ParseKvForm(form);
      const GenerateResult wanted = Alone(whole);
      const auto text = std::make_shared<LongText>();
      text->cache = scheduler->NewCache(*whole.kv);
      Request part = whole;
      part.behind = text;
      std::vector<int32_t> ids;
      std::string shown;
      for (const int64_t more : {15, 1, 24}) {
        part.generate.max_new = more;
        part.generate.hold = true;
        Heard heard, other;
        scheduler->Submit(part, heard.Sink());
        scheduler->Submit({.prompt = Prompt(5, 12), .generate = {.max_new = 9}}, other.Sink());  // beside it
        RunAll(scheduler.get());
        ASSERT_TRUE(heard.stop);
        ASSERT_NE(text->cache, nullptr);
        const std::vector<int32_t> more_ids = heard.ids();
        ids.insert(ids.end(), more_ids.begin(), more_ids.end());
        shown += heard.text;
        part.prompt.clear();
      }
      EXPECT_EQ(ids, wanted.ids) << form;
      EXPECT_EQ(shown + text->state.held, wanted.text) << form;
    }
  }
}

}  // namespace
}  // namespace hawser
