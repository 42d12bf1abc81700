// The tokenize command as people and scripts run it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "hawser/testing/hostile.h"
#include "hawser/testing/run_command.h"
#include "hawser/tok/byte_level.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::RunHawser;

class TokenizeCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("cli_tokenize");
    WriteBytes(folder_ / "tokenizer.json", ByteLevelTokenizerJson({" red", " fox"}));
    WriteBytes(folder_ / "model.bin", "24ka\x01 and no tokenizer");
    WriteBytes(folder_ / "text", "a red\nfox");
    WriteBytes(folder_ / "latin1", "caf\xe9");
  }
  std::string Quoted(const std::string& name) const { return " '" + (folder_ / name).string() + "'"; }

  fs::path folder_;
};

TEST_F(TokenizeCommand, TextBecomesIdsOnOneLine) {
  const auto run = RunHawser("tokenize" + Quoted("") + " --text 'a red fox'");
  EXPECT_EQ(run.code, 0);
  EXPECT_EQ(run.out, "97 258 261\n");
  EXPECT_EQ(RunHawser("tokenize" + Quoted("") + " --text ''").out, "\n");
}

TEST_F(TokenizeCommand, FilesAndBos) {
  const auto run = RunHawser("tokenize --json --add-bos" + Quoted("tokenizer.json") + " --file" + Quoted("text"));
  EXPECT_EQ(run.code, 0);
  EXPECT_EQ(json::parse(run.out), (json{{"ids", {262, 97, 258, 10, 102, 111, 120}},
                                        {"tokens", {"<|bos|>", "a", "\u0120red", "\u010a", "f", "o", "x"}}}));
}

TEST_F(TokenizeCommand, IdsBecomeText) {
  EXPECT_EQ(RunHawser("tokenize" + Quoted("") + " --ids 97,258").out, "a red\n");
  const auto run = RunHawser("tokenize --json" + Quoted("") + " --ids 97,258,195");
  EXPECT_EQ(json::parse(run.out),
            (json{{"ids", {97, 258, 195}}, {"tokens", {"a", "\u0120red", "\u00c3"}}, {"text", "a red\ufffd"}}));
}

TEST_F(TokenizeCommand, TokenizerWinsOverModel) {
  const auto run =
      RunHawser("tokenize" + Quoted("model.bin") + " --tokenizer" + Quoted("tokenizer.json") + " --text ' fox'");
  EXPECT_EQ(run.out, "261\n");
  const auto alone = RunHawser("tokenize" + Quoted("model.bin") + " --text x 2>&1");
  EXPECT_EQ(alone.code, 3);
  EXPECT_NE(alone.out.find("--tokenizer FILE"), std::string::npos) << alone.out;
}

TEST_F(TokenizeCommand, ReadsPipes) {
  const std::string model = "tokenize builtin", ids = RunHawser(model + " --text 'two words'").out;
  EXPECT_EQ(RunHawser(model, "echo 'two words' | ").out, ids);
  EXPECT_EQ(RunHawser(model + " --file -", "printf 'two words' | ").out, ids);
  EXPECT_NE(RunHawser(model + " --file -", "echo 'two words' | ").out, ids);  // as it is
  EXPECT_EQ(RunHawser(model + " --text 'two words'", "echo other | ").out, ids);
  const testing::CommandResult bytes = RunHawser(model + " 2>&1", "printf 'caf\\351' | ");
  EXPECT_EQ(bytes.code, 3);
  EXPECT_NE(bytes.out.find("standard input is not UTF-8"), std::string::npos) << bytes.out;
}

TEST_F(TokenizeCommand, MistakesAreExplained) {
  const struct {
    std::string arguments;
    int code;
    std::string words;
  } kMistakes[] = {{" --ids 97,264", 2, "264"},
                   {" --ids -1", 2, "-1"},
                   {" --ids 1,x", 2, "--ids"},
                   {" --ids 1,,2", 2, "nothing stands between"},
                   {" --ids=,1", 2, "nothing stands between"},
                   {" --ids 1 2,", 2, "nothing stands between"},
                   {"", 2, "one of --text, --file, --ids and --data"},
                   {" --text a --ids 1", 2, "one of --text, --file, --ids and --data"},
                   {" --text a --out x", 2, "--out with --data alone"},
                   {" --file" + Quoted("latin1"), 3, "not UTF-8"},
                   {" --text \"$(printf 'caf\\351')\"", 2, "not UTF-8"},
                   {" --file" + Quoted("absent"), 3, "absent"}};
  for (const auto& mistake : kMistakes) {
    const auto run = RunHawser("tokenize" + Quoted("") + mistake.arguments + " 2>&1");
    EXPECT_EQ(run.code, mistake.code) << mistake.arguments;
    EXPECT_NE(run.out.find(mistake.words), std::string::npos) << mistake.arguments << ": " << run.out;
  }
}

}  // namespace
}  // namespace hawser
