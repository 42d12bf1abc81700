// The drift command as people and scripts run it, on the 260K-parameter TinyStories model.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "hawser/base/file.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/test_data.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

using testing::CommandResult;
using testing::RunHawser;

class DriftCommandTest : public ::testing::Test {
 protected:
  void SetUp() override {
    HAWSER_NEEDS_DATA("models/stories260k/checkpoint_v1.bin");
    const std::filesystem::path root = TestData() / "models/stories260k";
    model_ = "'" + (root / "checkpoint_v1.bin").string() + "' --tokenizer '" + (root / "tokenizer.bin").string() + "'";
    folder_ = FreshFolder("drift_command");
    std::string text;
    for (int i = 0; i < 20; ++i) text += "Once upon a time, there was a little girl who had a red ball. She ran.\n";
    WriteFileAtomically(folder_ / "story.txt", text);
    WriteFileAtomically(folder_ / "short.txt", "Once upon a time.");
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  CommandResult Drift(const std::string& arguments, const std::string& data = "story.txt") const {
    return RunHawser("drift " + model_ + " --data '" + (folder_ / data).string() +
                     "' --tokens 64 --sequences 2 --quiet " + arguments + " 2>&1");
  }

  std::filesystem::path folder_;
  std::string model_;
};

TEST_F(DriftCommandTest, ComparesPipelinesAndWritesFiles) {
  const std::string out = (folder_ / "out").string();
  const CommandResult run =
      Drift("--json --deltas 0,16,100 --pipeline f64 exact bf16-qk --random-weights --out '" + out + "'");
  ASSERT_EQ(run.code, 0) << run.out;
  const nlohmann::json json = nlohmann::json::parse(run.out);
  ASSERT_EQ(json["runs"].size(), 6u);
  EXPECT_EQ(json["checks"]["same_shift"], 0);
  EXPECT_LT(json["checks"]["f64_l1"], 1e-8);
  EXPECT_EQ(json["runs"][5]["name"], "bf16-qk random");
  const auto l1 = [&](int run_idx, int shift) { return json["runs"][run_idx]["shifts"][shift]["d_l1"].get<double>(); };
  for (int i = 0; i < 6; ++i) EXPECT_EQ(l1(i, 1), 0) << "shift 16 against 16";
  EXPECT_LT(l1(0, 0), 1e-8);
  EXPECT_GT(l1(2, 0), 100 * l1(1, 0));
  EXPECT_EQ(json["runs"][0]["dtype"], "f64");
  for (const char* file : {"drift.csv", "drift.svg", "drift.json"}) {
    EXPECT_GT(ReadFile(std::filesystem::path(out) / file).size(), 500u) << file;
  }
}

TEST_F(DriftCommandTest, PrintsTables) {
  const CommandResult run = Drift("--mode forced --round keys --pipeline bf16-qk reference --deltas 0");
  EXPECT_EQ(run.code, 0) << run.out;
  for (const char* part : {"D_abs by shift", "D_abs by layer", "D_logit", "reference", "mode forced, rounding keys"}) {
    EXPECT_NE(run.out.find(part), std::string::npos) << part << "\n" << run.out;
  }
}

TEST_F(DriftCommandTest, SaysWhatIsWrong) {
  const auto expect = [&](int code, const std::string& words, const CommandResult& run) {
    EXPECT_EQ(run.code, code) << run.out;
    EXPECT_NE(run.out.find(words), std::string::npos) << run.out;
  };
  expect(2, "did you mean 'bf16-qk'", Drift("--pipeline bf16qk"));
  expect(2, "not in [1, 64]", Drift("--lengths 65"));
  expect(2, "outside", Drift("--deltas -3"));
  expect(4, "depend on the length", Drift("--rope dynamic:factor=2"));
  expect(4, "iterated", Drift("--rope linear:factor=2 --pipeline ggml"));
  expect(2, "no document has 63 tokens", Drift("", "short.txt"));
}

TEST(DriftCommand, NeedsAModelOrTheSelfTest) {
  EXPECT_EQ(RunHawser("drift 2>&1").code, 2);
  const CommandResult run = RunHawser("drift --self-test --json --pipeline bf16-qk --quiet");
  EXPECT_EQ(run.code, 0);
  EXPECT_EQ(nlohmann::json::parse(run.out)["rows"].size(), 4u);
}

}  // namespace
}  // namespace hawser
