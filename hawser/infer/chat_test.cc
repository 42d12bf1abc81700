// A talk in one cache says what it would say if all of it were read at once.
#include "hawser/infer/chat.h"

#include <gtest/gtest.h>

#include <memory>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/device/registry.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/byte_level.h"

namespace hawser {
namespace {

constexpr const char* kTurns =
    "{% for m in messages %}<|bos|>{{ m.role }}: {{ m.content }}<|eos|>{% endfor %}"
    "{% if add_generation_prompt %}<|bos|>assistant: {% endif %}";
/// Of earlier answers only the first two letters are said again.
constexpr const char* kShortened =
    "{% for m in messages %}<|bos|>{{ m.role }}: "
    "{{ m.content[:2] if m.role == 'assistant' else m.content }}<|eos|>{% endfor %}"
    "{% if add_generation_prompt %}<|bos|>assistant: {% endif %}";

class ChatTest : public ::testing::Test {
 protected:
  ChatTest() : tokenizer_(ByteLevelTokenizerJson({})) {
    SetThreads(1);
    tokenizer_.set_bos(tokenizer_.IdOf("<|bos|>"));
    tokenizer_.set_eos(tokenizer_.IdOf("<|eos|>"));
    tokenizer_.set_chat_template(kTurns);
    spec_ = TinySpec({.vocab = tokenizer_.vocab_size(), .context = 512});
    params_ = TinyModel(spec_, 3);
    decoder_ = std::make_unique<Decoder>(backend_.get(), &params_);
    options_.max_new = 12;
    options_.sampler.temperature = 0;
    options_.end_ids = {tokenizer_.eos()};
    for (int32_t id = 0; id < tokenizer_.vocab_size(); ++id) {
      const std::string piece = tokenizer_.Piece(id);
      if (piece.size() != 1 || piece[0] < 'a' || piece[0] > 'z') options_.sampler.never.push_back(id);
    }
  }
  ~ChatTest() override { SetThreads(0); }

  std::unique_ptr<KvCache> Cache(const std::string& form) {
    return std::make_unique<KvCache>(
        NewKvCache(backend_.get(), spec_, ParseKvForm(form), std::vector<uint8_t>(), DType::kF32, 0));
  }

  /// What a chat answers that reads all of `messages` and the question at once.
  std::string AtOnce(const std::string& form, const nlohmann::ordered_json& messages, const std::string& question) {
    const auto cache = Cache(form);
    Chat chat(decoder_.get(), cache.get(), &tokenizer_);
    chat.SetMessages(messages);
    return chat.Answer(question, options_).text;
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  BpeTokenizer tokenizer_;
  ModelSpec spec_;
  ParamStore params_;
  std::unique_ptr<Decoder> decoder_;
  GenerateOptions options_;
};

TEST_F(ChatTest, ReadsOnlyWhatIsNew) {
  for (const char* form : {"full", "sink:4,60"}) {
    const auto cache = Cache(form);
    Chat chat(decoder_.get(), cache.get(), &tokenizer_);
    chat.SetSystem("be brief");
    int64_t seen = 0;
    for (const char* question : {"who?", "and <|eos|> then", "why\nso"}) {
      const nlohmann::ordered_json before = chat.messages();
      const GenerateResult result = chat.Answer(question, options_);
      EXPECT_EQ(result.text, AtOnce(form, before, question)) << form;
      EXPECT_EQ(chat.reread(), 0);
      // The answer that was cut by its length brings its last token with the next question.
      EXPECT_EQ(cache->seen(), seen + result.prompt_tokens + static_cast<int64_t>(result.ids.size()) - 1 + (seen > 0));
      EXPECT_LT(result.prompt_tokens, 60);
      seen = cache->seen();
    }
    EXPECT_EQ(chat.messages().size(), 7u);
    EXPECT_EQ(chat.messages()[0]["content"], "be brief");
  }
}

TEST_F(ChatTest, ReadsAgainWhatTheTemplateSaysDifferently) {
  tokenizer_.set_chat_template(kShortened);
  for (const char* form : {"full", "sink:4,60"}) {
    const auto cache = Cache(form);
    Chat chat(decoder_.get(), cache.get(), &tokenizer_);
    for (const char* question : {"who?", "and then", "why"}) {
      const nlohmann::ordered_json before = chat.messages();
      const GenerateResult result = chat.Answer(question, options_);
      EXPECT_EQ(result.text, AtOnce(form, before, question)) << form;
      if (before.empty()) continue;
      EXPECT_GT(chat.reread(), 0);
      // A cache that has everything goes back to where the last answer was cut short.
      if (std::string(form) != "full") continue;
      EXPECT_LE(chat.reread(), 12);
    }
  }
}

TEST_F(ChatTest, BytesThatAreNoTextAreNotReadAgain) {
  options_.sampler.never.clear();
  options_.end_ids.clear();
  options_.sampler.temperature = 1;
  const auto cache = Cache("sink:4,60");
  Chat chat(decoder_.get(), cache.get(), &tokenizer_);
  for (int turn = 0; turn < 4; ++turn) {
    chat.Answer("and then", options_);
    EXPECT_EQ(chat.reread(), 0);
  }
}

TEST_F(ChatTest, WhatStandsBehindAStopIsNotPartOfTheTalk) {
  const auto cache = Cache("full");
  Chat chat(decoder_.get(), cache.get(), &tokenizer_);
  GenerateOptions stopped = options_;
  stopped.stops = {AtOnce("full", nlohmann::ordered_json::array(), "who?").substr(4, 3)};
  const GenerateResult result = chat.Answer("who?", stopped);
  EXPECT_EQ(result.stop, StopReason::kStop);
  EXPECT_LE(result.text.size(), 4u);
  const nlohmann::ordered_json before = chat.messages();
  EXPECT_EQ(chat.Answer("and then", options_).text, AtOnce("full", before, "and then"));
}

TEST_F(ChatTest, ACancelledAnswerIsPartOfTheTalk) {
  const auto cache = Cache("full");
  Chat chat(decoder_.get(), cache.get(), &tokenizer_);
  int asked = 0;
  GenerateOptions five = options_;
  five.cancelled = [&] { return ++asked > 6; };  // once before the prompt
  const GenerateResult result = chat.Answer("who?", five);
  EXPECT_EQ(result.stop, StopReason::kCancelled);
  EXPECT_EQ(result.ids.size(), 5u);
  const nlohmann::ordered_json before = chat.messages();
  EXPECT_EQ(before.back()["content"], result.text);
  EXPECT_EQ(chat.Answer("and then", options_).text, AtOnce("full", before, "and then"));
  // Before anything came, nothing was said.
  const nlohmann::ordered_json talk = chat.messages();
  GenerateOptions none = options_;
  none.cancelled = [] { return true; };
  EXPECT_TRUE(chat.Answer("never mind", none).ids.empty());
  EXPECT_EQ(chat.messages(), talk);
  EXPECT_EQ(chat.Answer("why", options_).text, AtOnce("full", talk, "why"));
}

TEST_F(ChatTest, ATalkThatDoesNotFitStaysAsItWas) {
  const auto cache = Cache("full");
  Chat chat(decoder_.get(), cache.get(), &tokenizer_, /*most=*/80);
  chat.Answer("who?", options_);
  const nlohmann::ordered_json before = chat.messages();
  ExpectError(ErrorKind::kUsage, {"context of 80", "/reset"}, [&] { chat.Answer(std::string(70, 'a'), options_); });
  ExpectError(ErrorKind::kUsage, {"UTF-8"}, [&] { chat.Answer("\xff", options_); });
  EXPECT_EQ(chat.messages(), before);
  chat.Answer("b", options_);
  chat.Reset();
  EXPECT_TRUE(chat.messages().empty());
  EXPECT_EQ(chat.Answer("who?", options_).text, AtOnce("full", nlohmann::ordered_json::array(), "who?"));
}

TEST_F(ChatTest, OtherTalksAreRefused) {
  const auto cache = Cache("full");
  Chat chat(decoder_.get(), cache.get(), &tokenizer_);
  for (const char* talk : {"{}", "[1]", "[{\"role\": \"user\"}]", "[{\"role\": 1, \"content\": \"a\"}]"}) {
    ExpectError(ErrorKind::kFormat, {"message"}, [&] { chat.SetMessages(nlohmann::ordered_json::parse(talk)); });
  }
  tokenizer_.set_chat_template("");
  ExpectError(ErrorKind::kUsage, {"no chat template"}, [&] { Chat(decoder_.get(), cache.get(), &tokenizer_); });
}

}  // namespace
}  // namespace hawser
