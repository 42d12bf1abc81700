#include "hawser/eval/tune_kv.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "hawser/base/file.h"
#include "hawser/device/registry.h"
#include "hawser/eval/perplexity.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/test_data.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

TEST(KvChoice, TextForms) {
  constexpr int32_t kAll = AttnPattern::kAll;
  EXPECT_EQ((KvChoice{.windows = {kAll, kAll}}).Kv(3, ""), "full");
  EXPECT_EQ((KvChoice{.windows = {64, 64}}).Kv(3, ""), "sep:3,64");
  EXPECT_EQ((KvChoice{.windows = {64, kAll, 8}}).Kv(4, "13+11"), "sep:4,64+all+8,sep=13+11");
}

class TuneKvTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HAWSER_NEEDS_DATA("models/stories260k/tokenizer.bin", "pg19/test/12204.txt");
    const auto folder = TestData() / "models/stories260k", book = TestData() / "pg19/test/12204.txt";
    model_ = LoadModel(folder / "checkpoint_v1.bin", folder / "tokenizer.bin");
    documents_ = {{.path = "book", .text = ReadFile(book).substr(0, 20000)}};
  }
  TuneKvReport Tune(double budget) {
    return TuneKv(backend_.get(), model_.params, *model_.tokenizer, documents_,
                  {.budget = budget, .context = 128, .max_tokens = 1500});
  }

  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  LoadedModel model_;
  std::vector<TextDocument> documents_;
};

TEST_F(TuneKvTest, MeetsTheBudgetAndJudgesOnOtherText) {
  const TuneKvReport r = Tune(0.5);
  EXPECT_EQ(r.candidates, (std::vector<int32_t>{8, 16, 32, 64, AttnPattern::kAll}));
  ASSERT_EQ(r.cost.size(), 5u);
  for (const auto& row : r.cost) EXPECT_EQ(row.back(), 0);
  EXPECT_DOUBLE_EQ(r.full.ratio, 1);
  // Judged on the other half, whose separators are not quite as dense.
  EXPECT_NEAR(r.fixed.ratio, 0.5, 0.03);
  EXPECT_LT(r.adaptive.ratio, 0.53);
  EXPECT_NE(r.full.nll, r.full.tuned_nll);
  // What a choice costs is what its text form measures.
  const size_t half = documents_[0].text.find('\n', documents_[0].text.size() / 2);
  const KvForm form = ParseKvForm(r.adaptive.Kv(3, ""));
  LayeredPattern pattern = AttnPattern{.sinks = 3, .separators = true};
  for (int32_t l = 0; l < 5; ++l) {
    const AttnPattern of = MakeKvPolicy(form.OfLayer(l, 5))->Pattern();
    pattern.layer_windows.push_back(of.window);
  }
  const PplReport again = MeasurePerplexity(backend_.get(), model_.params, *model_.tokenizer,
                                            {{.path = "half", .text = documents_[0].text.substr(half)}},
                                            {.context = 128, .max_tokens = 1500, .pattern = pattern});
  EXPECT_DOUBLE_EQ(r.adaptive.nll, again.nll / static_cast<double>(again.tokens));
  const TuneKvReport all = Tune(1.0);
  EXPECT_EQ(all.adaptive.Kv(3, ""), "full");
  EXPECT_EQ(all.fixed.Kv(3, ""), "full");
}

TEST_F(TuneKvTest, MistakesAreNamed) {
  for (const double budget : {0.0, -1.0, 1.1}) {
    ExpectError(ErrorKind::kUsage, {"budget", "above 0 and at most 1"}, [&] { Tune(budget); });
  }
  ExpectError(ErrorKind::kUsage, {"budget 0.1", "separators alone"}, [&] { Tune(0.1); });
}

}  // namespace
}  // namespace hawser
