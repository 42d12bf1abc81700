#include "hawser/train/conflicts.h"

#include <gtest/gtest.h>

#include <filesystem>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/data/synthetic.h"
#include "hawser/testing/test_folder.h"
#include "hawser/tok/byte_level.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

class ConflictsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("conflicts");
    WriteFileAtomically(folder_ / "tokenizer.json", ByteLevelTokenizerJson(SyntheticWords()));
    for (const char* name : {"a.txt", "b.txt", "c.txt"}) WriteFileAtomically(folder_ / name, "text");
  }
  void TearDown() override { fs::remove_all(folder_); }

  TrainPlan Plan(const std::vector<std::string>& settings, bool continued = false) const {
    TrainConfig config;
    config.data = {(folder_ / "a.txt").string(), (folder_ / "b.txt").string(), (folder_ / "c.txt").string()};
    config.steps = 100;
    config.batch_tokens = 1024;
    config.context = 512;
    config.attention = "anchor";
    if (continued) {
      config.model = "builtin";
    } else {
      config.tokenizer = folder_.string();
      config.dims = {.width = 32, .layers = 2, .heads = 4};
    }
    for (const std::string& setting : settings) ApplySetting(config, setting);
    return MakePlan(config);
  }
  std::string Refusal(const std::vector<std::string>& settings, bool continued = false) const {
    try {
      Plan(settings, continued);
      return "not refused";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
  }
  fs::path folder_;
};

TEST_F(ConflictsTest, WhatAgreesIsNotMentioned) {
  EXPECT_TRUE(Plan({}).notes.empty());
  EXPECT_TRUE(Plan({"warmup=10", "schedule=wsd", "decay=0.3", "holdout=1", "validate_every=10", "lora_rank=0",
                    "checkpoint_every=20", "freeze=*norm*", "overflow=best-fit", "lookahead=9", "min_document=512"})
                  .notes.empty());
}

TEST_F(ConflictsTest, EachConflictHasALine) {
  struct Case {
    std::vector<std::string> settings;
    const char* named;
  };
  for (const Case& c : {Case{{"warmup=100"}, "warmup = 100 in a run of 100 steps"},
                        Case{{"warmup=200", "lr=1"}, "to 0.5 of lr = 1"},
                        Case{{"decay=0.5"}, "decay = 0.5 has no effect"},
                        Case{{"schedule=wsd", "decay=0"}, "never falls"},
                        Case{{"schedule=constant", "min_lr_ratio=0.5"}, "min_lr_ratio = 0.5 has no effect"},
                        Case{{"batch_tokens=100"}, "batch_tokens = 100 becomes 512"},
                        Case{{"batch_tokens=700"}, "batch_tokens = 700 becomes 512"},
                        Case{{"micro_batch=9"}, "micro_batch = 9 becomes 2"},
                        Case{{"min_document=513"}, "min_document = 513"},
                        Case{{"attention=scope=doc window=512"}, "window=512 has no effect"},
                        Case{{"lookahead=9"}, "lookahead = 9 has no effect"},
                        Case{{"short_keep=0.5"}, "upsample is \"none\""},
                        Case{{"upsample=global", "short_keep=1"}, "upsample has no effect"},
                        Case{{"segment_separators=text"}, "segment_separators has no effect"},
                        Case{{"holdout=1"}, "holdout = 1"},
                        Case{{"validate_sequences=9"}, "validate_sequences = 9 has no effect"},
                        Case{{"holdout=1", "validate_every=101"}, "validate_every = 101"},
                        Case{{"log_every=101"}, "log_every = 101"},
                        Case{{"checkpoint_every=101"}, "checkpoint_every = 101"},
                        Case{{"holdout=1", "validate_every=9", "checkpoint_every=0"}, "only the last step is saved"},
                        Case{{"holdout=1", "validate_every=9", "checkpoint_every=10"}, "validate_every = 9"},
                        Case{{"lora_alpha=3"}, "lora_rank is 0"},
                        Case{{"lora_targets=v_proj"}, "lora_rank is 0"},
                        Case{{"lora_rank=2"}, "from scratch"},
                        Case{{"lora_rank=32"}, "as large as the matrix"},
                        Case{{"lora_rank=2", "average_last=2"}, "average_last = 2"},
                        Case{{"lora_rank=2", "freeze=*norm*"}, "freeze has no effect"},
                        Case{{"data=[\"$/a.txt\", \"$/b.txt\", \"$/./a.txt\"]"}, "1 of 3 data files"}}) {
    std::vector<std::string> settings = c.settings;
    for (std::string& setting : settings) {
      for (size_t at; (at = setting.find('$')) != setting.npos;) setting.replace(at, 1, folder_.string());
    }
    const std::string notes = fmt::format("{}", fmt::join(Plan(settings).notes, "\n"));
    EXPECT_NE(notes.find(c.named), std::string::npos) << c.named << " in: " << notes;
  }
}

TEST_F(ConflictsTest, WhatCannotBeMeantIsRefused) {
  EXPECT_NE(Refusal({"schedule=wsd", "warmup=90", "decay=0.2"}).find("overlap"), std::string::npos);
  EXPECT_NE(Refusal({"lora_rank=4", "lora_alpha=0"}).find("lora_alpha = 0"), std::string::npos);
  const std::string twice = fmt::format("data=[\"{0}/a.txt\", \"{0}/a.txt\"]", folder_.string());
  EXPECT_NE(Refusal({twice, "holdout=1"}).find("both held out"), std::string::npos);
}

TEST_F(ConflictsTest, PositionMapsThatDoNotGoWithTheModelAreRefused) {
  const auto refused = [&](const std::vector<std::string>& settings, const char* reason, bool continued = false) {
    const std::string refusal = Refusal(settings, continued);
    EXPECT_NE(refusal.find(reason), std::string::npos) << refusal;
  };
  refused({"positions=pose"}, "for a model from scratch: window=512");
  refused({"positions=pose:window=1024"}, "more than context = 512");
  refused({"positions=pos:window=64"}, "did you mean 'pose'?");
  refused({"positions=pose:window=64", "segments=8"}, "counts segments of the text");
  const std::vector<std::string> grown = {"positions=randpos:window=64", "context=4096"};
  for (const char* rope : {"dynamic:factor=64", "longrope:factor=64,short=1+1+1+1,long=9+9+9+9"}) {
    std::vector<std::string> settings = grown;
    settings.push_back(std::string("rope=") + rope);
    refused(settings, "depend on the length of a text");
  }
  const int64_t own = Plan({"context=0"}, /*continued=*/true).spec.context;
  const TrainPlan plan = Plan({"positions=pose", fmt::format("context={}", 8 * own), "batch_tokens=8192"}, true);
  EXPECT_EQ(plan.sequence_tokens(), own);
  EXPECT_EQ(plan.spec.context, 8 * own);
  EXPECT_EQ(plan.config.positions, fmt::format("pose:window={}", own));
  EXPECT_EQ(plan.tokens_per_step(), 8192);
  EXPECT_EQ(plan.spec.rope.scaling.factor, 8);
  const std::string notes = fmt::format("{}", fmt::join(Plan({"positions=pose:window=512"}).notes, "\n"));
  EXPECT_NE(notes.find("skips little"), std::string::npos) << notes;
}

TEST_F(ConflictsTest, AnObjectiveNeedsDocumentsLongerThanItsWindows) {
  const std::string refusal = Refusal({"objective=longce:k=256,delta=255"});
  EXPECT_NE(refusal.find("k + delta = 511 tokens are as long as a sequence, whose documents have 511 at most"),
            std::string::npos)
      << refusal;
  EXPECT_NE(Refusal({"objective=longce"}).find("k + delta = 8192"), std::string::npos);
  EXPECT_EQ(Plan({"objective=longce:k=256,delta=254"}).objective, Objective(LongCe{.k = 256, .delta = 254}));
  EXPECT_NE(Refusal({"objective=longce:k=100,delta=20", "positions=pose:window=64"}).find("documents have 63"),
            std::string::npos);
}

TEST_F(ConflictsTest, AModelShrinksOnlyWhereThatIsSaid) {
  const int64_t own = Plan({"context=0"}, /*continued=*/true).spec.context;
  const std::string less = fmt::format("context={}", own / 2);
  EXPECT_NE(Refusal({less}, true).find("shrink_context"), std::string::npos);
  EXPECT_EQ(Plan({less, "shrink_context=true"}, true).spec.context, own / 2);
  EXPECT_EQ(Plan({fmt::format("context={}", own)}, true).spec.context, own);
}

}  // namespace
}  // namespace hawser
