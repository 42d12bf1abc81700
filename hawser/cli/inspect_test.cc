// The inspect command as people and scripts run it, and docs/PATTERNS.md, whose pictures it must have drawn.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>

#include "hawser/base/file.h"
#include "hawser/data/synthetic.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/test_data.h"
#include "hawser/testing/test_folder.h"
#include "hawser/tok/byte_level.h"

namespace hawser {
namespace {

using testing::CommandResult;

CommandResult Inspect(const std::string& arguments) { return testing::RunHawser("inspect pattern " + arguments); }

TEST(InspectCommand, JsonFigures) {
  const CommandResult run = Inspect("anchor --docs 100,50,105 --query-tile 32 --key-tile 32 --json");
  ASSERT_EQ(run.code, 0) << run.out;
  const nlohmann::json json = nlohmann::json::parse(run.out);
  EXPECT_EQ(json["pattern"], "anchor");
  EXPECT_EQ(json["tokens"], 256);
  const int pairs = 256 + 100 * 101 / 2 + 50 * 51 / 2 + 105 * 106 / 2;
  EXPECT_EQ(json["visible_pairs"], pairs);
  EXPECT_NEAR(json["density"].get<double>(), pairs / (256.0 * 257 / 2), 1e-12);
  EXPECT_EQ(json["tiles"]["dense"], 8 * 9 / 2);
  EXPECT_GT(json["tiles"]["full"], 0);
  EXPECT_GT(json["tiles"]["partial"], 0);
  EXPECT_GT(json["schedule_bytes"], 256 * 8);
  EXPECT_TRUE(json["compile_seconds"].is_number());
}

TEST(InspectCommand, ResetPositionsAndSvg) {
  const std::filesystem::path file = FreshPath("inspect.svg");
  const CommandResult run = Inspect("anchor-reset --docs 2,3 --svg '" + file.string() + "'");
  EXPECT_EQ(run.code, 0);
  EXPECT_NE(run.out.find("positions      0 1 2 1 2 3\n"), std::string::npos) << run.out;
  std::ifstream stream(file);
  const std::string svg{std::istreambuf_iterator<char>(stream), {}};
  EXPECT_TRUE(svg.starts_with("<svg ")) << svg;
  std::filesystem::remove(file);
}

TEST(InspectCommand, LongSequencesHaveFiguresAndNoPicture) {
  const CommandResult run = Inspect("'sinks=3 window=256 sep' --length 32768 --separator-every 7");
  EXPECT_EQ(run.code, 0);
  EXPECT_NE(run.out.find("tokens         32768"), std::string::npos);
  EXPECT_EQ(run.out.find("# #"), std::string::npos);
}

TEST(InspectCommand, LayersThatDiffer) {
  EXPECT_NE(Inspect("'sinks=1 window=2 full-layers=0+2' --layer 1").out.find("sinks=1 window=2\n"), std::string::npos);
  EXPECT_NE(Inspect("'sinks=1 window=2 full-layers=0+2' --layer 2").out.find("pattern        full\n"),
            std::string::npos);
  EXPECT_NE(Inspect("window=2+3 --layer 1").out.find("window=3\n"), std::string::npos);
  EXPECT_EQ(Inspect("window=2+3 --layer 2 2>&1").code, 2);
}

TEST(InspectCommand, Separators) {
  HAWSER_NEEDS_DATA("models/stories260k/tokenizer.bin", "pg19/test/12204.txt");
  const std::filesystem::path tokenizer = TestData() / "models/stories260k/tokenizer.bin";
  const std::filesystem::path book = TestData() / "pg19/test/12204.txt";
  const std::string command = "inspect separators '" + tokenizer.string() + "' ";
  const CommandResult run = testing::RunHawser(command + "--data '" + book.string() + "' --json");
  ASSERT_EQ(run.code, 0) << run.out;
  const nlohmann::json json = nlohmann::json::parse(run.out);
  EXPECT_EQ(json["separators"], "text");
  EXPECT_EQ(json["vocabulary"], 512);
  EXPECT_EQ(json["matched"], json["tokens"].size());
  int64_t sum = 0;
  for (const auto& token : json["tokens"]) sum += token["count"].get<int64_t>();
  EXPECT_EQ(json["data"]["separators"], sum);
  EXPECT_NEAR(json["data"]["density"].get<double>(), static_cast<double>(sum) / json["data"]["tokens"].get<double>(),
              1e-12);
  EXPECT_GT(json["data"]["density"], 0.01);
  EXPECT_LE(json["data"]["gap"]["median"], json["data"]["gap"]["p99"]);
  // Gaps of 1 to 10 tokens, each once: 99 % of ten is all of them.
  const std::filesystem::path text = FreshPath("inspect_gaps.txt");
  std::string dots = ".";
  for (size_t gap = 1; gap <= 10; ++gap) dots += std::string(gap - 1, 'x') + '.';
  WriteFileAtomically(text, dots);
  const std::string bytes = "--data '" + text.string() + "' --sep 426 --json";  // the full stop
  const nlohmann::json gap = nlohmann::json::parse(testing::RunHawser(command + bytes).out)["data"]["gap"];
  std::filesystem::remove(text);
  EXPECT_EQ(gap["median"], 5);
  EXPECT_EQ(gap["p99"], 10);
  const CommandResult few = testing::RunHawser(command + "--sep 5+6 --top 1");
  EXPECT_NE(few.out.find("separators '5+6': 2 of 512 tokens, 0.4 % of the vocabulary"), std::string::npos) << few.out;
  EXPECT_NE(few.out.find("and 1 more"), std::string::npos) << few.out;
  for (const char* wrong : {"--sep 512", "--sep neox-9", "--sep words", "--sep 3+"}) {
    EXPECT_EQ(testing::RunHawser(command + wrong + " 2>&1").code, 2) << wrong;
  }
}

TEST(InspectCommand, SeparatorsByAttention) {
  HAWSER_NEEDS_DATA("models/stories260k/checkpoint_v1.bin", "models/stories260k/tokenizer.bin", "pg19/test/12204.txt");
  const std::filesystem::path folder = TestData() / "models/stories260k";
  const std::string command = "inspect separators '" + (folder / "checkpoint_v1.bin").string() + "' --tokenizer '" +
                              (folder / "tokenizer.bin").string() + "' ";
  const std::string text = "--data '" + (TestData() / "pg19/test/12204.txt").string() + "' ";
  const std::filesystem::path svg = FreshPath("inspect_attention.svg");
  const std::string measure = "--attention --tokens 128 --sequences 2 --window 16 --top 3 ";
  const CommandResult run = testing::RunHawser(command + text + measure + "--json --svg '" + svg.string() + "'");
  ASSERT_EQ(run.code, 0) << run.out;
  EXPECT_NE(ReadFile(svg).find("far separators"), std::string::npos);
  std::filesystem::remove(svg);
  const nlohmann::json json = nlohmann::json::parse(run.out)["attention"];
  EXPECT_EQ(json["window"], 16);
  EXPECT_EQ(json["sequences"], 2);
  ASSERT_EQ(json["by_layer"].size(), 5u);
  EXPECT_EQ(json["by_head"].size(), 40u);
  ASSERT_EQ(json["by_separator"].size(), 3u);
  double times = 0;
  for (const auto& layer : json["by_layer"]) {
    const auto& all = layer["all"];
    EXPECT_NEAR(all["first"].get<double>() + all["separators"].get<double>() + all["plain"].get<double>(), 1, 1e-5);
    EXPECT_GT(all["separators"], layer["far"]["separators"]);
    times += all["times"].get<double>();
  }
  EXPECT_GT(times, 0);
  EXPECT_GE(json["by_separator"][0]["keys"], json["by_separator"][2]["keys"]);
  const CommandResult shown = testing::RunHawser(command + text + measure);
  EXPECT_NE(shown.out.find("attention over 2 texts of 128 tokens"), std::string::npos) << shown.out;
  EXPECT_NE(shown.out.find("(other separators)"), std::string::npos) << shown.out;
  for (const std::string& wrong : {std::string("--attention"), text + "--svg a.svg", text + measure + "--svg a.gif",
                                   text + "--attention --tokens 99999999999"}) {
    EXPECT_EQ(testing::RunHawser(command + wrong + " 2>&1").code, 2) << wrong;
  }
}

TEST(InspectCommand, AFullDiskDoesNotPassForSuccess) {
  const CommandResult run = Inspect("full 2>&1 >/dev/full");
  EXPECT_EQ(run.code, 3);
  EXPECT_NE(run.out.find("stdout: cannot write"), std::string::npos) << run.out;
}

TEST(InspectCommand, UsageErrors) {
  for (const char* arguments :
       {"ful", "window=0", "full --docs 0", "full --docs 3,x", "full --separators 99", "", "full --docs 2000000000",
        "anchors=2000000000", "full --key-tile 0", "full --length 5000 --svg /tmp/never.svg"}) {
    const CommandResult run = Inspect(std::string(arguments) + " 2>&1");
    EXPECT_EQ(run.code, 2) << arguments << ": " << run.out;
    EXPECT_FALSE(run.out.empty()) << arguments;
  }
}

TEST(PatternsPage, PicturesAreWhatTheCommandDraws) {
  const std::filesystem::path root = std::filesystem::path(__FILE__).parent_path().parent_path().parent_path();
  std::ifstream page(root / "docs" / "PATTERNS.md");
  if (!page) GTEST_SKIP() << "docs/PATTERNS.md is not beside the sources";
  const std::string prompt = "$ hawser inspect pattern ";
  int pictures = 0;
  for (std::string line; std::getline(page, line);) {
    if (!line.starts_with(prompt)) continue;
    ++pictures;
    const CommandResult run = Inspect(line.substr(prompt.size()));
    ASSERT_EQ(run.code, 0) << line;
    const std::string command = line;
    while (std::getline(page, line) && line != "```") {
      EXPECT_NE(run.out.find("\n" + line + "\n"), std::string::npos) << command << "\n" << line << "\n" << run.out;
    }
  }
  EXPECT_GE(pictures, 8);
}

TEST(InspectCommand, MultiBosPositions) {
  const CommandResult run = Inspect("multi-bos --docs 2,3");
  EXPECT_NE(run.out.find("positions      0 1 0 3 4\n"), std::string::npos) << run.out;
  EXPECT_EQ(Inspect("multi-bos-reset 2>&1").code, 2);
}

class InspectData : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("inspect_data");
    WriteFileAtomically(folder_ / "tokenizer.json", ByteLevelTokenizerJson(SyntheticWords()));
    std::string lines;
    for (uint64_t i = 0; i < 60; ++i) {
      const std::string text = MakeSyntheticDocument(1, i, 20 + 5 * static_cast<int64_t>(i)).text;
      lines += nlohmann::json({{"text", text}, {"source", i % 2 == 0 ? "web" : "books"}}).dump() + "\n";
    }
    WriteFileAtomically(folder_ / "a.jsonl", lines);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  CommandResult Run(const std::string& arguments) const {
    const std::string folder = folder_.string();
    std::string command = arguments;
    for (size_t at; (at = command.find("@")) != command.npos;) command.replace(at, 1, folder);
    return testing::RunHawser(command + " 2>&1");
  }
  nlohmann::json Report(const std::string& more) const {
    const CommandResult run = Run("inspect data --tokenizer @ --context 256 --json " + more);
    EXPECT_EQ(run.code, 0) << run.out;
    return nlohmann::json::parse(run.out);
  }
  std::filesystem::path folder_;
};

TEST_F(InspectData, EveryVariantKeepsEveryToken) {
  for (const char* variant : {"full", "intra", "intra-reset", "intra-tag", "anchor", "anchor-tag", "anchor-reset",
                              "intra-interleaved", "anchor-interleaved", "multi-bos"}) {
    const nlohmann::json report = Report(std::string("--data @/a.jsonl --overflow best-fit --attention ") + variant);
    EXPECT_EQ(report["counts"]["tokens_out"], report["tokens"]) << variant;
    EXPECT_EQ(report["attention"], variant);
    EXPECT_EQ(report["density"].get<double>() < 0.9, std::string(variant) != "full") << variant;
  }
}

TEST_F(InspectData, ShardsHoldWhatTheTextHolds) {
  const CommandResult written = Run("tokenize @ --data @/a.jsonl --out @/shards --shard-tokens 2000 --json");
  ASSERT_EQ(written.code, 0) << written.out;
  EXPECT_GT(nlohmann::json::parse(written.out)["files"].size(), 2u);
  EXPECT_EQ(Report("--data @/shards --attention anchor-tag"), Report("--data @/a.jsonl --attention anchor-tag"));
  EXPECT_EQ(Run("tokenize @ --data @/a.jsonl --out @/shards").code, 2) << "the folder is not empty";
  EXPECT_EQ(Run("tokenize @ --data @/a.jsonl").code, 2);
  EXPECT_EQ(Run("tokenize @ --data @/a.jsonl --text x --out @/more").code, 2);
}

TEST_F(InspectData, UpSamplingCountsWhatItLeavesAndRepeats) {
  const nlohmann::json report = Report("--data @/a.jsonl --set upsample=per-source --set long_document=400");
  for (const nlohmann::json& s : report["sources"]) {
    EXPECT_EQ(s["tokens"].get<int64_t>() + s["repeated"].get<int64_t>(),
              s["drawn"].get<int64_t>() + s["left_short"].get<int64_t>() + s["left_budget"].get<int64_t>());
  }
  EXPECT_GT(report["counts"]["tokens_in"], 0);
}

TEST_F(InspectData, TheSeedOfTheCommandLineWinsOverTheRecipesEvenWhereItIsZero) {
  WriteFileAtomically(folder_ / "r.toml", "seed = 5\nupsample = \"global\"\nlong_document = 4000\nshort_keep = 0.5\n");
  const std::string data = "--data @/a.jsonl ", recipe = data + "--recipe @/r.toml ";
  const nlohmann::json zero = Report(recipe + "--seed 0"), five = Report(recipe);
  EXPECT_NE(zero["sources"], five["sources"]);
  EXPECT_EQ(five["sources"], Report(recipe + "--seed 5")["sources"]);
}

TEST_F(InspectData, TextTableAndPicture) {
  const CommandResult run =
      Run("inspect data --tokenizer @ --context 256 --data @/a.jsonl --svg @/h.svg --max-sequences 3");
  ASSERT_EQ(run.code, 0) << run.out;
  EXPECT_NE(run.out.find("packed"), std::string::npos);
  EXPECT_NE(run.out.find("books"), std::string::npos);
  EXPECT_EQ(ReadFile(folder_ / "h.svg").substr(0, 4), "<svg");
  EXPECT_EQ(Run("inspect data --context 256 --data @/a.jsonl").code, 2);
  EXPECT_EQ(Run("inspect data --tokenizer @ --data @/a.jsonl").code, 2);
}

}  // namespace
}  // namespace hawser
