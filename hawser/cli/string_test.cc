// --rope string as people use it, on the 260K-parameter TinyStories model: every command that runs a model takes it,
// and what it does not go with ends in one line.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "hawser/base/file.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

class StringCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* data = std::getenv("HAWSER_DATA");
    if (data == nullptr) GTEST_SKIP() << "HAWSER_DATA is not set";
    const std::filesystem::path root = std::filesystem::path(data) / "models/stories260k";
    for (const char* file : {"checkpoint_v1.bin", "tokenizer.bin"}) {
      if (!std::filesystem::exists(root / file)) GTEST_SKIP() << root / file << " is absent";
    }
    model_ = "'" + (root / "checkpoint_v1.bin").string() + "'";
    tokenizer_ = " --tokenizer '" + (root / "tokenizer.bin").string() + "' ";
    folder_ = FreshFolder("string_command");
    std::string text;
    for (int i = 0; i < 60; ++i) text += "Once upon a time, there was a little girl who had a red ball.\n";
    WriteFileAtomically(folder_ / "story.txt", text);
    data_ = "'" + (folder_ / "story.txt").string() + "'";
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  testing::CommandResult Run(const std::string& command, const std::string& arguments) const {
    return testing::RunHawser(command + " " + model_ + tokenizer_ + arguments + " --quiet --threads 1 2>&1");
  }
  nlohmann::json Ppl(const std::string& arguments) const {
    const auto run = testing::RunHawser("eval " + model_ + " ppl --data " + data_ + tokenizer_ + "--json --quiet " +
                                        arguments + " --threads 1");
    EXPECT_EQ(run.code, 0) << run.out;
    return nlohmann::json::parse(run.out);
  }

  std::string model_, tokenizer_, data_;
  std::filesystem::path folder_;
};

TEST_F(StringCommand, WindowsAndStreamsOfATextAgree) {
  const std::string rope = "--rope string:shift=150,window=32 ";
  const nlohmann::json whole = Ppl(rope + "--protocol truncate --context 640");
  EXPECT_EQ(whole["rope"], "default,string:shift=150,window=32");
  const nlohmann::json stream = Ppl(rope + "--protocol streaming --max-tokens 639");
  EXPECT_NEAR(stream["nll"].get<double>() / whole["nll"].get<double>(), 1.0, 1e-4);
  const nlohmann::json plain = Ppl("--protocol truncate --context 640");
  EXPECT_GT(std::abs(plain["nll"].get<double>() / whole["nll"].get<double>() - 1), 1e-3);
}

TEST_F(StringCommand, GeneratesBeyondTheContext) {
  std::string prompt;
  for (int i = 0; i < 30; ++i) prompt += "Once upon a time, there was a little girl who had a red ball. ";
  const std::string arguments = "-p '" + prompt + "' --max-new 40 --temperature 0 --rope string:shift=400,window=64";
  const auto run = Run("generate", arguments);
  ASSERT_EQ(run.code, 0) << run.out;
  EXPECT_FALSE(run.out.empty());
  const auto refused = Run("generate", "-p '" + prompt + "' --max-new 400 --rope string:shift=400,window=64");
  EXPECT_EQ(refused.code, 2);
  EXPECT_NE(refused.out.find("the context of 848 tokens"), std::string::npos) << refused.out;  // 512 + 400 - 64
}

TEST_F(StringCommand, WrongCombinationsSaySo) {
  const std::string ppl = "--data " + data_ + tokenizer_;
  const auto expect = [&](int code, const std::string& command, const std::string& part) {
    const auto run = testing::RunHawser(command + " --quiet --threads 1 2>&1");
    EXPECT_EQ(run.code, code) << command << ": " << run.out;
    EXPECT_NE(run.out.find(part), std::string::npos) << command << ": " << run.out;
  };
  const std::string eval = "eval " + model_ + " ppl " + ppl;
  expect(2, eval + " --rope dynamic:factor=2,string", "dynamic follow the tokens");
  expect(2, eval + " --rope string:shift=512", "less than the 512 tokens");
  expect(2, eval + " --rope string:shift=9,window=10", "window=10");
  expect(4, eval + " --rope string:shift=9 --attention window=10 --context 64", "wider than the shift of string");
  expect(4, eval + " --rope string:shift=9 --kv sink:4,60", "positions=absolute");
  expect(4,
         "extend " + model_ + tokenizer_ + "--data " + data_ + " --rope string --context 700 --steps 1 --out '" +
             (folder_ / "out").string() + "'",
         "string is for models as they are");
  expect(4, "drift " + model_ + tokenizer_ + "--data " + data_ + " --tokens 64 --sequences 1 --rope string:shift=20",
         "without string");
}

}  // namespace
}  // namespace hawser
