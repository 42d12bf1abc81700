#include "hawser/eval/longppl.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/data/synthetic.h"
#include "hawser/device/registry.h"
#include "hawser/eval/longppl_golden.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/hostile.h"
#include "hawser/zoo/builtin.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

constexpr ShortContext kShort{.k = kGoldenK, .delta = kGoldenDelta};

TEST(ShortWindows, EachTokenOnceBehindKToKAndDeltaTokens) {
  EXPECT_EQ(PlanShortWindows({.k = 4, .delta = 2}, 11), (std::vector<ShortWindow>{{2, 8, 6}, {4, 10, 8}, {6, 11, 10}}));
  for (uint64_t number = 0; number < 500; ++number) {
    Rng rng{.seed = 11, .stream = number};
    const ShortContext context{.k = static_cast<int64_t>(1 + rng.Below(40)),
                               .delta = static_cast<int64_t>(1 + rng.Below(40))};
    const auto tokens = static_cast<int64_t>(rng.Below(200));
    int64_t next = context.first();
    for (const ShortWindow& w : PlanShortWindows(context, tokens)) {
      EXPECT_GE(w.begin, 1);
      EXPECT_EQ(w.score_begin, next) << "without gaps";
      for (int64_t t = w.score_begin; t < w.end; ++t, ++next) {
        EXPECT_GE(t - w.begin, context.k);
        EXPECT_LT(t - w.begin, context.k + context.delta);
      }
    }
    EXPECT_EQ(next, std::max(context.first(), tokens)) << "to the end";
  }
}

class LongPpl : public ::testing::Test {
 protected:
  static const ModelToRun& Model() {
    static const ModelToRun kModel = [] {
      const auto folder = FreshFolder("longppl_model") / "model";
      UnpackBuiltinModel(folder);
      return LoadModelToRun(folder, {}, DType::kF32);
    }();
    return kModel;
  }
  const Tokenizer& tokenizer() const { return *Model().model.tokenizer; }
  TextReader Reader(const Sight& sight = {}, BosRule bos = BosRule::kAuto) {
    return {backend_.get(), Model().weights, tokenizer(), sight, bos};
  }
  KeyTokens Judge(std::span<const TextDocument> documents, const KeyRule& rule) {
    TextReader judge = Reader();
    return JudgeKeyTokens(&judge, tokenizer(), documents, rule, 500, {{"model", "builtin"}});
  }
  static std::vector<TextDocument> Logs(int32_t words = 700) {
    std::vector<TextDocument> documents;
    for (uint64_t number = 0; number < 3; ++number) {
      documents.push_back(
          {.path = fmt::format("log {}", number), .text = " " + MakeSyntheticDocument(5, number, words).text});
    }
    return documents;
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

TEST_F(LongPpl, KeyTokensAndFigureOfTheDefinition) {
  const std::vector<TextDocument> documents = Logs();
  const KeyTokens keys = Judge(documents, {.context = kShort});
  ASSERT_EQ(keys.documents.size(), kLongPplGolden.size());
  for (size_t d = 0; d < documents.size(); ++d) {
    const LongPplGolden& golden = kLongPplGolden[d];
    EXPECT_EQ(keys.documents[d].tokens, golden.tokens);
    EXPECT_EQ(keys.documents[d].judged, golden.judged);
    EXPECT_EQ(keys.documents[d].keys, golden.keys);
    std::vector<std::pair<int64_t, int64_t>> spans;
    for (const ByteSpan& span : keys.documents[d].spans) spans.emplace_back(span.begin, span.end);
    EXPECT_EQ(spans, golden.spans);
  }
  TextReader reader = Reader({}, BosRule::kOff);
  const LongPplReport report = MeasureLongPpl(&reader, tokenizer(), documents, keys);
  EXPECT_EQ(report.key().tokens, kGoldenKeyTokens);
  EXPECT_NEAR(report.key().ppl(), kGoldenLongPpl, 1e-4);
  EXPECT_NEAR(report.all().ppl(), kGoldenPpl, 1e-3);
}

TEST_F(LongPpl, ShortContextsAreWhatEachSliceGivesAlone) {
  constexpr ShortContext kPhased{.k = 72, .delta = 24};
  TextReader reader = Reader();
  std::vector<int32_t> tokens = reader.prefix();
  const std::vector<int32_t> ids = tokenizer().Encode(Logs(300)[0].text);
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  const auto n = static_cast<int64_t>(tokens.size());
  const std::vector<float> packed = ShortContextNats(reader.decoder(), tokens, kPhased, 1 << 20);
  EXPECT_EQ(std::count_if(packed.begin(), packed.end(), [](float v) { return !std::isnan(v); }), n - kPhased.first());
  // Products of other numbers of rows round otherwise.
  const auto expect_same = [&](const std::vector<float>& other, const char* what) {
    for (int64_t t = kPhased.first(); t < n; ++t) EXPECT_NEAR(packed[t], other[t], 1e-4) << what << ", token " << t;
  };
  expect_same(ShortContextNats(reader.decoder(), tokens, kPhased, 1), "a window at a time");

  std::vector<float> slices(tokens.size());
  for (const ShortWindow& w : PlanShortWindows(kPhased, n)) {
    Batch batch;
    batch.ids.assign(tokens.begin() + w.begin, tokens.begin() + w.end - 1);
    batch.targets.assign(tokens.begin() + w.begin + 1, tokens.begin() + w.end);
    batch.weights.assign(batch.ids.size(), 1);
    for (int64_t row = 0; row < batch.rows(); ++row) batch.positions.push_back(row);
    batch.sequences = {{.begin = 0, .layout = {.size = static_cast<int32_t>(batch.rows())}}};
    std::vector<float> nll(batch.ids.size());
    reader.decoder()->Score(batch, nll.data());
    for (int64_t t = w.score_begin; t < w.end; ++t) slices[t] = nll[t - 1 - w.begin];
  }
  expect_same(slices, "standalone passes");

  // The same windows as documents of the whole text that do not see each other, begun at phase + j (K + delta).
  std::vector<float> shifted(tokens.size());
  for (int64_t phase = 0; phase < kPhased.first(); phase += kPhased.delta) {
    std::vector<int32_t> lengths;
    if (phase > 0) lengths.push_back(static_cast<int32_t>(phase));
    for (int64_t b = phase; b < n - 1; b += kPhased.first()) {
      lengths.push_back(static_cast<int32_t>(std::min(kPhased.first(), n - 1 - b)));
    }
    Batch batch{.pattern = ParseLayeredPattern("intra")};
    batch.ids.assign(tokens.begin(), tokens.end() - 1);
    batch.targets.assign(tokens.begin() + 1, tokens.end());
    batch.weights.assign(batch.ids.size(), 1);
    for (const int32_t length : lengths) {
      for (int32_t place = 0; place < length; ++place) batch.positions.push_back(place);
    }
    batch.sequences = {{.begin = 0, .layout = MakeLayout(0, lengths)}};
    std::vector<float> nll(batch.ids.size());
    reader.decoder()->Score(batch, nll.data());
    for (const ShortWindow& w : PlanShortWindows(kPhased, n)) {
      if (w.begin % kPhased.first() != phase) continue;
      for (int64_t t = w.score_begin; t < w.end; ++t) shifted[t] = nll[t - 1];
    }
  }
  expect_same(shifted, "shifted packings");
}

TEST_F(LongPpl, TheFirstWindowSeesAllThereIs) {
  TextReader reader = Reader();
  std::vector<int32_t> tokens = reader.prefix();
  const std::vector<int32_t> ids = tokenizer().Encode(Logs(200)[1].text);
  tokens.insert(tokens.end(), ids.begin(), ids.end());
  const std::vector<float> whole = reader.Read(ids).nats;
  const std::vector<float> short_nats = ShortContextNats(reader.decoder(), tokens, kShort, 4096, /*with_first=*/true);
  for (int64_t t = kShort.k; t < kShort.first(); ++t) {
    EXPECT_NEAR(short_nats[t], whole[t - static_cast<int64_t>(reader.prefix().size())], 1e-4);
  }
}

TEST_F(LongPpl, ATextThatIsOneContextHasNoKeyTokens) {
  std::vector<TextDocument> documents = Logs();
  const KeyRule rule{.context = {.k = 600, .delta = 100}};
  ExpectError(ErrorKind::kUsage, {"k=600 and delta=100 want more than 700 tokens"}, [&] { Judge(documents, rule); });
  documents.push_back({.path = "short", .text = "note captain Marla ."});
  const KeyTokens keys = Judge(documents, {.context = kShort});
  EXPECT_EQ(keys.documents[3].judged, 0);
  EXPECT_TRUE(keys.documents[3].spans.empty());
  ExpectError(ErrorKind::kUsage, {"no key tokens: of 1797 tokens"},
              [&] { Judge(documents, {.context = kShort, .alpha = 1e6}); });
}

TEST_F(LongPpl, WithoutBoundsItIsPerplexity) {
  const std::vector<TextDocument> documents = Logs();
  const KeyTokens every = Judge(documents, {.context = kShort, .alpha = -INFINITY, .beta = -INFINITY});
  TextReader reader = Reader();
  const LongPplReport report = MeasureLongPpl(&reader, tokenizer(), documents, every);
  NatsSum eligible, all;
  for (const TextDocument& document : documents) {
    const std::vector<float> nats = reader.Read(tokenizer().Encode(document.text)).nats;
    for (size_t t = 0; t < nats.size(); ++t) {
      all.Add(nats[t]);
      if (t + reader.prefix().size() >= static_cast<size_t>(kShort.first())) eligible.Add(nats[t]);
    }
  }
  EXPECT_EQ(report.key().tokens, eligible.tokens);
  EXPECT_EQ(report.key().ppl(), eligible.ppl());
  EXPECT_EQ(report.all().ppl(), all.ppl());

  KeyTokens whole = every;
  for (size_t d = 0; d < documents.size(); ++d) {
    whole.documents[d].spans = {{0, static_cast<int64_t>(documents[d].text.size())}};
  }
  const LongPplReport of_all = MeasureLongPpl(&reader, tokenizer(), documents, whole);
  EXPECT_EQ(of_all.key().ppl(), all.ppl());
  EXPECT_EQ(of_all.other().tokens, 0);
}

TEST_F(LongPpl, ACopyIsKeyWhileItsSourceIsFar) {
  // One fact at the beginning or right before the question that ends the text.
  for (const double depth : {0.0, 0.95}) {
    int64_t copied = 0, filler = 0;
    for (uint64_t number = 0; number < 6; ++number) {
      const SyntheticDocument log = MakeNeedleDocument(3, number, 400, depth);
      const std::vector<TextDocument> documents = {{.path = "log", .text = log.text}};
      TextReader judge = Reader();
      KeyTokens keys;
      try {
        keys = JudgeKeyTokens(&judge, tokenizer(), documents, {.context = kShort}, 4096, {});
      } catch (const Error&) {
        continue;  // no key tokens
      }
      const auto answer = static_cast<int64_t>(log.text.rfind(' ', log.text.size() - 3));
      for (const ByteSpan& span : keys.documents[0].spans) (span.begin >= answer ? copied : filler) += 1;
    }
    EXPECT_LE(filler, 2) << "of some two thousand";
    if (depth == 0) {
      EXPECT_GE(copied, 4) << "the built-in model finds most of them over 400 words";
    } else {
      EXPECT_EQ(copied, 0);
    }
  }
}

TEST_F(LongPpl, SumsDoNotHangOnHowDocumentsAreDivided) {
  const std::vector<TextDocument> documents = Logs();
  const KeyTokens keys = Judge(documents, {.context = kShort});
  TextReader reader = Reader({.kv = ParseKvForm("window:64")});
  const LongPplReport together = MeasureLongPpl(&reader, tokenizer(), documents, keys);
  EXPECT_GT(together.key().ppl(), 2 * kGoldenLongPpl) << "the far facts are gone";
  NatsSum sum;
  for (size_t d = 0; d < documents.size(); ++d) {
    KeyTokens one = keys;
    one.documents = {keys.documents[d]};
    const LongPplReport alone = MeasureLongPpl(&reader, tokenizer(), std::span(documents).subspan(d, 1), one);
    EXPECT_EQ(alone.key().nats, together.documents[d].key.nats);
    sum.Add(alone.key());
  }
  EXPECT_EQ(sum.tokens, together.key().tokens);
  EXPECT_EQ(sum.ppl(), together.key().ppl());
  EXPECT_LT(together.kept, 64.5);
  EXPECT_GT(together.kept, 50);
}

TEST_F(LongPpl, SameBitsForAnyThreads) {
  const std::vector<TextDocument> documents = Logs(300);
  const auto judge = [&](int threads) {
    SetThreads(threads);
    TextReader reader = Reader();
    const KeyTokens keys = JudgeKeyTokens(&reader, tokenizer(), documents, {.context = kShort}, 500, {});
    const double nats = MeasureLongPpl(&reader, tokenizer(), documents, keys).key().nats;
    SetThreads(0);
    return std::pair(keys.documents, nats);
  };
  EXPECT_EQ(judge(1), judge(2));
}

TEST_F(LongPpl, ACacheThatKeepsAllReadsAsAPass) {
  const std::vector<int32_t> ids = tokenizer().Encode(Logs(200)[0].text);
  TextReader pass = Reader(), cached = Reader({.kv = KvForm()}),
             window = Reader({.pattern = ParseLayeredPattern("window=32")}),
             kept = Reader({.kv = ParseKvForm("window:32")});
  const TextNats a = pass.Read(ids), b = cached.Read(ids), c = window.Read(ids), d = kept.Read(ids);
  for (size_t t = 0; t < ids.size(); ++t) {
    EXPECT_NEAR(a.nats[t], b.nats[t], 1e-4);
    EXPECT_NEAR(c.nats[t], d.nats[t], 1e-4);
  }
  EXPECT_NEAR(a.kept, b.kept, 1e-6);
  EXPECT_NEAR(c.kept, d.kept, 1);
  EXPECT_FALSE(a.bytes);
  EXPECT_GT(b.bytes.value(), 0);
  EXPECT_TRUE(std::isnan(Reader({}, BosRule::kOff).Read(ids).nats[0]));
  EXPECT_THROW(Reader().Read(std::vector<int32_t>{5, 4096}), Error);
  // Where prompts are dense the first half of a text is one.
  TextReader half = Reader({.kv = ParseKvForm("window:32,prefill=dense")});
  const TextNats e = half.Read(ids);
  const auto rows = static_cast<int64_t>(ids.size() + half.prefix().size()) - 1;
  const size_t prompt = static_cast<size_t>(rows / 2) + 1 - half.prefix().size();  // tokens that it predicts
  for (size_t t = 0; t < prompt; ++t) EXPECT_NEAR(e.nats[t], b.nats[t], 1e-4);
  EXPECT_NE(e.nats[prompt], b.nats[prompt]);
  EXPECT_GT(e.kept, d.kept);
  for (const char* form : {"snapkv:25%,window=8", "tova:25%", "expected:25%"}) {
    const TextNats chosen = Reader({.kv = ParseKvForm(form)}).Read(ids);
    for (size_t t = 0; t < prompt; ++t) EXPECT_NEAR(chosen.nats[t], b.nats[t], 1e-4) << form;
    EXPECT_LT(chosen.kept, b.kept) << form;
  }
}

TEST_F(LongPpl, KeysComeBackFromTheirFile) {
  const auto folder = FreshFolder("longppl_keys");
  const std::vector<TextDocument> documents = Logs();
  KeyTokens keys = Judge(documents, {.context = kShort, .beta = -INFINITY, .length = 500});
  SaveKeyTokens(keys, folder / "keys.jsonl");
  const KeyTokens read = LoadKeyTokens(folder / "keys.jsonl");
  EXPECT_EQ(read.documents, keys.documents);
  EXPECT_EQ(read.rule, keys.rule);
  EXPECT_EQ(read.Identity(), keys.Identity());
  EXPECT_NE(keys.Identity().find("k=64 delta=24 alpha=2 beta=-inf length=500"), std::string::npos) << keys.Identity();
  EXPECT_LE(keys.documents[0].tokens, 501);
  EXPECT_LT(keys.documents[0].bytes, static_cast<int64_t>(documents[0].text.size()));
  CheckKeysFit(read, documents);
  CheckKeysFit(read, std::span(documents).first(2));

  std::vector<TextDocument> other = documents;
  std::swap(other[1], other[2]);
  EXPECT_THROW(CheckKeysFit(read, other), Error);
  other = documents;
  other.push_back({.path = "one more", .text = "text"});
  EXPECT_THROW(CheckKeysFit(read, other), Error);

  const std::string good = ReadFile(folder / "keys.jsonl");
  const auto bad = [&](const std::string& contents, ErrorKind kind, const std::string& part) {
    WriteFileAtomically(folder / "bad.jsonl", contents);
    ExpectError(kind, {part}, [&] { LoadKeyTokens(folder / "bad.jsonl"); });
  };
  const auto with = [&](std::string_view from, std::string_view to) {
    std::string text = good;
    return text.replace(text.find(from), from.size(), to);
  };
  bad("", ErrorKind::kFormat, "was it cut off?");
  bad(good.substr(0, good.rfind("{")), ErrorKind::kFormat, "2 of 3 documents");
  bad(good.substr(0, good.size() - 20), ErrorKind::kFormat, "bad.jsonl:4");
  bad("{\"task\": 1}\n", ErrorKind::kFormat, "no file of key tokens");
  bad("[]\n", ErrorKind::kFormat, "no file of key tokens");
  bad(with("\"hawser_keys\":1", "\"hawser_keys\":2"), ErrorKind::kUnsupported, "format 2");
  bad(with("\"spans\":[[", "\"spans\":[[-1,2],["), ErrorKind::kFormat, "pairs of bytes in order");
  bad(with("\"spans\":[[", "\"spans\":[[900000,900001],["), ErrorKind::kFormat, "pairs of bytes in order");
  bad(with("\"k\":64", "\"k\":0"), ErrorKind::kFormat, "'k'");
  bad(with("\"beta\":\"-inf\"", "\"beta\":\"much\""), ErrorKind::kFormat, "\"beta\"");
}

TEST_F(LongPpl, SpansRoundTripForOneTokenizer) {
  const std::string text = "Caf\u00e9 \u2014 na\u00efve \u4f60\u597d, said the captain.\n\n  Twice.";
  const testing::ByteTokenizer bytes;
  for (const Tokenizer* one : {static_cast<const Tokenizer*>(&bytes), &tokenizer()}) {
    const std::vector<int32_t> ids = one->Encode(text);
    const std::vector<ByteSpan> spans = TokenSpans(*one, text, ids);
    EXPECT_EQ(spans.back().end, static_cast<int64_t>(text.size()));
    for (uint64_t number = 0; number < 200; ++number) {
      Rng rng{.seed = 2, .stream = number};
      std::vector<uint8_t> key(ids.size());
      std::vector<ByteSpan> chosen;
      for (size_t t = 0; t < ids.size(); ++t) {
        key[t] = rng.Below(3) == 0 ? 1 : 0;
        if (key[t] != 0) chosen.push_back(spans[t]);
      }
      EXPECT_EQ(TokensInside(spans, MergeSpans(chosen)), key);
    }
  }
}

/// Pieces by a table; text forms are put together by a function.
class RewritingTokenizer : public testing::ByteTokenizer {
 public:
  explicit RewritingTokenizer(std::vector<std::string> pieces, bool blank = false)
      : pieces_(std::move(pieces)), blank_(blank) {}
  std::vector<int32_t> Encode(std::string_view, bool, bool) const override {
    std::vector<int32_t> ids;
    for (size_t i = 0; i < pieces_.size(); ++i) ids.push_back(static_cast<int32_t>(i));
    return ids;
  }
  std::string Piece(int32_t id) const override { return pieces_[static_cast<size_t>(id)]; }
  bool adds_dummy_prefix() const override { return blank_; }

 private:
  std::vector<std::string> pieces_;
  bool blank_;
};

std::vector<ByteSpan> SpansOf(std::string_view text, const std::vector<std::string>& pieces, bool blank = false) {
  const RewritingTokenizer tokenizer(pieces, blank);
  return TokenSpans(tokenizer, text, tokenizer.Encode(text, false, false));
}

TEST(TokenSpans, OfTokenizersThatChangeTheText) {
  using Spans = std::vector<ByteSpan>;
  EXPECT_EQ(SpansOf("one two", {" one", " two"}, /*blank=*/true), (Spans{{0, 3}, {3, 7}}));
  EXPECT_EQ(SpansOf("one two", {" ", "one", " two"}, /*blank=*/true), (Spans{{0, 0}, {0, 3}, {3, 7}}));
  // Blanks put together: the dropped ones belong to nobody.
  EXPECT_EQ(SpansOf("one   two more words", {"one", " two", " more words"}), (Spans{{0, 3}, {3, 9}, {9, 20}}));
  // A composed accent: one character of two bytes in place of two of three.
  EXPECT_EQ(SpansOf("cafe\u0301 noir", {"caf", "\u00e9", " noir"}), (Spans{{0, 3}, {3, 6}, {6, 11}}));
  // Two tokens of a changed place have it in common.
  EXPECT_EQ(SpansOf("a\u2026 and so on", {"a", ".", "..", " and so on"}), (Spans{{0, 1}, {1, 4}, {1, 4}, {4, 14}}));
  // What is dropped at the end is nobody's, and there are tokens that stand for nothing.
  EXPECT_EQ(SpansOf("ends \t", {"ends", "", " "}), (Spans{{0, 4}, {4, 4}, {4, 5}}));
  EXPECT_EQ(SpansOf("", {}), Spans());
  ExpectError(ErrorKind::kUnsupported, {"from byte 0 on"},
              [] { SpansOf(std::string(1000, 'x') + " the end of it", {std::string(900, 'y')}); });
}

TEST(TokenSpans, InsideMeansWhollyInside) {
  const std::vector<ByteSpan> merged = MergeSpans(std::vector<ByteSpan>{{2, 4}, {4, 6}, {6, 6}, {8, 9}, {8, 10}});
  EXPECT_EQ(merged, (std::vector<ByteSpan>{{2, 6}, {8, 10}}));
  const std::vector<ByteSpan> tokens = {{0, 2}, {1, 3}, {2, 3}, {3, 6}, {5, 7}, {4, 4}, {8, 10}, {9, 11}};
  EXPECT_EQ(TokensInside(tokens, merged), (std::vector<uint8_t>{0, 0, 1, 1, 0, 0, 1, 0}));
}

TEST(TokenSpans, CutsBetweenCharacters) {
  const testing::ByteTokenizer bytes;
  const std::string text = "na\u00efve";
  EXPECT_EQ(CutToTokens(bytes, text, 2), "na");
  EXPECT_EQ(CutToTokens(bytes, text, 3), "na");
  EXPECT_EQ(CutToTokens(bytes, text, 4), "na\u00ef");
  EXPECT_EQ(CutToTokens(bytes, text, 6), text);
  EXPECT_EQ(CutToTokens(bytes, text, 60), text);
  EXPECT_EQ(CutToTokens(bytes, text, 0), "");
}

}  // namespace
}  // namespace hawser
