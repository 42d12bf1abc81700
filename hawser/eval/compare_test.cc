#include "hawser/eval/compare.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/data/synthetic.h"
#include "hawser/device/registry.h"
#include "hawser/eval/compare_report.h"
#include "hawser/eval/fit_kept.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/tok/separators.h"
#include "hawser/zoo/builtin.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

TEST(Methods, CachesPatternsAndPositions) {
  const std::vector<Method> methods = ParseMethods(
      "full; sink:4,796 ;window=256;sinks=3 window=64 sep; sepllm @ yarn:factor=2,original=512; @ ntk:factor=4;"
      "sep:a=3,n=256; intra");
  ASSERT_EQ(methods.size(), 8u);
  EXPECT_EQ(methods[0].sight, (Sight{.kv = KvForm()}));
  EXPECT_EQ(methods[1].name, "sink:4,796");
  EXPECT_EQ(methods[1].sight.kv, ParseKvForm("sink:4,796"));
  EXPECT_EQ(methods[2].sight, (Sight{.pattern = ParseLayeredPattern("window=256")}));
  EXPECT_EQ(methods[3].sight.pattern, ParseLayeredPattern("sinks=3 window=64 sep"));
  EXPECT_EQ(methods[4].rope, "yarn:factor=2,original=512");
  EXPECT_EQ(methods[4].name, "sepllm @ yarn:factor=2,original=512");
  EXPECT_EQ(methods[5].sight, Sight());
  EXPECT_EQ(methods[5].rope, "ntk:factor=4");
  EXPECT_EQ(methods[6].sight.kv, ParseKvForm("sep:3,256"));
  EXPECT_EQ(methods[7].sight.pattern, ParseLayeredPattern("intra"));

  // Presets take options as in --kv; patterns take theirs behind blanks.
  const std::vector<Method> more =
      ParseMethods("sepllm,dtype=q8_0; bounded:64; streaming; anchor; sep; sep window=8; window=32 full-layers=1");
  ASSERT_EQ(more.size(), 7u);
  EXPECT_EQ(more[0].sight.kv, ParseKvForm("sepllm,dtype=q8_0"));
  EXPECT_EQ(more[1].sight.kv, ParseKvForm("bounded:64"));
  EXPECT_EQ(more[2].sight.kv, ParseKvForm("streaming"));
  for (size_t m = 3; m < 7; ++m) EXPECT_EQ(more[m].sight.pattern, ParseLayeredPattern(more[m].name)) << more[m].name;

  ExpectError(ErrorKind::kUsage, {"no methods to compare"}, [] { ParseMethods(" ; ;"); });
  for (const char* text : {"full;; window=3", "full;", "; full"}) {
    ExpectError(ErrorKind::kUsage, {"nothing stands between"}, [&] { ParseMethods(text); });
  }
  ExpectError(ErrorKind::kUsage, {"method 'sikn:4,60'", "sikn"}, [] { ParseMethods("full; sikn:4,60"); });
  ExpectError(ErrorKind::kUsage, {"method 'windw=3'"}, [] { ParseMethods("windw=3"); });
  ExpectError(ErrorKind::kUsage, {"method 'yarn:factor=2'", "behind @"}, [] { ParseMethods("yarn:factor=2"); });
  ExpectError(ErrorKind::kUsage, {"nothing stands behind @"}, [] { ParseMethods("full @ "); });
  ExpectError(ErrorKind::kUsage, {"'sep:a=3,n=256' is there twice, also as 'sep:3,256'"},
              [] { ParseMethods("sep:3,256; sep:a=3,n=256"); });
}

/// A run whose stretches are given by their nats, a token each; every second is key.
MethodRun RunOfNats(const std::string& name, double kept, const std::vector<double>& nats) {
  MethodRun run{.name = name, .kept = kept, .bytes = {}, .stretches = {}, .buckets = {}};
  for (size_t i = 0; i < nats.size(); ++i) {
    run.stretches.emplace_back();
    run.stretches.back().all.Add(nats[i]);
    if (i % 2 == 0) run.stretches.back().key.Add(nats[i]);
  }
  return run;
}

TEST(PairedBootstrap, MeasuresWhatDiffersOnTheSameTokens) {
  Rng rng{.seed = 4};
  std::vector<double> base, shifted, noisy, none;
  double squares = 0;
  for (int i = 0; i < 400; ++i) {
    base.push_back(3 + 2 * rng.Normal());  // texts differ far more than methods
    shifted.push_back(base.back() + 0.25);
    const double difference = 0.5 * rng.Normal();
    noisy.push_back(base.back() + difference);
    squares += difference * difference;
  }
  const MethodRun a = RunOfNats("a", 100, base), b = RunOfNats("b", 100, shifted), c = RunOfNats("c", 100, noisy);
  for (const bool key : {false, true}) {
    const PairedRatio same = ComparePair(a, a, key, 200, 1), more = ComparePair(a, b, key, 200, 1);
    EXPECT_EQ(same.ratio, 1);
    EXPECT_EQ(same.low, 1);
    EXPECT_EQ(same.high, 1);
    for (const double value : {more.ratio, more.low, more.high}) EXPECT_NEAR(value, std::exp(0.25), 1e-9);
  }
  const PairedRatio spread = ComparePair(a, c, /*key=*/false, 4000, 1);
  EXPECT_LT(spread.low, spread.ratio);
  EXPECT_GT(spread.high, spread.ratio);
  const double error = std::sqrt(squares / 400) / std::sqrt(400.0);
  EXPECT_NEAR(std::log(spread.high / spread.low), 2 * 1.96 * error, 0.1 * 2 * 1.96 * error) << "that of the pairs";
  const PairedRatio again = ComparePair(a, c, /*key=*/false, 4000, 1), other = ComparePair(a, c, false, 4000, 2);
  EXPECT_EQ(again.low, spread.low);
  EXPECT_NE(other.low, spread.low);

  MethodRun unjudged = a;
  for (CompareStretch& stretch : unjudged.stretches) stretch.key = {};
  EXPECT_TRUE(std::isnan(ComparePair(unjudged, unjudged, /*key=*/true, 10, 1).ratio));
}

Comparison SmallComparison() {
  std::vector<double> nats(40, 2.0), worse(40, 2.5);
  Comparison c{.model = "models/small", .identity = "longppl-1 judge=x", .texts = {{.name = "book <1>", .ids = {}}}};
  c.stretch = 1, c.draws = 50;
  c.methods = {RunOfNats("full", 1000, nats), RunOfNats("sink:4,60", 64, worse), RunOfNats("window:62", 62, nats)};
  c.methods[1].bytes = 4096.0;
  for (MethodRun& run : c.methods) run.buckets = {{.begin = 16, .end = 24, .tokens = 8, .nll = 16}};
  CompareMethods(&c, 0);
  return c;
}

TEST(Comparison, EqualMemoryAndItsForms) {
  const Comparison c = SmallComparison();
  EXPECT_EQ(c.tokens, 40);
  EXPECT_EQ(c.key_tokens, 20);
  ASSERT_EQ(c.equal.size(), 1u) << "64 and 62 are within five in a hundred";
  EXPECT_EQ(c.equal[0].first, 1u);
  EXPECT_EQ(c.equal[0].second, 2u);
  EXPECT_NEAR(c.equal[0].all.ratio, std::exp(-0.5), 1e-9);

  const nlohmann::json json = ToJson(c);
  const Comparison read = ParseComparison(nlohmann::json::parse(json.dump()));
  EXPECT_EQ(ToJson(read), json);
  EXPECT_EQ(ToText(read), ToText(c));
  EXPECT_NE(ToText(c).find("1.649"), std::string::npos) << ToText(c);

  const TaskReport page = CompareSections(c, "compare-");
  ASSERT_EQ(page.pictures.size(), 3u);
  EXPECT_EQ(page.pictures[1].name, "compare-kept-longppl");
  EXPECT_NE(page.pictures[0].csv.find("\"sink:4,60\",64,"), std::string::npos) << page.pictures[0].csv;
  EXPECT_NE(page.html.find("At equal memory"), std::string::npos);
  EXPECT_EQ(page.html.find("<1>"), std::string::npos);

  const auto bad = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json broken = json;
    broken["methods"][1][key] = value;
    ExpectError(ErrorKind::kFormat, {}, [&] { ParseComparison(broken); });
  };
  bad("stretches", {1});
  bad("stretches", nullptr);
  bad("kept", "many");
  bad("ppl_times_first", 3);
  bad("buckets", {{{"begin", -1}}});
  nlohmann::json broken = json;
  broken["equal_memory"][0]["second"] = 3;
  ExpectError(ErrorKind::kFormat, {"second"}, [&] { ParseComparison(broken); });
  broken = json;
  broken["methods"] = nlohmann::json::array();
  ExpectError(ErrorKind::kFormat, {"methods"}, [&] { ParseComparison(broken); });
}

class CompareRuns : public ::testing::Test {
 protected:
  static const ModelToRun& Model() {
    static const ModelToRun kModel = [] {
      const auto folder = FreshFolder("compare_model") / "model";
      UnpackBuiltinModel(folder);
      return LoadModelToRun(folder, {}, DType::kF32);
    }();
    return kModel;
  }
  const Tokenizer& tokenizer() const { return *Model().model.tokenizer; }
  std::vector<int32_t> Ids(uint64_t number, int32_t words) const {
    return tokenizer().Encode(MakeSyntheticDocument(6, number, words).text);
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
};

TEST_F(CompareRuns, SumsOfStretchesAndPositions) {
  std::vector<CompareText> texts = {{.name = "a", .ids = Ids(0, 300)}, {.name = "b", .ids = Ids(1, 150)}};
  texts[0].key.assign(texts[0].ids.size(), 0);
  texts[0].key[200] = 1;
  TextReader reader(backend_.get(), Model().weights, tokenizer(), {.kv = ParseKvForm("window:32")});
  const MethodRun run = RunMethod(&reader, "window", texts, 64, 0);
  const int64_t parts =
      (static_cast<int64_t>(texts[0].ids.size()) + 63) / 64 + (static_cast<int64_t>(texts[1].ids.size()) + 63) / 64;
  EXPECT_EQ(static_cast<int64_t>(run.stretches.size()), parts) << "none across texts";
  NatsSum all;
  for (const CompareText& text : texts) {
    for (const float nats : reader.Read(text.ids).nats) all.Add(nats);
  }
  EXPECT_EQ(run.all().tokens, all.tokens);
  EXPECT_NEAR(run.all().nats, all.nats, 1e-9 * all.nats);
  EXPECT_EQ(run.key().tokens, 1);
  EXPECT_EQ(run.key().nats, reader.Read(texts[0].ids).nats[200]);
  double by_position = 0;
  for (const PplBucket& bucket : run.buckets) by_position += bucket.nll;
  EXPECT_NEAR(by_position, all.nats, 1e-9 * all.nats);
  EXPECT_LE(run.kept, 32.5);
  EXPECT_GT(run.bytes.value(), 0);
  const MethodRun read = ParseMethodRun(nlohmann::json::parse(ToJson(run).dump()));
  EXPECT_EQ(ToJson(read), ToJson(run)) << "to the last bit";
}

TEST_F(CompareRuns, KeptKeysAreKnownWithoutAModel) {
  const ModelSpec& spec = Model().weights.spec();
  const auto separators = [&](const std::string& form) { return ModelSeparators(&tokenizer(), form, spec.vocab); };
  const std::vector<int32_t> ids = Ids(2, 150);
  for (const char* text : {"full", "window:64", "sink:4,60", "sep:3,32", "sep-stream:4,16,32,80", "sep:3,32+64+all+16",
                           "fix:4,32,8", "sink:4,60,full-layers=0", "full:dtype=q8_0", "window=32",
                           "sinks=3 window=16 sep", "window=32 full-layers=1"}) {
    const Sight sight = ParseMethods(text).at(0).sight;
    TextReader reader(backend_.get(), Model().weights, tokenizer(), sight, BosRule::kOff);
    const std::vector<std::vector<int32_t>> read = {{ids.begin(), ids.end() - 1}};  // the last is predicted alone
    // A pass counts whole pairs of the mean layer.
    const double kept = KeptKeys(backend_.get(), spec, sight, read, separators);
    EXPECT_NEAR(kept, reader.Read(ids).kept, 1.0 / static_cast<double>(read[0].size())) << text;
  }
}

TEST(FitNumber, FindsTheNearest) {
  std::vector<std::string> asked;
  const auto half = [&](const std::string& text) {
    asked.push_back(text);
    const double n = std::stod(text.substr(text.find(',') + 1));
    if (n < 5) Fail(ErrorKind::kUsage, "too small");
    return n / 2;
  };
  EXPECT_EQ(FitNumber("sink:4,?", 30, 1000, half), "sink:4,60");
  EXPECT_EQ(FitNumber("sink:4,? @ yarn", 30.3, 1000, half), "sink:4,61 @ yarn");
  EXPECT_EQ(FitNumber("sink:4,?", 505, 1000, half), "sink:4,1000") << "near enough";
  EXPECT_LT(asked.size(), 40u);
  ExpectError(ErrorKind::kUsage, {"keeps 500.0 keys at most", "wanted 600.0"},
              [&] { FitNumber("sink:4,?", 600, 1000, half); });
  ExpectError(ErrorKind::kUsage, {"keeps 2.5 keys", "wanted 1.0"}, [&] { FitNumber("sink:4,?", 1, 1000, half); });
  ExpectError(ErrorKind::kUsage, {"one ? at most"}, [&] { FitNumber("sink:?,?", 30, 1000, half); });
}

}  // namespace
}  // namespace hawser
