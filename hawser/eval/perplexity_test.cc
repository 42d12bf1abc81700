#include "hawser/eval/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/device/registry.h"
#include "hawser/eval/report.h"
#include "hawser/testing/test_data.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

using enum PplProtocol;
constexpr PplProtocol kWindowProtocols[] = {kWindowed, kRolling, kSliding, kTruncate, kChunkHalf, kChunkStride, kFull};

TEST(BucketTest, EdgesArePowersOfTwoAndTheirHalves) {
  std::vector<int64_t> edges;
  for (int64_t b = 0; b < 16; ++b) edges.push_back(PplBucketBegin(b));
  EXPECT_EQ(edges, (std::vector<int64_t>{0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192}));
  for (int64_t p = 0; p < 5000; ++p) {
    const int64_t b = PplBucketOf(p);
    EXPECT_LE(PplBucketBegin(b), p);
    EXPECT_GT(PplBucketBegin(b + 1), p);
  }
  EXPECT_EQ(PplBucketOf(int64_t{3} << 40), 2 * 41 + 1);
}

TEST(PlanTest, ProtocolsByHand) {
  const std::vector<int64_t> lengths = {10};
  const auto plan = [&](PplProtocol p, int64_t context, int64_t stride = 0, bool prefix = true) {
    return PlanWindows({.protocol = p, .context = context, .stride = stride}, lengths, prefix);
  };
  using Windows = std::vector<PplWindow>;
  EXPECT_EQ(plan(kWindowed, 4), (Windows{{0, 0, 4, 0, true}, {0, 4, 8, 4, true}})) << "the last two are too few";
  EXPECT_EQ(plan(kWindowed, 2, 0, false)[1], (PplWindow{0, 2, 4, 3, false})) << "no BOS: the first is only read";
  EXPECT_EQ(plan(kRolling, 4), (Windows{{0, 0, 4, 0, true}, {0, 3, 8, 4, false}, {0, 5, 10, 8, false}}));
  EXPECT_EQ(plan(kSliding, 5, 3), (Windows{{0, 0, 4, 0, true}, {0, 3, 7, 4, true}, {0, 6, 10, 7, true}}));
  EXPECT_EQ(plan(kWindowed, 5, 3), plan(kSliding, 5, 3));
  EXPECT_EQ(plan(kTruncate, 4), (Windows{{0, 0, 3, 0, true}}));
  EXPECT_EQ(plan(kFull, 4), (Windows{{0, 0, 10, 0, true}}));
  EXPECT_EQ(plan(kChunkHalf, 4), (Windows{{0, 0, 3, 2, true}, {0, 4, 7, 6, true}}));
  EXPECT_TRUE(plan(kChunkHalf, 6).empty()) << "needs twelve tokens with BOS";
  EXPECT_EQ(plan(kChunkStride, 6, 4), (Windows{{0, 0, 5, 1, true}, {0, 3, 9, 5, false}}));
}

TEST(PlanTest, RandomPlansPredictEachTokenOnceWithEnoughContext) {
  for (uint64_t number = 0; number < 2000; ++number) {
    Rng rng{.seed = 3, .stream = number};
    PplOptions options{.protocol = kWindowProtocols[rng.Below(7)], .context = static_cast<int64_t>(2 + rng.Below(40))};
    options.stride = static_cast<int64_t>(1 + rng.Below(options.context - 1));
    if (options.protocol == kWindowed) options.stride = 0;
    std::vector<int64_t> lengths(rng.Below(4));
    for (int64_t& n : lengths) n = static_cast<int64_t>(rng.Below(150));
    const bool prefix = rng.Below(2) != 0;
    std::set<std::pair<int32_t, int64_t>> seen;
    for (const PplWindow& w : PlanWindows(options, lengths, prefix)) {
      ASSERT_LT(w.document, static_cast<int32_t>(lengths.size()));
      ASSERT_TRUE(w.begin >= 0 && w.begin <= w.score_begin && w.score_begin < w.end && w.end <= lengths[w.document]);
      ASSERT_TRUE(prefix || !w.prefix);
      ASSERT_TRUE(w.prefix || w.score_begin > w.begin) << "what is predicted has something before it";
      if (options.protocol != kFull) {
        ASSERT_LE(w.end - 1 - w.begin + w.prefix, options.context);
      }
      for (int64_t t = w.score_begin; t < w.end; ++t) {
        EXPECT_TRUE(seen.emplace(w.document, t).second) << Name(options.protocol) << " predicts " << t << " twice";
        if (options.protocol == kSliding && w.begin > 0) {
          EXPECT_GE(t - w.begin + 1, options.context - options.stride) << "tokens before the predicted one";
        }
      }
    }
    const bool all = options.protocol == kRolling || options.protocol == kFull || options.protocol == kSliding;
    if (all && prefix) {
      int64_t total = 0;
      for (const int64_t n : lengths) total += n;
      EXPECT_EQ(static_cast<int64_t>(seen.size()), total) << Name(options.protocol);
    }
  }
}

TEST(PlanTest, BadOptionsAreRefused) {
  const std::vector<int64_t> lengths = {10};
  for (const PplOptions& options :
       {PplOptions{.context = 1}, PplOptions{.protocol = kSliding, .context = 8, .stride = 8},
        PplOptions{.protocol = kStreaming, .context = 8}}) {
    EXPECT_THROW(PlanWindows(options, lengths, true), Error);
  }
  EXPECT_THROW(ParsePplProtocol("slidng"), Error);
  for (const PplProtocol p : kWindowProtocols) EXPECT_EQ(ParsePplProtocol(Name(p)), p);
}

/// Letters a-z and blank, each with id 3 and up; bos 1.
class LetterTokenizer : public Tokenizer {
 public:
  explicit LetterTokenizer(int32_t bos = 1, int32_t eos = 2, bool adds_bos = true) {
    bos_ = bos, eos_ = eos;
    if (adds_bos) prefix_ = {bos};
  }
  std::string Kind() const override { return "letters"; }
  int32_t vocab_size() const override { return 64; }
  std::vector<int32_t> Encode(std::string_view text, bool, bool) const override {
    std::vector<int32_t> ids;
    for (const char c : text) ids.push_back(c == ' ' ? 3 : c == '\n' ? 4 : c == '#' ? 99 : c - 'a' + 5);
    return ids;
  }
  std::string Piece(int32_t id) const override {
    if (id < 3) return "";
    return id == 3 ? " " : id == 4 ? "\n" : std::string(1, static_cast<char>('a' + id - 5));
  }
  std::string Display(int32_t id) const override { return Piece(id); }
  void Save(const std::filesystem::path&) const override {}
};

std::string RandomText(int64_t n, uint64_t seed) {
  Rng rng{.seed = seed};
  std::string text;
  for (int64_t i = 0; i < n; ++i) text += rng.Below(5) == 0 ? ' ' : static_cast<char>('a' + rng.Below(26));
  return text;
}

class PerplexityTest : public ::testing::Test {
 protected:
  PerplexityTest() : backend_(MakeBackend("cpu")), params_(TinyModel(TinySpec(), 11)) {}
  PplReport Measure(const PplOptions& options, const std::vector<TextDocument>& documents) {
    return MeasurePerplexity(backend_.get(), params_, LetterTokenizer(), documents, options);
  }
  std::unique_ptr<Backend> backend_;
  ParamStore params_;
};

TEST_F(PerplexityTest, OnePassEqualsTheStreamTokenForToken) {
  const std::vector<TextDocument> documents = {{.path = "a", .text = RandomText(100, 1)}};
  std::vector<float> full, stream;
  const PplReport a = Measure({.protocol = kFull, .on_token = [&](int64_t, float x) { full.push_back(x); }}, documents);
  const PplReport b =
      Measure({.protocol = kStreaming, .on_token = [&](int64_t, float x) { stream.push_back(x); }}, documents);
  ASSERT_EQ(full.size(), 100u);
  ASSERT_EQ(stream.size(), 100u);
  for (size_t i = 0; i < 100; ++i) EXPECT_NEAR(full[i], stream[i], 2e-4) << i;
  EXPECT_NEAR(a.nll, b.nll, 1e-3);
  ASSERT_EQ(a.buckets.size(), b.buckets.size());
  for (size_t i = 0; i < a.buckets.size(); ++i) EXPECT_EQ(a.buckets[i].tokens, b.buckets[i].tokens);
  EXPECT_EQ(a.kv.peak, 100);
  EXPECT_EQ(b.kv.peak, 100);
  EXPECT_DOUBLE_EQ(a.kv.mean, 50.5);
  EXPECT_DOUBLE_EQ(b.kv.ratio, 1.0);
}

TEST_F(PerplexityTest, WindowedPatternEqualsTheStreamUnderTheSameWindow) {
  const std::vector<TextDocument> documents = {{.path = "a", .text = RandomText(120, 2)}};
  const PplReport a =
      Measure({.protocol = kFull, .pattern = AttnPattern{.window = 20, .sinks = 4, .separators = true}}, documents);
  const PplReport b = Measure({.protocol = kStreaming, .kv = "sep:4,20"}, documents);
  const PplReport full = Measure({.protocol = kFull}, documents);
  EXPECT_NEAR(a.nll, b.nll, 1e-3);
  EXPECT_GT(std::abs(a.nll - full.nll), 1e-2) << "the window shows";
  EXPECT_LT(a.kv.ratio, 0.8);
  EXPECT_GE(static_cast<double>(a.kv.peak), a.kv.mean);
  EXPECT_EQ(a.kv.peak, b.kv.peak + 1) << "keys a query sees, itself included; slots held between queries";
}

TEST_F(PerplexityTest, BatchingAndThreadsChangeNothing) {
  const std::vector<TextDocument> documents = {{.path = "a", .text = RandomText(230, 3)},
                                               {.path = "b", .text = RandomText(90, 4)}};
  const auto run = [&](int64_t batch, int threads) {
    SetThreads(threads);
    std::vector<float> nll;
    Measure({.context = 32, .batch_tokens = batch, .on_token = [&](int64_t, float x) { nll.push_back(x); }}, documents);
    SetThreads(0);
    return nll;
  };
  const auto one = run(1, 1), all = run(4096, 1);
  ASSERT_EQ(one.size(), all.size());
  for (size_t i = 0; i < one.size(); ++i) EXPECT_NEAR(one[i], all[i], 2e-5);
  EXPECT_EQ(run(100, 1), run(100, 3)) << "bitwise";
}

TEST_F(PerplexityTest, SumsAgreeWithTheTokens) {
  const std::string text = "one two\nthree  four ";
  std::vector<float> nll;
  const PplReport r =
      Measure({.context = 128, .on_token = [&](int64_t, float x) { nll.push_back(x); }}, {{.path = "a", .text = text}});
  EXPECT_EQ(r.tokens, 20);
  EXPECT_EQ(r.bytes, 20);
  EXPECT_EQ(r.words, 4);
  double sum = 0, bucket_sum = 0;
  int64_t bucket_tokens = 0;
  for (const float x : nll) sum += x;
  for (const PplBucket& b : r.buckets) bucket_sum += b.nll, bucket_tokens += b.tokens;
  EXPECT_NEAR(r.nll, sum, 1e-9);
  EXPECT_NEAR(bucket_sum, sum, 1e-9);
  EXPECT_EQ(bucket_tokens, 20);
  EXPECT_NEAR(r.ppl(), std::exp(sum / 20), 1e-9);
  EXPECT_NEAR(r.bits_per_byte(), sum / 20 / std::log(2.0), 1e-9);
  EXPECT_NEAR(r.buckets[0].nll, nll[0], 1e-9) << "the first row predicts from position 0";
  EXPECT_EQ(params_.spec().context, 128) << "the model is left as it was";
}

TEST_F(PerplexityTest, MaxTokensReadsThatMuch) {
  const std::vector<TextDocument> documents = {{.path = "a", .text = RandomText(50, 5)},
                                               {.path = "b", .text = RandomText(50, 6)}};
  EXPECT_EQ(Measure({.protocol = kStreaming, .max_tokens = 70}, documents).tokens, 70);
  EXPECT_EQ(Measure({.protocol = kLines, .max_tokens = 70}, documents).tokens, 70);
  const PplReport r = Measure({.context = 128, .max_tokens = 70}, documents);
  EXPECT_EQ(r.tokens, 70);
  EXPECT_EQ(r.documents[1].tokens, 20);
}

TEST_F(PerplexityTest, LinesHaveTheirOwnBosAndTheirLastTokenIsNotFed) {
  const PplReport r = Measure({.protocol = kLines}, {{.path = "a", .text = "ab\n\nc\r\nde"}});
  EXPECT_EQ(r.tokens, 5);
  EXPECT_EQ(r.kv.peak, 5) << "BOS a, BOS, BOS d";
  EXPECT_EQ(r.bytes, 5);
  EXPECT_EQ(r.words, 3);
}

// The line loader of the reference: a tokenizer that adds no BOS of its own (GPT-NeoX) reads the first token of a line
// and never predicts it; blank lines and lines of one token give nothing; no line end is ever a token.
TEST_F(PerplexityTest, LinesOfATokenizerThatAddsNoBos) {
  const LetterTokenizer tokenizer(1, 2, /*adds_bos=*/false);
  const auto measure = [&](const char* text) {
    return MeasurePerplexity(backend_.get(), params_, tokenizer, {{.path = "a", .text = text}}, {.protocol = kLines});
  };
  const PplReport r = measure("abc\n\nd\r\nef\rgh\n");
  EXPECT_LT(r.bos, 0);
  EXPECT_EQ(r.tokens, 4) << "b, c, f, h";
  EXPECT_EQ(r.kv.peak, 4) << "a, b, e, g";
  EXPECT_EQ(r.bytes, 4);
  EXPECT_THROW(measure("a\nb\n\n"), Error);
  EXPECT_GE(Measure({.protocol = kLines}, {{.path = "a", .text = "abc"}}).bos, 0);
}

TEST_F(PerplexityTest, StreamsReportEveryLayer) {
  const PplReport r =
      Measure({.protocol = kStreaming, .kv = "window:16,full-layers=0"}, {{.path = "a", .text = RandomText(300, 7)}});
  const nlohmann::json kv = ToJson(r)["kv"];
  EXPECT_EQ(kv["policy"], "window:16,full-layers=0");
  EXPECT_EQ(kv["seen"], 300);
  ASSERT_EQ(kv["layers"].size(), static_cast<size_t>(params_.spec().layers));
  EXPECT_EQ(kv["layers"][0]["policy"], "full");
  EXPECT_DOUBLE_EQ(kv["layers"][0]["mean"], 150.5);
  EXPECT_DOUBLE_EQ(kv["layers"][0]["formula_mean"], 150.5);
  EXPECT_DOUBLE_EQ(kv["layers"][0]["final_ratio"], 1);
  EXPECT_EQ(kv["layers"][1]["peak"], 15);
  EXPECT_DOUBLE_EQ(kv["layers"][1]["mean"], kv["layers"][1]["formula_mean"]);
  EXPECT_DOUBLE_EQ(kv["layers"][1]["final_ratio"], 15.0 / 300);
  EXPECT_EQ(kv["peak"], 300);
  EXPECT_DOUBLE_EQ(kv["peak_mean"], (300 + 15) / 2.0);
  EXPECT_DOUBLE_EQ(kv["final_mean"], (300 + 15) / 2.0);
  EXPECT_DOUBLE_EQ(kv["final_ratio"], (300 + 15) / 600.0);
  EXPECT_LT(kv["mean_bytes"], kv["peak_bytes"]);
  EXPECT_NE(ToText(r).find("layers 0: full"), std::string::npos) << ToText(r);
  const PplReport last_full =
      Measure({.protocol = kStreaming, .kv = "window:16,full-layers=-1"}, {{.path = "a", .text = RandomText(300, 7)}});
  EXPECT_EQ(last_full.stretches.back().kv_slots, 300);
}

TEST_F(PerplexityTest, StretchesCoverTheStream) {
  const PplReport r = Measure({.protocol = kStreaming, .kv = "window:16"}, {{.path = "a", .text = RandomText(700, 7)}});
  ASSERT_EQ(r.stretches.size(), 3u);
  double nll = 0;
  int64_t next = 0;
  for (const PplStretch& s : r.stretches) {
    EXPECT_EQ(s.range.begin, next);
    next = s.range.end;
    nll += s.range.nll;
    EXPECT_LE(s.kv_slots, 16);
  }
  EXPECT_EQ(next, 700);
  EXPECT_NEAR(nll, r.nll, 1e-9);
  EXPECT_EQ(r.stretches[1].kv_bytes, r.stretches[2].kv_bytes) << "flat";
}

TEST_F(PerplexityTest, StretchesOfAGivenLengthChangeNoPrediction) {
  const std::vector<TextDocument> documents = {{.path = "a", .text = RandomText(700, 7)}};
  const auto run = [&](int64_t stretch) {
    return Measure({.protocol = kStreaming, .kv = "sep-stream:2,4,8,32", .stretch = stretch}, documents);
  };
  const PplReport whole = run(int64_t{1} << 40), parts = run(100);
  ASSERT_EQ(whole.stretches.size(), 1u);
  ASSERT_EQ(parts.stretches.size(), 7u);
  for (const PplStretch& s : parts.stretches) EXPECT_EQ(s.range.tokens, 100);
  EXPECT_NEAR(whole.nll, parts.nll, 1e-3);
}

TEST_F(PerplexityTest, LengthDependentRopeFollowsWhatIsSeen) {
  const RopeSpec plain = params_.spec().rope;
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.rope = ApplyRopeText(plain, "dynamic:factor=4,original=32", 32); });
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.context = 32; });
  const std::vector<TextDocument> documents = {{.path = "a", .text = RandomText(127, 8)}};
  const PplOptions whole{.protocol = PplProtocol::kTruncate, .context = 128};
  const PplReport longer = Measure(whole, documents);
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.context = 256; });
  EXPECT_EQ(Measure(whole, documents).nll, longer.nll) << "the spec's context does not count";
  EXPECT_EQ(Measure({.protocol = PplProtocol::kTruncate, .context = 512}, documents).nll, longer.nll)
      << "nor does a window that is not full";
  // The same base throughout, as ntk.
  const double stretch = 4.0 * 127 / 32 - 3;  // BOS and all tokens but the last go in
  ChangeSpec(&params_,
             [&](ModelSpec& spec) { spec.rope = ApplyRopeText(plain, fmt::format("ntk:factor={}", stretch), 32); });
  EXPECT_NEAR(Measure(whole, documents).nll, longer.nll, 1e-3);
  ChangeSpec(&params_, [&](ModelSpec& spec) { spec.rope = ApplyRopeText(plain, "dynamic:factor=4,original=32", 32); });
  // A stream whose length is declared has that base from its start; one that grows has it at its end.
  EXPECT_NEAR(Measure({.protocol = kStreaming, .context = 127}, documents).nll, longer.nll, 2e-3);
  const PplReport grown = Measure({.protocol = kStreaming}, documents);
  EXPECT_GT(std::abs(grown.nll - longer.nll), 2e-3);
  EXPECT_NEAR(Measure({.protocol = kStreaming, .max_tokens = 31}, documents).nll,
              Measure({.protocol = kStreaming, .context = 32, .max_tokens = 31}, documents).nll, 1e-4);
}

TEST_F(PerplexityTest, TokenizersWithoutBos) {
  const std::vector<TextDocument> documents = {{.path = "a", .text = RandomText(64, 9)}};
  const auto tokens = [&](const Tokenizer& tokenizer, PplProtocol protocol) {
    const PplReport r =
        MeasurePerplexity(backend_.get(), params_, tokenizer, documents, {.protocol = protocol, .context = 32});
    return std::make_pair(r.tokens, r.bos >= 0);
  };
  EXPECT_EQ(tokens(LetterTokenizer(-1, 2), kWindowed), std::make_pair(int64_t{64}, true)) << "EOS stands in";
  EXPECT_EQ(tokens(LetterTokenizer(-1, -1), kWindowed), std::make_pair(int64_t{62}, false));
  EXPECT_EQ(tokens(LetterTokenizer(-1, -1), kStreaming), std::make_pair(int64_t{63}, false));
  EXPECT_EQ(tokens(LetterTokenizer(-1, -1), kLines), std::make_pair(int64_t{63}, false));
}

TEST_F(PerplexityTest, BadInputIsRefused) {
  const std::vector<TextDocument> good = {{.path = "a", .text = "abc"}};
  EXPECT_THROW(Measure({.context = 1}, good), Error);
  EXPECT_THROW(Measure({}, {{.path = "a", .text = "ab#"}}), Error) << "id outside the vocabulary";
  EXPECT_THROW(Measure({}, {{.path = "a", .text = ""}}), Error);
  EXPECT_THROW(Measure({.protocol = kStreaming}, {}), Error);
  EXPECT_THROW(Measure({.protocol = kStreaming, .kv = "nonsense"}, good), Error);
  EXPECT_THROW(Measure({.protocol = kChunkHalf}, good), Error);
}

TEST_F(PerplexityTest, JsonHoldsTheContract) {
  const std::vector<TextDocument> documents = {{.path = "a", .text = RandomText(300, 10)}};
  for (const PplProtocol protocol : {kWindowed, kStreaming}) {
    const nlohmann::json json = ToJson(Measure({.protocol = protocol, .context = 64}, documents));
    for (const char* key : {"tokens", "nll", "ppl", "bits_per_byte", "buckets", "kv", "seconds", "tokens_per_second",
                            "peak_rss_bytes", "protocol", "context"}) {
      EXPECT_TRUE(json.contains(key)) << key;
    }
    for (const char* key : {"begin", "end", "tokens", "nll", "ppl"}) EXPECT_TRUE(json["buckets"][0].contains(key));
    for (const char* key : {"mean", "peak", "ratio"}) EXPECT_TRUE(json["kv"].contains(key));
    EXPECT_EQ(json["protocol"], Name(protocol));
  }
}

// The real model and numbers of a float64 reference; see the data folder's README.
class OraclePplTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HAWSER_NEEDS_DATA("models/stories260k", "oracles/perplexity_protocols_stories260k.json", "pg19/test/12204.txt");
    const std::filesystem::path root = TestData();
    const std::filesystem::path folder = root / "models/stories260k", book = root / "pg19/test/12204.txt";
    oracle_ = nlohmann::json::parse(ReadFile(root / "oracles/perplexity_protocols_stories260k.json"));
    documents_ = {{.path = book.string(), .text = ReadFile(book).substr(0, 4000)}};
    model_ = LoadModel(folder / "checkpoint_v1.bin", folder / "tokenizer.bin");
    backend_ = MakeBackend("cpu");
  }
  PplReport Measure(PplOptions options) {
    nll_.clear();
    options.on_token = [&](int64_t, float x) { nll_.push_back(x); };
    return MeasurePerplexity(backend_.get(), model_.params, *model_.tokenizer, documents_, options);
  }
  void ExpectRelative(double value, const nlohmann::json& wanted) {
    EXPECT_NEAR(value, wanted.get<double>(), 1e-4 * std::abs(wanted.get<double>()));
  }
  nlohmann::json oracle_;
  std::vector<TextDocument> documents_;
  LoadedModel model_;
  std::unique_ptr<Backend> backend_;
  std::vector<float> nll_;
};

TEST_F(OraclePplTest, Rolling) {
  const nlohmann::json& o = oracle_["A_lm_eval_rolling"];
  const PplReport r = Measure({.protocol = kRolling, .context = 128});
  EXPECT_EQ(r.windows, o["windows"]);
  ExpectRelative(-r.nll, o["loglikelihood_nats"]);
  ExpectRelative(r.ppl(), o["token_ppl"]);
  ExpectRelative(r.bits_per_byte(), o["bits_per_byte"]);
  EXPECT_EQ(r.words + 1, oracle_["words_split_ws"]) << "which counts the nothing before the first newline as a word";
  EXPECT_EQ(r.bytes, oracle_["bytes"]);
}

TEST_F(OraclePplTest, Sliding) {
  const nlohmann::json& o = oracle_["B_sliding_window"];
  const PplReport r = Measure({.context = 128, .stride = 32});
  EXPECT_EQ(r.windows, o["windows"]);
  EXPECT_EQ(r.tokens, o["scored_tokens"]);
  ExpectRelative(r.ppl_window_mean(), o["yarn_ppl_unweighted_mean_of_window_means"]);
  ExpectRelative(r.ppl(), o["pose_ppl_token_weighted"]);
}

TEST_F(OraclePplTest, Truncate) {
  const PplReport r = Measure({.protocol = kTruncate, .context = 128});
  EXPECT_EQ(r.tokens, oracle_["C_truncate"]["scored_tokens"]);
  ExpectRelative(r.ppl(), oracle_["C_truncate"]["ppl"]);
}

TEST_F(OraclePplTest, ChunkHalf) {
  const nlohmann::json& o = oracle_["D_llamacpp_chunked"];
  const PplReport r = Measure({.protocol = kChunkHalf, .context = 128});
  EXPECT_EQ(r.windows, o["chunks"]);
  ExpectRelative(r.ppl(), o["ppl"]);
  ExpectRelative(r.ppl_stderr(), o["ppl_stderr"]);
}

TEST_F(OraclePplTest, ChunkStride) {
  const nlohmann::json& o = oracle_["E_llamacpp_stride"];
  const PplReport r = Measure({.protocol = kChunkStride, .context = 128, .stride = 32});
  EXPECT_EQ(r.windows, o["chunks"]);
  EXPECT_EQ(r.tokens, o["scored_tokens"]);
  ExpectRelative(r.ppl(), o["ppl"]);
}

TEST_F(OraclePplTest, Full) {
  const nlohmann::json& o = oracle_["F_full_context_512"];
  const PplReport r = Measure({.protocol = kFull, .max_tokens = 511});
  ExpectRelative(r.ppl(), o["ppl"]);
  ASSERT_EQ(nll_.size(), o["nll_per_token"].size());
  for (size_t i = 0; i < nll_.size(); ++i) EXPECT_NEAR(nll_[i], o["nll_per_token"][i].get<double>(), 2e-3) << i;
}

TEST_F(OraclePplTest, Streaming) {
  const nlohmann::json& o = oracle_["G_streamingllm"];
  ExpectRelative(Measure({.protocol = kStreaming, .max_tokens = 400}).ppl(), o["full_cache_ppl"]);
  ExpectRelative(Measure({.protocol = kStreaming, .max_tokens = 400, .kv = "sink:4,60,positions=absolute"}).ppl(),
                 o["pos_shift_false_original_positions"]["ppl"]);
  ExpectRelative(Measure({.protocol = kStreaming, .max_tokens = 400, .kv = "sink:4,60"}).ppl(),
                 o["pos_shift_true"]["ppl"]);
  const nlohmann::json& tokens = o["pos_shift_true"]["nll_per_token"];
  ASSERT_EQ(nll_.size(), tokens.size());
  for (size_t i = 0; i < nll_.size(); ++i) EXPECT_NEAR(nll_[i], tokens[i].get<double>(), 2e-3) << i;
}

TEST_F(OraclePplTest, Lines) {
  const nlohmann::json& o = oracle_["H_linewise_bos_full_cache"];
  const PplReport r = Measure({.protocol = kLines, .max_tokens = 400});
  EXPECT_EQ(r.tokens, o["predicted_tokens"]);
  ExpectRelative(r.ppl(), o["ppl"]);
  for (size_t i = 0; i < 8; ++i) EXPECT_NEAR(nll_[i], o["first_8_nll"][i].get<double>(), 2e-3) << i;
}

}  // namespace
}  // namespace hawser
