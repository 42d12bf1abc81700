// testing/scheduled_texts.h - texts of a scheduler over a small model, what their requests hear, and what each is
// alone.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/infer/generation.h"
#include "hawser/infer/scheduler.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {

/// What a request told.
struct Heard {
  std::vector<TokenLogprob> prompt, tokens;
  std::string text;
  std::vector<int64_t> read;
  int64_t cached = -1;
  std::optional<StopReason> stop;
  std::optional<Error> error;
  Event end;

  EventSink Sink(int64_t most = INT64_MAX) {
    return [this, most](const Event& event) {
      EXPECT_FALSE(stop || error) << "an event behind the last";
      switch (event.kind) {
        case Event::Kind::kStart:
          cached = event.cached_tokens;
          break;
        case Event::Kind::kProgress:
          read.push_back(event.read_tokens);
          break;
        case Event::Kind::kPromptToken:
          prompt.push_back(event.token);
          break;
        case Event::Kind::kToken:
          tokens.push_back(event.token);
          text += event.text;
          break;
        case Event::Kind::kEnd:
          text += event.text;
          stop = event.stop;
          end = event;
          break;
        case Event::Kind::kError:
          error = event.error;
          break;
      }
      return static_cast<int64_t>(tokens.size()) < most;
    };
  }
  std::vector<int32_t> ids() const {
    std::vector<int32_t> ids;
    for (const TokenLogprob& token : tokens) ids.push_back(token.id);
    return ids;
  }
};

class SchedulerTest : public ::testing::Test {
 protected:
  SchedulerTest() { SetThreads(1); }
  ~SchedulerTest() override { SetThreads(0); }

  std::unique_ptr<Scheduler> New(SchedulerOptions options) {
    return std::make_unique<Scheduler>(backend_.get(), &decoder_, &tokenizer_, DType::kF32, options);
  }
  std::vector<int32_t> Prompt(uint64_t seed, int64_t length) {
    Rng rng{.seed = seed, .stream = 3};
    std::vector<int32_t> ids;
    for (int64_t i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>(rng.Below(64)));
    return ids;
  }
  GenerateResult Alone(const Request& request) {
    const std::string form = request.kv ? ToString(*request.kv) : "full";
    KvCache cache = NewKvCache(backend_.get(), spec_, ParseKvForm(form), {}, DType::kF32, 0);
    Generation generation(&decoder_, &cache);
    return Generate(generation, request.prompt, tokenizer_, request.generate);
  }
  /// The nats of each token of `ids` behind those before it, from a pass of its own.
  std::vector<float> Logprobs(const std::vector<int32_t>& ids) {
    KvCache cache = NewKvCache(backend_.get(), spec_, {}, {}, DType::kF32, 0);
    std::vector<float> nll(ids.size());
    std::vector<int32_t> targets(ids.begin() + 1, ids.end());
    targets.push_back(-1);
    decoder_.ExtendScore(ids, targets, &cache, nll.data());
    for (float& x : nll) x = -x;
    nll.pop_back();
    return nll;
  }
  static void RunAll(Scheduler* scheduler) {
    while (scheduler->Step()) {
    }
  }

  ModelSpec spec_ = TinySpec();
  ParamStore params_ = LoudModel(spec_, 23);
  testing::ByteTokenizer tokenizer_{64};
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  Decoder decoder_{backend_.get(), &params_};
};

}  // namespace hawser
