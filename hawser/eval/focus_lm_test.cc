#include "hawser/eval/focus_lm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>

#include "hawser/attn/variant.h"
#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/eval/engine_lm.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/focus.h"
#include "hawser/zoo/focus_file.h"

namespace hawser {
namespace {

class FocusLmTest : public ::testing::Test {
 protected:
  FocusLmTest() { InitializeCandidates(LoudModel(Spec(), 6), candidates_.get()); }
  static ModelSpec Spec() { return TinySpec({.vocab = 300, .layers = 2, .context = 96}); }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  const ParamStore weights_ = LoudModel(Spec(), 5);
  const std::shared_ptr<ParamStore> candidates_ =
      std::make_shared<ParamStore>(Spec(), CandidateLayout(weights_.layout()), DType::kF32);
  const Weights condensing_ = WithCandidates(Weights(weights_), candidates_.get());
};

// What was trained is what is read: the loss of a text by passes over rows, and by chunks in caches.
TEST_F(FocusLmTest, TrainingAndReadingAgree) {
  Decoder base(backend_.get(), &weights_), condenser(backend_.get(), condensing_);
  FocusPass pass(backend_.get(), &base, &condenser, DType::kF32, /*prompt=*/6);
  for (const uint64_t draw : {1, 2, 3, 4}) {
    PackOptions pack{.length = 81, .variant = ParseVariant("full"), .bos = 1};
    Packer packer(pack);
    Document document;
    Rng rng{draw};
    for (int i = 0; i < 80; ++i) document.tokens.push_back(static_cast<int32_t>(2 + rng.Below(290)));
    packer.Add(document);
    packer.Finish();
    PackedSequence sequence;
    ASSERT_TRUE(packer.Next(&sequence));
    sequence.draw = draw;
    const FocusText text = DrawFocusText(
        sequence,
        {.tokens = 80, .chunk = {9, 16}, .prompt = 6, .local = 20, .least = 8, .targets = {1, 4}, .reconstruct = 0});
    const double want = pass.Run({&text, 1}, 1.0f, Recompute::kNone, nullptr).loss;
    const auto targets = std::ssize(text.targets);
    FocusStream stream(backend_.get(), &base, &condenser, DType::kF32, /*bos=*/1,
                       {{.chunk = text.chunk, .prompt = 6, .local = text.window}, /*sync=*/targets});
    std::vector<int32_t> ids(text.memory.begin(), text.memory.end());
    ids.insert(ids.end(), text.local.begin(), text.local.begin() + text.window);
    std::span<const float> logits = stream.Prefill(ids);
    double nll = 0;
    for (int64_t t = 0; t < targets; ++t) {
      nll -= LogprobOf(logits, text.targets[static_cast<size_t>(t)], 0).logprob;
      if (t + 1 < targets) logits = stream.Step(text.targets[static_cast<size_t>(t)]);
    }
    EXPECT_NEAR(nll, want, 5e-5 * want) << draw;
  }
}

TEST_F(FocusLmTest, ShortPromptsAreAnsweredAsByTheEngine) {
  const auto tokenizer = std::make_unique<testing::ByteTokenizer>(300);
  const FocusOptions focus{{.chunk = 16, .prompt = 6, .local = 60}, 1};
  FocusLm lm(backend_.get(), Weights(weights_), condensing_, *tokenizer, {.focus = focus});
  EngineLm engine(backend_.get(), Weights(weights_), *tokenizer, {});
  const std::vector<LmRequest> requests = {
      {.kind = LmRequest::Kind::kGenerate, .context = "a rope of three strands", .max_new = 9},
      {.kind = LmRequest::Kind::kLogLikelihood, .context = "the tide", .continuations = {" turns", " is"}},
      {.kind = LmRequest::Kind::kGenerate, .context = "nobody asks this one", .max_new = 3}};
  std::vector<LmAnswer> want(3), found(3);
  const std::vector<bool> known = {false, false, true};
  const auto into = [](std::vector<LmAnswer>* all) {
    return [all](std::span<const NumberedAnswer> answers) {
      for (const NumberedAnswer& answer : answers) (*all)[answer.request] = answer.answer;
    };
  };
  engine.Answer(requests, known, into(&want));
  lm.Answer(requests, known, into(&found));
  EXPECT_EQ(found[0].text, want[0].text);
  EXPECT_EQ(found[0].new_tokens, want[0].new_tokens);
  EXPECT_EQ(found[0].prompt_tokens, want[0].prompt_tokens);
  ASSERT_EQ(found[1].likelihoods.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_NEAR(found[1].likelihoods[i].ll, want[1].likelihoods[i].ll, 1e-3);
    EXPECT_EQ(found[1].likelihoods[i].greedy, want[1].likelihoods[i].greedy);
    EXPECT_EQ(found[1].likelihoods[i].tokens, want[1].likelihoods[i].tokens);
  }
  EXPECT_EQ(found[2].new_tokens, 0) << "known already";
  EXPECT_EQ(lm.Describe()["focus"]["chunk"], 16);
}

TEST_F(FocusLmTest, LongPromptsAreReadAndRollingOnesRefused) {
  const auto tokenizer = std::make_unique<testing::ByteTokenizer>(300);
  const FocusOptions focus{{.chunk = 16, .prompt = 6, .local = 24}, 2};
  FocusLm lm(backend_.get(), Weights(weights_), condensing_, *tokenizer, {.focus = focus, .max_length = 400});
  EXPECT_EQ(lm.max_length(), 400);
  const std::string text(300, 'x');
  LmAnswer answer;
  const auto sink = [&](std::span<const NumberedAnswer> answers) { answer = answers[0].answer; };
  const std::vector<LmRequest> requests = {{.kind = LmRequest::Kind::kGenerate, .context = text, .max_new = 5}};
  lm.Answer(requests, {}, sink);
  EXPECT_GE(answer.prompt_tokens, 300);
  const std::vector<LmRequest> rolling = {{.kind = LmRequest::Kind::kRolling, .context = text}};
  try {
    lm.Answer(rolling, {}, sink);
    ADD_FAILURE() << "was taken";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUnsupported);
  }
}

}  // namespace
}  // namespace hawser
