#include "hawser/eval/ruler.h"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/text.h"
#include "hawser/eval/prompt_ids.h"
#include "hawser/eval/ruler_score.h"
#include "hawser/eval/ruler_text.h"
#include "hawser/eval/task.h"
#include "hawser/io/json.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/test_data.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

const RulerTask& TaskOf(std::string_view name) { return *ParseRulerTasks(name).at(0); }

std::vector<nlohmann::json> JsonLines(const fs::path& path) {
  const std::string text = ReadFile(path);
  std::vector<nlohmann::json> lines;
  for (const std::string_view line : SplitWords(text, "\n")) lines.push_back(ParseJson(line));
  return lines;
}

struct GoldenCase {
  int64_t length;
  const char* task;
};

class RulerGolden : public ::testing::TestWithParam<GoldenCase> {
 protected:
  void SetUp() override { HAWSER_NEEDS_DATA(); }
  const fs::path data_ = TestData();
};

TEST_P(RulerGolden, TextIsTheOriginals) {
  static const std::unique_ptr<Tokenizer> tokenizer = LoadTokenizer(data_ / "tokenizers" / "llama2.tokenizer.model");
  const auto [length, name] = GetParam();
  const std::vector<nlohmann::json> golden =
      JsonLines(data_ / "ruler" / "golden" / std::to_string(length) / (std::string(name) + ".jsonl"));
  const RulerOptions options{.length = length, .samples = static_cast<int64_t>(golden.size()), .data_dir = data_};
  const RulerTask& task = TaskOf(name);
  const std::vector<RulerSample> samples = MakeRulerSamples(task, options, *tokenizer);
  ASSERT_EQ(samples.size(), golden.size());
  for (size_t i = 0; i < samples.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_EQ(samples[i].input, golden[i]["input"].get<std::string>());
    EXPECT_EQ(samples[i].answer_prefix, golden[i]["answer_prefix"].get<std::string>());
    EXPECT_EQ(nlohmann::json(samples[i].outputs), golden[i]["outputs"]);
    EXPECT_EQ(samples[i].length, golden[i]["length"].get<int64_t>());
    if (task.kind != RulerKind::kNiah) continue;
    EXPECT_EQ(samples[i].answer_char, golden[i]["index"].get<int64_t>());
    EXPECT_EQ(samples[i].answer_token, golden[i]["token_position_answer"].get<int64_t>());
  }
}

INSTANTIATE_TEST_SUITE_P(All, RulerGolden,
                         ::testing::Values(GoldenCase{512, "niah_single_1"}, GoldenCase{512, "niah_multikey_2"},
                                           GoldenCase{4096, "niah_single_1"}, GoldenCase{4096, "niah_multikey_2"},
                                           GoldenCase{4096, "niah_multikey_3"}, GoldenCase{4096, "vt"},
                                           GoldenCase{4096, "cwe"}, GoldenCase{4096, "fwe"}, GoldenCase{4096, "qa_1"},
                                           GoldenCase{16384, "niah_single_1"}, GoldenCase{16384, "niah_multikey_3"},
                                           GoldenCase{16384, "vt"}, GoldenCase{16384, "cwe"}, GoldenCase{16384, "fwe"},
                                           GoldenCase{16384, "qa_1"}, GoldenCase{16384, "qa_2"}),
                         [](const auto& info) { return fmt::format("{}At{}", info.param.task, info.param.length); });

/// A text of 3000 sentences, for the tasks that hide needles in one.
fs::path WriteEssay() {
  std::string text;
  for (int i = 0; i < 3000; ++i) text += fmt::format("Line {} has words. ", i);
  const fs::path path = FreshPath("ruler_essay.txt");
  WriteFileAtomically(path, text);
  return path;
}

// What the goldens cannot say of the tasks that upstream draws from a text that is not here.
TEST(Ruler, EveryAnswerStandsInItsTextOnceAndFits) {
  HAWSER_NEEDS_DATA("ruler/wordlists");
  const fs::path essay = WriteEssay();
  const testing::ByteTokenizer tokenizer;
  for (const RulerTask* task : ParseRulerTasks("niah")) {
    SCOPED_TRACE(task->name);
    const RulerOptions options{.length = 20000, .samples = 3, .haystack = essay.string()};
    const std::vector<RulerSample> samples = MakeRulerSamples(*task, options, tokenizer);
    ASSERT_EQ(samples.size(), 3u);
    for (const RulerSample& sample : samples) {
      EXPECT_LE(sample.length, options.length);
      EXPECT_GT(sample.length, options.length * 2 / 3);
      EXPECT_EQ(static_cast<int64_t>((sample.input + sample.answer_prefix).size()) + task->max_new, sample.length);
      EXPECT_EQ(sample.outputs.size(), static_cast<size_t>(task->values * task->queries));
      for (const std::string& output : sample.outputs) {
        const size_t at = sample.input.find(output);
        ASSERT_NE(at, std::string::npos);
        EXPECT_EQ(sample.input.find(output, at + 1), std::string::npos);
      }
      EXPECT_EQ(sample.input.find(sample.outputs[0]), static_cast<size_t>(*sample.answer_token));
    }
    EXPECT_NE(samples[0].input, samples[1].input);
  }
}

TEST(Ruler, ASeedIsAnotherSetAndTheSameOneTheSame) {
  const testing::ByteTokenizer tokenizer;
  for (const char* name : {"niah_multikey_3", "vt", "fwe"}) {
    RulerOptions options{.length = 3000, .samples = 2};
    const std::vector<RulerSample> one = MakeRulerSamples(TaskOf(name), options, tokenizer);
    EXPECT_EQ(one[1].input, MakeRulerSamples(TaskOf(name), options, tokenizer)[1].input) << name;
    options.seed = 43;
    EXPECT_NE(one[1].input, MakeRulerSamples(TaskOf(name), options, tokenizer)[1].input) << name;
  }
}

TEST(Ruler, TemplatesStandAroundTheTurn) {
  const testing::ByteTokenizer tokenizer;
  const RulerOptions options{.length = 4000, .samples = 1, .model_template = "llama2-chat"};
  for (const char* name : {"niah_multikey_3", "vt", "fwe"}) {
    const RulerSample sample = MakeRulerSamples(TaskOf(name), options, tokenizer).at(0);
    EXPECT_TRUE(sample.input.starts_with("[INST] ")) << name;
    EXPECT_TRUE(sample.input.ends_with(" [/INST]")) << name;
    EXPECT_EQ(sample.input.find("[INST]", 1), std::string::npos) << name;
    EXPECT_LE(sample.length, 4000) << name;
  }
}

// Lengths of the original at this seed. The new names of the third sample's example are more tokens than the old ones.
TEST(Ruler, TheExampleOfVtCountsWithItsNewNames) {
  HAWSER_NEEDS_DATA("tokenizers/gpt2.tokenizer.json");
  const auto tokenizer = LoadTokenizer(TestData() / "tokenizers" / "gpt2.tokenizer.json");
  const RulerOptions options{.length = 3000, .samples = 3, .seed = 7};
  const std::vector<RulerSample> samples = MakeRulerSamples(TaskOf("vt"), options, *tokenizer);
  ASSERT_EQ(samples.size(), 3u);
  EXPECT_EQ(samples[0].length, 2994);
  EXPECT_EQ(samples[1].length, 2999);
  EXPECT_EQ(samples[2].length, 2880);
  EXPECT_EQ(samples[2].outputs[0], "ZKXYB");
}

TEST(Ruler, TheExampleOfCweIsATurnOfItsOwn) {
  HAWSER_NEEDS_DATA("ruler/wordlists");
  const testing::ByteTokenizer tokenizer;
  const RulerOptions options{.length = 4000, .samples = 1, .model_template = "phi3"};
  const RulerSample sample = MakeRulerSamples(TaskOf("cwe"), options, tokenizer).at(0);
  const std::string begin = "<|user|>\nBelow is", middle = "list?<|end|>\n<|assistant|>\n Answer: The top 10";
  EXPECT_TRUE(sample.input.starts_with(begin));
  EXPECT_NE(sample.input.find(middle), std::string::npos);
  EXPECT_NE(sample.input.find("\n" + begin, 1), std::string::npos);
  EXPECT_TRUE(sample.input.ends_with("list?<|end|>\n<|assistant|>\n"));
  EXPECT_LE(sample.length, 4000);
}

TEST(Ruler, AQuestionWithoutAnAnswerIsRefused) {
  const fs::path file = FreshPath("squad.json");
  const auto write = [&](const char* rest) {
    WriteFileAtomically(file, fmt::format(R"({{"data":[{{"paragraphs":[{{"context":"Cats.","qas":[)"
                                          R"({{"question":"What?","answers":[]{}}},)"
                                          R"({{"question":"Who?","answers":[{{"text":"cats"}}]}}]}}]}}]}})",
                                          rest));
  };
  write(R"(,"is_impossible":true)");
  EXPECT_EQ(ReadSquad(file).questions.size(), 1u);
  write("");
  try {
    ReadSquad(file);
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kFormat);
    EXPECT_NE(std::string(error.what()).find("no answer to"), std::string::npos) << error.what();
  }
}

// Files of gen --template, and of the original, hold the template's names of special tokens as text.
TEST(RulerFiles, TheirTemplatesAreSpecialTokens) {
  HAWSER_NEEDS_DATA("tokenizers/gpt2.tokenizer.json");
  const auto tokenizer = LoadTokenizer(TestData() / "tokenizers" / "gpt2.tokenizer.json");
  const fs::path folder = FreshPath("ruler_special");
  MakeDirectories(folder);
  WriteFileAtomically(folder / "vt.jsonl",
                      R"({"index":0,"input":"<|endoftext|>Say hi.<|endoftext|>","outputs":["x"],"length":9})");
  const TaskInput input{
      .options = TaskOptions("ruler:data=" + folder.string()), .tokenizer = tokenizer.get(), .max_length = 100};
  const LmRequest asked = FindTask("ruler").samples(input).at(0).requests.at(0);
  int64_t tokens = 0;
  const std::vector<int32_t> ids = PromptEncoder(*tokenizer, BosRule::kAuto, false, 100).Prompt(asked, &tokens);
  EXPECT_EQ(ids, tokenizer->Encode(asked.context, /*parse_special=*/true));
  EXPECT_EQ(std::ranges::count(ids, 50256), 2);
  // A template that begins with BOS gets no second one.
  testing::ByteTokenizer begins;
  begins.set_prefix({'<'});
  const PromptEncoder encoder(begins, BosRule::kAuto, false, 100);
  const LmRequest bos{.kind = LmRequest::Kind::kGenerate, .context = "<a", .special = true, .max_new = 9};
  EXPECT_EQ(encoder.Prompt(bos, &tokens), (std::vector<int32_t>{'<', 'a'}));
  const LmRequest plain{.kind = LmRequest::Kind::kGenerate, .context = "<a", .max_new = 9};
  EXPECT_EQ(encoder.Prompt(plain, &tokens), (std::vector<int32_t>{'<', '<', 'a'}));
}

TEST(Ruler, SaysWhatDoesNotFit) {
  HAWSER_NEEDS_DATA("ruler/wordlists");
  const testing::ByteTokenizer tokenizer;
  for (const RulerTask& task : RulerTasks()) {
    if (task.any()) continue;
    const RulerOptions options{.length = 150, .samples = 1, .haystack = WriteEssay().string()};
    try {
      MakeRulerSamples(task, options, tokenizer);
      ADD_FAILURE() << task.name << " fits in 150 bytes";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << error.what();
      EXPECT_NE(std::string(error.what()).find("150 tokens are too few"), std::string::npos) << error.what();
    }
  }
  EXPECT_THROW(MakeRulerSamples(TaskOf("niah_single_2"), {.haystack = "/absent"}, tokenizer), Error);
}

// Lengths that leave hardly a word of what is asked for: a line, or texts that can be answered.
TEST(Ruler, ShortTextsAreRefusedOrCanBeAnswered) {
  HAWSER_NEEDS_DATA("ruler/wordlists", "models/stories260k/tokenizer.bin");
  const auto tokenizer = LoadTokenizer(TestData() / "models/stories260k/tokenizer.bin");
  int made = 0;
  for (const auto& [name, from, to] : {std::tuple("fwe", 280, 400), std::tuple("cwe", 840, 960)}) {
    for (int64_t length = from; length < to; length += 8) {
      try {
        for (const RulerSample& sample : MakeRulerSamples(TaskOf(name), {.length = length, .samples = 4}, *tokenizer)) {
          EXPECT_LE(sample.length, length);
          ASSERT_FALSE(sample.outputs.empty());
          for (const std::string& output : sample.outputs) EXPECT_NE(sample.input.find(output), std::string::npos);
          ++made;
        }
      } catch (const Error& error) {
        EXPECT_NE(std::string(error.what()).find("too few"), std::string::npos) << error.what();
      }
    }
  }
  EXPECT_GT(made, 0);
}

TEST(Ruler, NamesWhatFetchesTheWords) {
  const fs::path none = FreshPath("ruler_no_data");
  MakeDirectories(none);
  try {
    MakeRulerSamples(TaskOf("cwe"), {.data_dir = none}, testing::ByteTokenizer());
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kIo);
    EXPECT_NE(std::string(error.what()).find("hawser pull data:ruler"), std::string::npos) << error.what();
  }
}

TEST(Ruler, TasksByNameFamilyAndGlob) {
  EXPECT_EQ(ParseRulerTasks("all").size(), 13u);
  EXPECT_EQ(ParseRulerTasks("niah").size(), 8u);
  EXPECT_EQ(ParseRulerTasks("vt+qa").size(), 3u);
  EXPECT_EQ(ParseRulerTasks("niah_single_*,cwe").size(), 4u);
  for (const char* wrong : {"", "nih", "vt+x", "vt++qa", "vt,", "+vt"})
    EXPECT_THROW(ParseRulerTasks(wrong), Error) << wrong;
}

TEST(RulerScore, AllCountsSharesAndAnyOneIsEnough) {
  const std::vector<std::string> two = {"Alpha", "beta"};
  EXPECT_EQ(ScoreRuler(TaskOf("vt"), "it is ALPHA, no more", two), 0.5);
  EXPECT_EQ(ScoreRuler(TaskOf("qa_1"), "it is ALPHA, no more", two), 1);
  EXPECT_EQ(ScoreRuler(TaskOf("vt"), "alpha beta", two), 1);
  for (const char* none : {"", " \n", "gamma"}) {
    EXPECT_EQ(ScoreRuler(TaskOf("vt"), none, two), 0);
    EXPECT_EQ(ScoreRuler(TaskOf("qa_1"), none, two), 0);
  }
  EXPECT_EQ(ScoreRuler(TaskOf("qa_1"), "a\x01z", {"a\nz"}), 1);  // control characters are line ends
  EXPECT_EQ(ScoreRuler(TaskOf("qa_1"), "\u00c9t\u00c9", {"\u00e9t\u00e9"}), 1);
}

TEST(RulerScore, AnswersOfTheTruthScoreFull) {
  const testing::ByteTokenizer tokenizer;
  const fs::path folder = FreshPath("ruler_pred");
  MakeDirectories(folder);
  for (const char* name : {"niah_multikey_3", "vt", "fwe"}) {
    std::string right[2];
    for (const RulerSample& sample : MakeRulerSamples(TaskOf(name), {.length = 3000, .samples = 24}, tokenizer)) {
      right[sample.index / 12] += nlohmann::json{{"index", sample.index},
                                                 {"pred", fmt::format("{}", fmt::join(sample.outputs, " "))},
                                                 {"outputs", sample.outputs}}
                                      .dump() +
                                  "\n";
    }
    WriteFileAtomically(folder / fmt::format("{}-0.jsonl", name), right[0]);
    WriteFileAtomically(folder / fmt::format("{}-10.jsonl", name), "{\"pred\":\"\",\"outputs\":[\"x\"]}\n");
    WriteFileAtomically(folder / fmt::format("{}-2.jsonl", name), "\n" + right[1]);
  }
  const std::vector<RulerTaskScore> scores = ScoreRulerFolder(folder);
  ASSERT_EQ(scores.size(), 3u);
  for (const RulerTaskScore& score : scores) {
    EXPECT_EQ(score.samples, 25);
    EXPECT_EQ(score.empty, 1);
    EXPECT_EQ(score.score, 96);
    EXPECT_EQ(score.predictions.back().text, "");  // pieces come in the order of their numbers
  }
  EXPECT_EQ(RulerSummaryCsv(scores), "Tasks,niah_multikey_3,vt,fwe\nScore,96,96,96\nNulls,1/25,1/25,1/25\n");
  WriteFileAtomically(folder / "vt-11.jsonl", "{}\n");
  EXPECT_THROW(ScoreRulerFolder(folder), Error);
  fs::copy_file(folder / "vt-2.jsonl", folder / "vt-11.jsonl", fs::copy_options::overwrite_existing);
  EXPECT_THROW(ScoreRulerFolder(folder), Error) << "a piece twice";
}

TEST(RulerScore, ScoresPublishedAnswers) {
  HAWSER_NEEDS_DATA("oracles/ruler_string_expected_scores.json", "ruler/predictions_string");
  const fs::path data = TestData();
  const nlohmann::json expected =
      ParseJson(ReadFile(data / "oracles" / "ruler_string_expected_scores.json"))["expected"];
  std::map<std::string, double> sums;
  for (const RulerTaskScore& score : ScoreRulerFolder(data / "ruler" / "predictions_string")) {
    const nlohmann::json& of = expected[score.model][std::string(score.task->name)];
    EXPECT_EQ(score.score, of["score_x100_round2"].get<double>()) << score.model << " " << score.task->name;
    EXPECT_EQ(score.samples, of["n"].get<int64_t>());
    EXPECT_EQ(score.empty, of["null_predictions"].get<int64_t>());
    sums[score.model] += score.score;
  }
  EXPECT_NEAR(sums["llama3.1-8b-instruct"] / 13, 80.02, 0.005);
  EXPECT_NEAR(sums["llama3.1-70b-instruct"] / 13, 81.90, 0.005);
}

}  // namespace
}  // namespace hawser
