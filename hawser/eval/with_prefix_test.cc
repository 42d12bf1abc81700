// Requests whose prompts begin with an indexed prefix.
#include "hawser/eval/with_prefix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "hawser/base/parallel.h"
#include "hawser/device/registry.h"
#include "hawser/eval/compare.h"
#include "hawser/eval/engine_lm.h"
#include "hawser/eval/read_text.h"
#include "hawser/infer/squeeze.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"

namespace hawser {
namespace {

class BehindPrefixTest : public ::testing::Test {
 protected:
  class Bytes : public testing::ByteTokenizer {
   public:
    Bytes() {
      set_bos(1);
      set_eos(2);
      set_prefix({1});
    }
  };

  BehindPrefixTest() {
    SetThreads(1);
    for (const char* question : {"What holds a ship?", "Who sails?"}) {
      requests_.push_back({.context = kCommon + question, .continuations = {" a hawser", " an anchor chain", " x"}});
      requests_.push_back({.context = kCommon + question, .continuations = {"A", "B"}});
      LmRequest text{.kind = LmRequest::Kind::kGenerate, .context = kCommon + question};
      text.max_new = 12;
      requests_.push_back(text);
    }
  }
  ~BehindPrefixTest() override { SetThreads(0); }

  std::shared_ptr<const SqueezedReader> Index(std::span<const int32_t> ids, const std::string& keep) {
    Decoder decoder(backend_.get(), &params_);
    const auto index = std::make_shared<const PrefixIndex>(
        IndexPrefix(backend_.get(), &decoder, Weights(params_), ids, {}, 0, {.clusters = 0.2, .window = 16}));
    return std::make_shared<SqueezedReader>(backend_.get(), index, ParseKeepRule(keep));
  }
  std::vector<LmAnswer> Ask(const std::vector<LmRequest>& requests, const EngineLmOptions& options) {
    EngineLm lm(backend_.get(), params_, tokenizer_, options);
    std::vector<LmAnswer> answers(requests.size());
    lm.Answer(requests, {}, [&](std::span<const NumberedAnswer> some) {
      for (const NumberedAnswer& numbered : some) answers[numbered.request] = numbered.answer;
    });
    return answers;
  }
  std::vector<int32_t> Shared(const std::vector<LmRequest>& requests) {
    return SharedPrefix(requests, PromptEncoder(tokenizer_, BosRule::kAuto, false, 512));
  }

  const std::string kCommon =
      "These are questions about ropes and anchors, and about ships that need both of them.\n\nQuestion: ";
  ModelSpec spec_ = TinySpec({.vocab = 256, .context = 512});
  ParamStore params_ = LoudModel(spec_, 3);
  Bytes tokenizer_;
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  std::vector<LmRequest> requests_;
};

TEST_F(BehindPrefixTest, WhatPromptsShareIsFound) {
  const std::vector<int32_t> shared = Shared(requests_);
  EXPECT_EQ(shared.size(), 1 + kCommon.size() + 2);  // BOS, and how both questions begin
  EXPECT_EQ(shared.front(), 1);
  // One token of every prompt stays behind it.
  const std::vector<LmRequest> one = {{.context = "abc", .continuations = {"d"}}};
  EXPECT_EQ(Shared(one), (std::vector<int32_t>{1, 'a', 'b'}));
  EXPECT_TRUE(Shared({{.context = "", .continuations = {"d"}}}).empty());
  ExpectError(ErrorKind::kUnsupported, {"eval ppl --index"},
              [&] { Shared({{.kind = LmRequest::Kind::kRolling, .context = "abc"}}); });
}

// All keys read are those of the whole prompts; less is something else, and says so.
TEST_F(BehindPrefixTest, AnswersAreThoseOfWholePrompts) {
  const std::vector<int32_t> shared = Shared(requests_);
  const std::vector<LmAnswer> plain = Ask(requests_, {}), all = Ask(requests_, {.prefix = Index(shared, "1")}),
                              less = Ask(requests_, {.prefix = Index(shared, "0.3")});
  double furthest = 0;
  for (size_t r = 0; r < requests_.size(); ++r) {
    ASSERT_EQ(all[r].likelihoods.size(), plain[r].likelihoods.size());
    EXPECT_EQ(all[r].prompt_tokens, plain[r].prompt_tokens);
    EXPECT_EQ(all[r].text, plain[r].text);
    for (size_t c = 0; c < plain[r].likelihoods.size(); ++c) {
      const Likelihood &x = all[r].likelihoods[c], &y = plain[r].likelihoods[c];
      EXPECT_NEAR(x.ll, y.ll, 1e-4 * std::abs(y.ll)) << r << " " << c;
      EXPECT_EQ(x.tokens, y.tokens);
      EXPECT_EQ(x.greedy, y.greedy);
      furthest = std::max(furthest, std::abs(less[r].likelihoods[c].ll - y.ll));
    }
  }
  EXPECT_GT(furthest, 1e-2);
  const EngineLm lm(backend_.get(), params_, tokenizer_, {.prefix = Index(shared, "0.3")});
  const std::string index = lm.Describe()["index"];
  EXPECT_NE(index.find("keep 0.3"), std::string::npos) << index;
  EXPECT_FALSE(EngineLm(backend_.get(), params_, tokenizer_, {}).Describe().contains("index"));
}

TEST_F(BehindPrefixTest, OtherPromptsAreRefusedByWhatTheyAre) {
  const std::shared_ptr<const SqueezedReader> index = Index(Shared(requests_), "0.3");
  const auto refused = [&](const LmRequest& request, std::initializer_list<std::string_view> words,
                           ErrorKind kind = ErrorKind::kUsage) {
    std::vector<LmRequest> all = requests_;
    all.push_back(request);
    ExpectError(kind, words, [&] { Ask(all, {.prefix = index}); });
  };
  refused({.context = "Something else", .continuations = {" a"}},
          {"does not begin with the indexed prefix", "the first 1 in common", "Something else"});
  LmRequest text{.kind = LmRequest::Kind::kGenerate, .context = "Something else"};
  refused(text, {"does not begin with the indexed prefix"});
  refused({.context = kCommon + "Wh", .continuations = {"o"}}, {"needs a token behind it"});
  refused({.kind = LmRequest::Kind::kRolling, .context = kCommon + "What"}, {"eval ppl --index"},
          ErrorKind::kUnsupported);
  // The beginning of a long one is cut.
  refused({.context = kCommon + "Wh" + std::string(600, 'x'), .continuations = {" a"}}, {"--context"});
  ExpectError(ErrorKind::kUnsupported, {"drops keys"},
              [&] { Ask(requests_, {.kv = ParseKvForm("sink:4,60"), .prefix = index}); });
}

// Texts by themselves: what stands behind the prefix has the nats of the whole text, and as many keys are held.
TEST_F(BehindPrefixTest, TextsBeginWithIt) {
  const std::filesystem::path file = FreshFolder("behind_prefix") / "p.idx";
  const Tokenizer& tokenizer = tokenizer_;
  const std::vector<int32_t> text =
      tokenizer.Encode(kCommon + "What holds a ship? A hawser does, and where it parts an anchor has to.");
  constexpr int64_t kPrefix = 70;  // BOS among them
  std::vector<int32_t> ids = {1};
  ids.insert(ids.end(), text.begin(), text.begin() + kPrefix - 1);
  SavePrefixIndex(Index(ids, "1")->index(), file);
  const auto reader = [&](const Sight& sight) { return TextReader(backend_.get(), params_, tokenizer_, sight); };
  const auto behind = [&](double keep) { return reader({.index = {{file, {.value = keep}}}}); };

  TextReader full = reader({.kv = KvForm()}), all = behind(1), less = behind(0.4);
  EXPECT_EQ(full.FirstPredicted(), 0);
  EXPECT_EQ(all.FirstPredicted(), kPrefix);
  const TextNats want = full.Read(text), same = all.Read(text), other = less.Read(text);
  double furthest = 0;
  for (size_t t = 0; t < text.size(); ++t) {
    ASSERT_EQ(std::isnan(same.nats[t]), t < kPrefix) << t;
    if (t < kPrefix) continue;
    EXPECT_NEAR(same.nats[t], want.nats[t], 1e-4 * (1 + want.nats[t]));
    furthest = std::max(furthest, std::abs(double{other.nats[t]} - want.nats[t]));
  }
  EXPECT_GT(furthest, 1e-2);
  EXPECT_DOUBLE_EQ(same.kept, want.kept);
  EXPECT_NEAR(*same.bytes, *want.bytes, 1e-6 * *want.bytes);
  EXPECT_FALSE(want.prefix_read);
  EXPECT_DOUBLE_EQ(*same.prefix_read, 1);
  EXPECT_GT(*other.prefix_read, 0.2);
  EXPECT_LT(*other.prefix_read, 0.8);

  // Methods count the same tokens.
  const std::vector<CompareText> texts = {{.name = "text", .ids = text}};
  const MethodRun run = RunMethod(&full, "full", texts, 16, all.FirstPredicted());
  EXPECT_EQ(run.all().tokens, std::ssize(text) - kPrefix);
  EXPECT_EQ(RunMethod(&less, "less", texts, 16, all.FirstPredicted()).all().tokens, run.all().tokens);

  ExpectError(ErrorKind::kUsage,
              {"does not begin with the indexed prefix", "of its 70 tokens", "the first 1 in common"},
              [&] { all.Read(tokenizer.Encode("Something else, of any length that one may wish for")); });
  ExpectError(ErrorKind::kUsage, {"ends with the indexed prefix"}, [&] { all.Check(std::span(text).first(kPrefix)); });
  all.Check(std::span(text).first(kPrefix + 1));
  ExpectError(ErrorKind::kUnsupported, {"drops keys"}, [&] {
    reader({.kv = ParseKvForm("sink:4,60"), .index = {{file, {}}}}).Read(text);
  });
}

TEST(IndexMethods, AreValuesLikeOthers) {
  const std::vector<Method> methods = ParseMethods("index:a,b.idx; index:a,b.idx,keep=mass=0.9 @ yarn:factor=2");
  EXPECT_EQ(methods[0].sight, (Sight{.index = {{"a,b.idx", {.value = 0.1}}}}));
  EXPECT_EQ(methods[1].sight.index->keep, ParseKeepRule("mass=0.9"));
  EXPECT_EQ(methods[1].rope, "yarn:factor=2");
  ExpectError(ErrorKind::kUsage, {"which index?"}, [] { ParseMethods("index:"); });
  ExpectError(ErrorKind::kUsage, {"method 'index:x,keep=2'"}, [] { ParseMethods("index:x,keep=2"); });
  ExpectError(ErrorKind::kUsage, {"there twice"}, [] { ParseMethods("index:x; index:x,keep=0.1"); });
}

}  // namespace
}  // namespace hawser
