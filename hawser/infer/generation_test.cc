#include "hawser/infer/generation.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>
#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/parallel.h"
#include "hawser/device/registry.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/tok/separators.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

int32_t ArgMax(std::span<const float> x) {
  return static_cast<int32_t>(std::max_element(x.begin(), x.end()) - x.begin());
}

/// Ids 1 and 2 are control pieces, all others one character each, id 3 with a blank in front.
class LetterTokenizer final : public Tokenizer {
 public:
  LetterTokenizer() { bos_ = 1, eos_ = 2, prefix_ = {1}; }
  std::string Kind() const override { return "letters"; }
  int32_t vocab_size() const override { return 60; }  // fewer than the model's 64
  std::vector<int32_t> Encode(std::string_view text, bool, bool) const override {
    std::vector<int32_t> ids;
    for (char c : text) ids.push_back(c - '0');
    return ids;
  }
  std::string Piece(int32_t id) const override {
    if (id < 0 || id >= vocab_size()) Fail(ErrorKind::kUsage, "id {} is outside", id);
    return id == 1 || id == 2 ? "" : std::string(id == 3 ? " " : "") + static_cast<char>('0' + id);
  }
  std::string Display(int32_t id) const override { return Piece(id); }
  bool adds_dummy_prefix() const override { return true; }
  void Save(const std::filesystem::path&) const override {}
};

class GenerationTest : public ::testing::Test {
 protected:
  GenerationTest() { SetThreads(1); }  // steps this small are faster so
  ~GenerationTest() override { SetThreads(0); }

  GenerateResult Run(const GenerateOptions& options, const std::string& policy = "full",
                     std::vector<int32_t> prompt = {1, 5, 9}) {
    KvCache cache = NewKvCache(backend_.get(), spec_, ParseKvForm(policy), {}, DType::kF32, 512);
    Generation generation(&decoder_, &cache);
    std::string streamed;
    const GenerateResult result =
        Generate(generation, prompt, tokenizer_, options, [&](std::string_view text) { streamed += text; });
    EXPECT_EQ(streamed, result.text);
    return result;
  }

  ModelSpec spec_ = TinySpec();
  ParamStore params_ = LoudModel(spec_, 23);
  LetterTokenizer tokenizer_;
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  Decoder decoder_{backend_.get(), &params_};
};

TEST_F(GenerationTest, GreedyTakesTheBestTokenOfEveryStep) {
  const GenerateResult result = Run({.max_new = 30, .sampler = {.temperature = 0}});
  EXPECT_EQ(result.stop, StopReason::kLength);
  ASSERT_EQ(result.ids.size(), 30u);
  EXPECT_EQ(result.prompt_tokens, 3);
  EXPECT_EQ(result.steps, 29);
  std::vector<int32_t> ids = {1, 5, 9};
  for (int32_t id : result.ids) {
    // Everything again from the start: nothing may be left over in a cache.
    KvCache cache = NewKvCache(backend_.get(), spec_, ParseKvForm("full"), {}, DType::kF32, 512);
    Generation fresh(&decoder_, &cache);
    EXPECT_EQ(id, ArgMax(fresh.Prefill(ids).first(60)));
    ids.push_back(id);
  }
  std::string text;
  for (int32_t id : result.ids) text += tokenizer_.Piece(id);
  EXPECT_EQ(result.text, text);
}

TEST_F(GenerationTest, EndsAtEndTokens) {
  const GenerateResult all = Run({.max_new = 40, .sampler = {.temperature = 0}});
  const int32_t end = all.ids[7];
  const auto first = std::find(all.ids.begin(), all.ids.end(), end) - all.ids.begin();
  const GenerateResult result = Run({.max_new = 40, .sampler = {.temperature = 0}, .end_ids = {63, end}});
  EXPECT_EQ(result.stop, StopReason::kEos);
  EXPECT_EQ(result.ids, std::vector<int32_t>(all.ids.begin(), all.ids.begin() + first));
}

TEST_F(GenerationTest, EndsInFrontOfAStopAcrossTokens) {
  GenerateOptions options{.max_new = 40, .sampler = {.temperature = 1, .top_p = 1, .seed = 5}};
  const GenerateResult all = Run(options);
  options.stops = {all.text.substr(9, 4)};  // four tokens or so
  const GenerateResult result = Run(options);
  EXPECT_EQ(result.stop, StopReason::kStop);
  EXPECT_EQ(result.text, all.text.substr(0, all.text.find(options.stops[0])));
  EXPECT_LT(result.ids.size(), all.ids.size());
}

TEST_F(GenerationTest, TheBlankThatBeginsATextIsCutAtItsStartOnly) {
  ParamStore params = LoudModel(spec_, 23);
  Mat head = params.Head();
  for (int32_t c = 0; c < spec_.width; ++c) {
    for (int32_t id = 0; id < spec_.vocab; ++id) head.Row<float>(id)[c] = 0;  // all logits equal
  }
  Decoder decoder(backend_.get(), &params);
  for (bool at_start : {true, false}) {
    KvCache cache = NewKvCache(backend_.get(), spec_, ParseKvForm("full"), {}, DType::kF32, 512);
    Generation generation(&decoder, &cache);
    const auto run = [&](int64_t max_new, uint64_t seed) {
      cache.Reset();
      return Generate(
          generation, std::vector<int32_t>{1}, tokenizer_,
          {.max_new = max_new, .sampler = {.temperature = 1, .top_p = 1, .seed = seed}, .at_start = at_start});
    };
    uint64_t seed = 0;
    while (run(1, seed).ids[0] != 3) ++seed;
    const GenerateResult result = run(300, seed);
    for (int32_t id : result.ids) ASSERT_LT(id, 60);  // rows beyond the tokenizer are never drawn
    EXPECT_EQ(result.text.find('3'), at_start ? 0u : 1u);
    EXPECT_NE(result.text.find(" 3", 2), std::string::npos);
  }
}

TEST_F(GenerationTest, SeedsDecideAndTurnsContinue) {
  GenerateOptions options{.max_new = 20, .sampler = {.temperature = 1, .top_p = 0.9, .seed = 7}};
  const GenerateResult a = Run(options), b = Run(options);
  EXPECT_EQ(a.ids, b.ids);
  options.sampler.seed = 8;
  EXPECT_NE(Run(options).ids, a.ids);

  // Two turns on one cache see what one prompt of both sees.
  KvCache two = NewKvCache(backend_.get(), spec_, ParseKvForm("sink:2,9"), {}, DType::kF32, 512);
  KvCache one = NewKvCache(backend_.get(), spec_, ParseKvForm("sink:2,9"), {}, DType::kF32, 512);
  std::vector<int32_t> ids(40);
  std::iota(ids.begin(), ids.end(), 5);
  Generation split(&decoder_, &two), whole(&decoder_, &one);
  split.Prefill(std::span(ids).first(17));
  const auto x = split.Prefill(std::span(ids).subspan(17));
  const auto y = whole.Prefill(ids);
  for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(x[i], y[i], 1e-3);
}

TEST_F(GenerationTest, MistakesAreNamed) {
  EXPECT_THROW(Run({.max_new = 3}, "full", {}), Error);
  EXPECT_THROW(Run({.max_new = 3}, "full", {1, 64}), Error);
  EXPECT_THROW(Run({.max_new = 3, .stops = {""}}), Error);
  EXPECT_THROW(Run({.max_new = 3, .sampler = {.top_p = 0}}), Error);
}

/// The 260K-parameter TinyStories model of llama2.c, against logits in f64 and three seeded runs of that program.
class Stories260KTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* folder = std::getenv("HAWSER_DATA");
    if (folder == nullptr) GTEST_SKIP() << "HAWSER_DATA is not set";
    const std::filesystem::path data = folder;
    const auto oracle = data / "oracles/stories260k_reference.json";
    const auto model = data / "models/stories260k";
    for (const auto& path : {oracle, model / "checkpoint_v1.bin", model / "tokenizer.bin"}) {
      if (!std::filesystem::exists(path)) GTEST_SKIP() << path << " is absent";
    }
    SetThreads(1);
    oracle_ = nlohmann::json::parse(ReadFile(oracle));
    model_ = LoadModel(model / "checkpoint_v1.bin", model / "tokenizer.bin");
    backend_ = MakeBackend("cpu");
    decoder_ = std::make_unique<Decoder>(backend_.get(), &model_.params);
  }
  void TearDown() override { SetThreads(0); }

  std::unique_ptr<KvCache> NewCache(const std::string& policy = "full") {
    return std::make_unique<KvCache>(NewKvCache(backend_.get(), decoder_->spec(), ParseKvForm(policy),
                                                SeparatorFlags(*model_.tokenizer), DType::kF32, 512));
  }

  nlohmann::json oracle_;
  LoadedModel model_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Decoder> decoder_;
};

TEST_F(Stories260KTest, GreedyIdsAndLogits) {
  const auto ids = oracle_["greedy"]["token_ids_257"].get<std::vector<int32_t>>();
  const auto full = oracle_["logits_full_first_4_steps"].get<std::vector<std::vector<float>>>();
  const auto top5 = oracle_["top5_each_step"].get<std::vector<std::vector<std::pair<int32_t, float>>>>();
  const auto cache = NewCache();
  Generation generation(decoder_.get(), cache.get());
  for (size_t t = 0; t + 1 < ids.size(); ++t) {
    const std::span<const float> logits = generation.Step(ids[t]);
    ASSERT_EQ(ArgMax(logits), ids[t + 1]) << t;
    if (t < full.size()) {
      for (size_t i = 0; i < logits.size(); ++i) ASSERT_NEAR(logits[i], full[t][i], 1e-4) << t << " token " << i;
    }
    std::vector<int32_t> order(logits.size());
    std::iota(order.begin(), order.end(), 0);
    std::partial_sort(order.begin(), order.begin() + 5, order.end(),
                      [&](int32_t a, int32_t b) { return logits[a] > logits[b]; });
    for (size_t i = 0; i < 5; ++i) {
      ASSERT_NEAR(logits[order[i]], top5[t][i].second, 2e-4) << t;
      ASSERT_NEAR(logits[top5[t][i].first], top5[t][i].second, 2e-4) << t;
    }
  }
}

TEST_F(Stories260KTest, GreedyTextAndItsPrefill) {
  const auto ids = oracle_["greedy"]["token_ids_257"].get<std::vector<int32_t>>();
  const auto text = oracle_["greedy"]["text_after_256_steps"].get<std::string>();
  const GenerateOptions options{.max_new = 256, .sampler = {.temperature = 0}, .at_start = true};
  for (const char* policy : {"full", "sep-stream:4,64,256,800", "sink:4,300", "window:300"}) {
    const auto cache = NewCache(policy);  // none of them drops anything within 257 tokens
    Generation generation(decoder_.get(), cache.get());
    const GenerateResult result = Generate(generation, std::vector<int32_t>{1}, *model_.tokenizer, options);
    EXPECT_EQ(result.ids, std::vector<int32_t>(ids.begin() + 1, ids.end())) << policy;
    EXPECT_EQ(result.text, text) << policy;
  }
  // A prompt in one piece leads to the same continuation.
  const auto cache = NewCache();
  Generation generation(decoder_.get(), cache.get());
  const std::vector<int32_t> prompt(ids.begin(), ids.begin() + 100);
  const GenerateResult result =
      Generate(generation, prompt, *model_.tokenizer, {.max_new = 157, .sampler = {.temperature = 0}});
  EXPECT_EQ(result.ids, std::vector<int32_t>(ids.begin() + 100, ids.end()));
  EXPECT_TRUE(text.ends_with(result.text));
}

TEST_F(Stories260KTest, PrefillEqualsSteps) {
  const auto ids = oracle_["greedy"]["token_ids_257"].get<std::vector<int32_t>>();
  for (size_t cut : {1u, 2u, 100u, 255u}) {
    const auto a = NewCache(), b = NewCache();
    Generation pieces(decoder_.get(), a.get()), steps(decoder_.get(), b.get());
    pieces.Prefill(std::span(ids).first(cut));
    const auto x = pieces.Prefill(std::span(ids).subspan(cut));
    std::span<const float> y;
    for (int32_t id : ids) y = steps.Step(id);
    for (size_t i = 0; i < x.size(); ++i) ASSERT_NEAR(x[i], y[i], 1e-4);
  }
}

TEST_F(Stories260KTest, SeededRunsOfAnotherProgram) {
  for (const nlohmann::json& run : oracle_["sampling"]) {
    const auto want = run["token_ids"].get<std::vector<int32_t>>();
    uint64_t state = run["seed"].get<uint64_t>();
    const auto top_p = run["top_p"].get<float>();
    const auto uniform = [&] {  // xorshift64*, 24 bits
      state ^= state >> 12;
      state ^= state << 25;
      state ^= state >> 27;
      return static_cast<float>(((state * 0x2545F4914F6CDD1Dull) >> 32) >> 8) / 16777216.0f;
    };
    std::vector<int32_t> ids = model_.tokenizer->Encode(run["prompt"].get<std::string>());
    ids.insert(ids.begin(), 1);
    const auto cache = NewCache();
    Generation generation(decoder_.get(), cache.get());
    std::span<const float> logits = generation.Prefill(ids);
    while (ids.size() < want.size()) {
      const float top = *std::max_element(logits.begin(), logits.end());
      std::vector<std::pair<float, int32_t>> p;
      float sum = 0;
      for (size_t i = 0; i < logits.size(); ++i) {
        p.emplace_back(std::exp(logits[i] - top), static_cast<int32_t>(i));
        sum += p.back().first;
      }
      for (auto& [x, id] : p) x /= sum;
      float mass = 1;
      if (top_p < 1) {
        const float least = (1.0f - top_p) / static_cast<float>(logits.size() - 1);
        std::erase_if(p, [&](const auto& c) { return c.first < least; });
        std::sort(p.begin(), p.end(), std::greater<>());
        size_t kept = 0;
        for (mass = 0; kept < p.size() && mass <= top_p; ++kept) mass += p[kept].first;
        p.resize(kept);
      }
      const float target = uniform() * mass;
      float reached = 0;
      int32_t next = p.back().second;
      for (const auto& [x, id] : p) {
        reached += x;
        if (target < reached) {
          next = id;
          break;
        }
      }
      ids.push_back(next);
      if (ids.size() < want.size()) logits = generation.Step(next);
    }
    EXPECT_EQ(ids, want) << run["top_p"] << " \"" << run["prompt"] << "\"";
    EXPECT_EQ(model_.tokenizer->Decode(ids), run["text"].get<std::string>());
  }
}

TEST_F(Stories260KTest, StreamsFarBeyondItsContextStayFinite) {
  // Rank positions never leave what the model was trained on, so the text stays text.
  const auto cache = NewCache("sep-stream:4,32,96,200");
  Generation generation(decoder_.get(), cache.get());
  const GenerateResult result = Generate(generation, std::vector<int32_t>{1}, *model_.tokenizer,
                                         {.max_new = 2000, .sampler = {.seed = 3}, .at_start = true});
  ASSERT_EQ(result.ids.size(), 2000u);
  EXPECT_EQ(cache->seen(), 2000);
  EXPECT_LE(cache->usage().peak, 200);
  int64_t letters = 0;
  for (char c : result.text) letters += std::isalpha(static_cast<unsigned char>(c)) || c == ' ';
  EXPECT_GT(letters, static_cast<int64_t>(result.text.size() * 9 / 10));
}

/// Piece b of the first 256 ids is the byte b.
class BytePieces final : public Tokenizer {
 public:
  std::string Kind() const override { return "bytes"; }
  int32_t vocab_size() const override { return 64; }
  std::vector<int32_t> Encode(std::string_view, bool, bool) const override { return {}; }
  std::string Piece(int32_t id) const override {
    static const std::string kText = "a\xE2\x82\xAC<end>";  // over and over
    return std::string(1, kText[static_cast<size_t>(id) % kText.size()]);
  }
  std::string Display(int32_t id) const override { return Piece(id); }
  void Save(const std::filesystem::path&) const override {}
};

TEST_F(GenerationTest, WhereverATextIsSavedBothPartsAreTheWhole) {
  const BytePieces bytes;
  const auto run = [&](KvCache* cache, std::vector<int32_t> prompt, int64_t count, TextState* state) {
    GenerateOptions options{.max_new = count, .stops = {"<end>", "\xAC<e"}, .hold = true};
    options.sampler.seed = 3;
    Generation generation(&decoder_, cache);
    return Generate(generation, prompt, bytes, options, {}, state);
  };
  const auto fresh = [&] { return NewKvCache(backend_.get(), spec_, ParseKvForm("full"), {}, DType::kF32, 512); };
  KvCache cache = fresh();
  TextState whole_state;
  const GenerateResult whole = run(&cache, {1, 5}, 60, &whole_state);
  int held = 0;
  for (int64_t cut = 1; cut + 1 < static_cast<int64_t>(whole.ids.size()); ++cut) {
    KvCache again = fresh();
    TextState state;
    const GenerateResult first = run(&again, {1, 5}, cut, &state);
    held += state.held.empty() ? 0 : 1;
    state = ParseTextState(ToJson(state), 64);
    const GenerateResult second = run(&again, {}, 60 - cut, &state);
    EXPECT_EQ(first.text + second.text + state.held, whole.text + whole_state.held) << cut;
    EXPECT_EQ(second.stop, whole.stop) << cut;
  }
  EXPECT_GT(held, 0);
}

TEST_F(GenerationTest, WhereverATextIsCancelledBothPartsAreTheWhole) {
  const BytePieces bytes;
  std::vector<int32_t> prompt = {1};
  for (int32_t i = 0; i < 70; ++i) prompt.push_back(3 + i * 11 % 50);
  for (const char* policy : {"full", "sep-stream:2,4,8,24"}) {
    const auto run = [&](KvCache* cache, std::span<const int32_t> ids, int64_t count, TextState* state, int most) {
      GenerateOptions options{.max_new = count, .stops = {"<end>", "\xAC<e"}, .hold = true};
      options.sampler.seed = 3;
      int asked = 0;
      options.cancelled = [&] { return ++asked > most; };
      Generation generation(&decoder_, cache);
      return Generate(generation, ids, bytes, options, {}, state);
    };
    const auto fresh = [&] { return NewKvCache(backend_.get(), spec_, ParseKvForm(policy), {}, DType::kF32, 512); };
    KvCache cache = fresh();
    TextState whole_state;
    const GenerateResult whole = run(&cache, prompt, 40, &whole_state, INT_MAX);
    int reading = 0, writing = 0;
    for (int most = 0;; ++most) {
      KvCache again = fresh();
      TextState state;
      const GenerateResult first = run(&again, prompt, 40, &state, most);
      if (first.stop != StopReason::kCancelled) break;
      ++(first.ids.empty() ? reading : writing);
      EXPECT_EQ(again.seen() + static_cast<int64_t>(state.pending.size()),
                static_cast<int64_t>(prompt.size() + first.ids.size()));
      state = ParseTextState(ToJson(state), 64);
      const GenerateResult second = run(&again, {}, 40 - static_cast<int64_t>(first.ids.size()), &state, INT_MAX);
      EXPECT_EQ(first.text + second.text + state.held, whole.text + whole_state.held) << policy << " " << most;
      EXPECT_EQ(second.stop, whole.stop) << policy << " " << most;
    }
    EXPECT_GE(reading, policy == std::string("full") ? 1 : 5);
    EXPECT_GT(writing, 5);
  }
}

// A dense prompt that is cancelled waits whole: what stays of it is chosen at its end.
TEST_F(GenerationTest, ACancelledDensePromptLeavesNoTrace) {
  std::vector<int32_t> prompt = {1};
  for (int32_t i = 0; i < 1500; ++i) prompt.push_back(4 + i * 11 % 50);  // more than a pass takes
  for (const char* policy : {"snapkv:20,window=4", "tova:16", "expected:20", "sep-stream:2,4,8,24,prefill=dense"}) {
    const auto run = [&](KvCache* cache, std::span<const int32_t> ids, TextState* state, int most) {
      GenerateOptions options{.max_new = 8, .hold = true};
      int asked = 0;
      options.cancelled = [&] { return ++asked > most; };
      Generation generation(&decoder_, cache);
      return Generate(generation, ids, tokenizer_, options, {}, state);
    };
    const auto fresh = [&] { return NewKvCache(backend_.get(), spec_, ParseKvForm(policy), {}, DType::kF32, 2048); };
    // Behind an earlier text, of which something was dropped.
    const std::vector<int32_t> earlier(prompt.begin(), prompt.begin() + 40);
    KvCache cache = fresh(), again = fresh();
    TextState whole_state, state;
    run(&cache, earlier, &whole_state, INT_MAX);
    run(&again, earlier, &state, INT_MAX);
    const int64_t seen = again.seen();
    const GenerateResult whole = run(&cache, prompt, &whole_state, INT_MAX);
    const GenerateResult first = run(&again, prompt, &state, /*most=*/1);
    EXPECT_EQ(first.stop, StopReason::kCancelled) << policy;
    EXPECT_TRUE(first.ids.empty()) << policy;
    EXPECT_EQ(again.seen(), seen) << policy;
    EXPECT_EQ(state.pending.size(), prompt.size() + 1) << policy;
    const GenerateResult second = run(&again, {}, &state, INT_MAX);
    EXPECT_EQ(second.ids, whole.ids) << policy;
  }
}

// Of one token, too: read as a drawn one it would drop nothing at its end.
TEST_F(GenerationTest, ACancelledPromptOfOneTokenStaysAPrompt) {
  std::vector<int32_t> earlier = {1};
  for (int32_t i = 0; i < 60; ++i) earlier.push_back(4 + i * 11 % 50);
  for (const char* policy : {"full", "snapkv:20,window=4", "tova:16", "expected:50%", "sep-stream:2,4,8,24"}) {
    const auto run = [&](KvCache* cache, std::span<const int32_t> ids, TextState* state, int64_t count, int most) {
      GenerateOptions options{.max_new = count, .hold = true};
      int asked = 0;
      options.cancelled = [&] { return ++asked > most; };
      Generation generation(&decoder_, cache);
      return Generate(generation, ids, tokenizer_, options, {}, state).ids;
    };
    const auto fresh = [&] { return NewKvCache(backend_.get(), spec_, ParseKvForm(policy), {}, DType::kF32, 2048); };
    KvCache cache = fresh(), again = fresh();
    TextState whole_state, state;
    run(&cache, earlier, &whole_state, 0, INT_MAX);  // nothing is pending behind it
    run(&again, earlier, &state, 0, INT_MAX);
    const std::vector<int32_t> prompt = {9};
    const std::vector<int32_t> whole = run(&cache, prompt, &whole_state, 12, INT_MAX);
    EXPECT_TRUE(run(&again, prompt, &state, 12, /*most=*/0).empty()) << policy;
    EXPECT_EQ(state.pending, prompt) << policy;
    state = ParseTextState(ToJson(state), 64);
    EXPECT_EQ(run(&again, {}, &state, 12, INT_MAX), whole) << policy;
    EXPECT_EQ(again.usage().final_mean, cache.usage().final_mean) << policy;
    EXPECT_FALSE(state.unread) << policy;
  }
}

TEST_F(GenerationTest, WhereverAFormIsCutItGoesOn) {
  const auto constraint = [&](std::string_view grammar) {
    return std::make_shared<Constraint>(ParseGrammar(grammar), std::make_shared<TokenTrie>(tokenizer_));
  };
  const auto listed = constraint("root ::= \"<\" [4-9]+ (\":\" [A-Z]{3}){4} \"?\"");
  const auto run = [&](KvCache* cache, std::vector<int32_t> prompt, int64_t count, TextState* state,
                       const std::shared_ptr<const Constraint>& form) {
    GenerateOptions options{.max_new = count, .end_ids = {2}, .constraint = form, .hold = true};
    options.sampler.seed = 6;
    Generation generation(&decoder_, cache);
    return Generate(generation, prompt, tokenizer_, options, {}, state);
  };
  const auto fresh = [&] { return NewKvCache(backend_.get(), spec_, ParseKvForm("full"), {}, DType::kF32, 512); };
  KvCache cache = fresh();
  TextState state;
  const GenerateResult whole = run(&cache, {1, 5}, 60, &state, listed);
  ASSERT_EQ(whole.stop, StopReason::kStop) << whole.text;
  EXPECT_FALSE(state.formed);  // it has come to its end
  for (int64_t cut = 1; cut < std::ssize(whole.ids); ++cut) {
    KvCache again = fresh();
    state = {};
    const GenerateResult first = run(&again, {1, 5}, cut, &state, listed);
    state = ParseTextState(ToJson(state), 64);
    EXPECT_EQ(state.formed, first.text) << cut;
    const TextState saved = state;
    EXPECT_EQ(first.text + run(&again, {}, 60, &state, listed).text, whole.text) << cut;
    // Another form begins behind a prompt alone.
    KvCache other = fresh();
    run(&other, {1, 5}, cut, &state, listed);
    state = saved;
    EXPECT_THROW(run(&other, {}, 60, &state, constraint("root ::= \">\" [4-9]+")), Error) << cut;
    state = saved;
    EXPECT_TRUE(run(&other, {7}, 2, &state, constraint("root ::= \">\" [4-9]{9}")).text.starts_with('>')) << cut;
  }
}

TEST(TextStateTest, OlderStatesAndWrongOnes) {
  const nlohmann::json older = {{"pending", {3}}, {"seen", {3, 4}}};
  const TextState state = ParseTextState(older, 10);
  EXPECT_EQ(state.held, "");
  EXPECT_FALSE(state.at_start);
  EXPECT_FALSE(state.formed);
  TextState full{.pending = {3}, .seen = {.ids = {4}}, .held = "\xE2\x82<", .formed = "\xE2{", .at_start = true};
  const TextState back = ParseTextState(ToJson(full), 10);
  EXPECT_EQ(back.held, full.held);
  EXPECT_EQ(back.formed, full.formed);
  EXPECT_TRUE(back.at_start);
  const std::pair<const char*, nlohmann::json> wrong[] = {{"held", {256}}, {"held", "x"},   {"formed", {-1}},
                                                          {"formed", 3},   {"at_start", 1}, {"unread", 1}};
  for (const auto& [key, value] : wrong) {
    nlohmann::json json = older;
    json[key] = value;
    EXPECT_THROW(ParseTextState(json, 10), Error) << key << value;
  }
}

TEST(EndIds, TheModelSaysWhichTokensEnd) {
  const LetterTokenizer tokenizer;
  ModelSpec spec;
  spec.bos = 1;
  EXPECT_EQ(EndIds(spec, tokenizer), (std::vector<int32_t>{2}));
  spec.eos = {7, 9};
  EXPECT_EQ(EndIds(spec, tokenizer), (std::vector<int32_t>{7, 9}));
}

}  // namespace
}  // namespace hawser
