#include "hawser/train/packing.h"

#include <gtest/gtest.h>

#include <cmath>
#include <filesystem>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/device/registry.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/model_reference.h"
#include "hawser/testing/test_folder.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/trainer.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using testing::ReferenceModel;

constexpr int32_t kBos = 1, kContext = 32;

class ValidationSetTest : public ::testing::Test {
 protected:
  void SetUp() override {}
  void TearDown() override { fs::remove_all(folder_); }

  TrainPlan Plan(const std::string& attention, const std::vector<std::string>& texts = kTexts) {
    TrainPlan plan;
    plan.config.attention = attention;
    plan.config.bos = BosRule::kOn;
    plan.config.validate_sequences = 100;
    plan.variant = ParseVariant(attention);
    plan.spec = spec_;
    for (size_t i = 0; i < texts.size(); ++i) {
      plan.files.validation.push_back(folder_ / fmt::format("{}.txt", i));
      if (texts != kTexts || !fs::exists(plan.files.validation.back())) {
        WriteFileAtomically(plan.files.validation.back(), texts[i]);
      }
    }
    return plan;
  }
  ValidationSet Make(const TrainPlan& plan) { return MakeValidationSet(plan, tokenizer_); }

  // Two documents in one sequence, one over the edge of it, one that is longer than a sequence.
  static inline const std::vector<std::string> kTexts = {"harbour", "the tide", "a rope of many strands",
                                                         "it is slack water and the boats lie still at their moorings"};
  const fs::path folder_ = FreshFolder("packing");
  const testing::ByteTokenizer tokenizer_;
  ModelSpec spec_ = TinySpec({.vocab = 256, .layers = 2, .context = kContext, .tie = true});
};

TEST_F(ValidationSetTest, CountsTheSameTokensWhateverTheVariant) {
  const ValidationSet full = Make(Plan("full"));
  ASSERT_GE(full.sequences.size(), 3u);
  EXPECT_EQ(full.pattern, ParsePattern("intra"));
  for (const char* variant :
       {"intra", "intra-reset", "intra-interleaved", "anchor", "anchor-reset", "anchor-interleaved", "multi-bos"}) {
    for (const char* overflow : {"restart", "split", "drop", "best-fit"}) {
      TrainPlan plan = Plan(variant);
      ApplySetting(plan.config, std::string("overflow=") + overflow);
      plan.config.first_token_from_anchor = plan.variant.multi_bos || plan.variant.pattern.anchors > 0;
      const ValidationSet set = Make(plan);
      ASSERT_EQ(set.sequences.size(), full.sequences.size()) << variant;
      for (size_t s = 0; s < set.sequences.size(); ++s) {
        const PackedSequence &a = set.sequences[s], &b = full.sequences[s];
        EXPECT_EQ(a.ids, b.ids) << variant << " " << overflow;
        EXPECT_EQ(a.positions, b.positions) << variant;
        EXPECT_EQ(a.targets, b.targets) << variant;
        EXPECT_EQ(a.weights, b.weights) << variant;
        EXPECT_EQ(a.layout.doc_begin, b.layout.doc_begin) << variant;
      }
    }
  }
}

TEST_F(ValidationSetTest, EveryDocumentIsReadAsItIsAlone) {
  const ParamStore params = LoudModel(spec_, 3);
  const ReferenceModel twin(params);
  const auto backend = MakeBackend("cpu");
  Decoder decoder(backend.get(), &params);
  struct Case {
    const char* trained;
    const char* served;
  };
  for (const Case c : {Case{"full", "full"}, Case{"anchor", "full"}, Case{"multi-bos", "full"},
                       Case{"window=4", "window=4"}, Case{"scope=doc anchors=1 window=4", "window=4 sinks=1"}}) {
    const ValidationSet set = Make(Plan(c.trained));
    double alone = 0, counted = 0, text = 0;
    for (const PackedSequence& s : set.sequences) {
      for (const Segment& segment : s.segments) {
        if (segment.document < 0) continue;
        EXPECT_EQ(s.ids[segment.begin], kBos);
        text += segment.length - 1;
        const std::vector<int32_t> ids(s.ids.begin() + segment.begin, s.ids.begin() + segment.begin + segment.length);
        std::vector<int64_t> positions;
        for (size_t t = 0; t < ids.size(); ++t) positions.push_back(static_cast<int64_t>(t));
        const auto out = twin.Forward(ids, positions, MakeLayout(0, {segment.length}), ParsePattern(c.served));
        for (size_t t = 1; t + 1 < ids.size(); ++t) {  // the first token after BOS does not count
          alone += ReferenceModel::Nll(out.logits[t], ids[t + 1]);
          ++counted;
        }
      }
    }
    EXPECT_EQ(text, 7 + 8 + 22 + 59) << "nothing is lost";
    const Batch batch = MakeBatch(set.sequences, set.pattern);
    std::vector<float> nll(batch.ids.size());
    const StepStats stats = decoder.Score(batch, nll.data());
    EXPECT_EQ(stats.weight, counted) << c.trained;
    EXPECT_NEAR(stats.loss, alone, 1e-5 * alone) << c.trained;
  }
}

TEST_F(ValidationSetTest, WithoutBosTheAnchorStandsInFront) {
  TrainPlan plan = Plan("anchor");
  plan.config.bos = BosRule::kOff;
  plan.config.anchor = {7};
  EXPECT_EQ(Make(plan).sequences[0].ids[0], 7);
  plan = Plan("full");
  plan.config.bos = BosRule::kOff;
  const PackedSequence s = Make(plan).sequences[0];
  EXPECT_EQ(s.ids[0], 'h');
  EXPECT_EQ(s.weights[0], 1.0f);
}

TEST_F(ValidationSetTest, NothingToPredictIsAnError) {
  TrainPlan plan = Plan("full", {"a", "b"});
  for (const int64_t least : {1, 9}) {
    plan.config.min_document = least;
    try {
      Make(plan);
      FAIL() << least;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find("nothing to validate on"), std::string::npos);
    }
  }
}

}  // namespace
}  // namespace hawser
