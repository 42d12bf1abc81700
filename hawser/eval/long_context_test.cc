// What the tasks of long texts make and how they score, against the originals' vectors.
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/text.h"
#include "hawser/eval/answer_text.h"
#include "hawser/eval/file_scores.h"
#include "hawser/eval/lengths.h"
#include "hawser/eval/longbench.h"
#include "hawser/eval/niah.h"
#include "hawser/eval/passkey.h"
#include "hawser/eval/task_results.h"
#include "hawser/eval/tasks.h"
#include "hawser/io/digest.h"
#include "hawser/io/json.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/test_data.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

class LongContextVectors : public ::testing::Test {
 protected:
  void SetUp() override { HAWSER_NEEDS_DATA(); }
  const fs::path data_ = TestData();
};

TEST_F(LongContextVectors, PasskeyPrompts) {
  const nlohmann::json root = ParseJson(ReadFile(data_ / "oracles" / "passkey_prompt_vectors.json"));
  const std::unique_ptr<Tokenizer> tokenizer = LoadTokenizer(data_ / "tokenizers" / "llama2.tokenizer.model");
  for (const nlohmann::json& vector : root["vectors"]) {
    SCOPED_TRACE(vector.dump().substr(0, 120));
    const nlohmann::json& params = vector["params"];
    const std::string name = vector["variant"].get<std::string>(), key = params["key"].dump();
    std::string prompt;
    if (name == "llamacpp") {
      const auto all = params["n_junk"].get<int64_t>(), before = params["i_pos"].get<int64_t>();
      prompt = PasskeyPrompt(PasskeyLayout::kLlamaCpp, before, all - before, key);
    } else if (name == "pose_repeat") {
      prompt = PasskeyPrompt(PasskeyLayout::kPose, params["n_prefix"], params["n_suffix"], key);
    } else {
      prompt = PasskeyPrompt(name == "landmark_char" ? PasskeyLayout::kLandmark : PasskeyLayout::kFocusLlm,
                             params["n_prefix_chars"], params["n_suffix_chars"], key);
    }
    EXPECT_EQ(Sha256(prompt), vector["sha256"].get<std::string>());
    EXPECT_EQ(tokenizer->Encode(prompt).size(), vector["llama2_tokens_no_bos"].get<size_t>());
  }
}

TEST_F(LongContextVectors, LongBenchMetrics) {
  const std::map<std::string, LongBenchMetric> metrics = {{"qa_f1_score", LongBenchMetric::kF1},
                                                          {"rouge_score", LongBenchMetric::kRouge},
                                                          {"classification_score", LongBenchMetric::kClass},
                                                          {"count_score", LongBenchMetric::kCount},
                                                          {"retrieval_score", LongBenchMetric::kRetrieval},
                                                          {"code_sim_score", LongBenchMetric::kCode}};
  int seen = 0;
  const std::string text = ReadFile(data_ / "oracles" / "longbench_metric_vectors.jsonl");
  for (const std::string_view line : SplitWords(text, "\n")) {
    const nlohmann::json vector = ParseJson(line);
    const std::string metric = vector["metric"];
    std::vector<std::string> classes;
    if (vector.contains("all_classes")) classes = vector["all_classes"].get<std::vector<std::string>>();
    EXPECT_NEAR(LongBenchScore(metrics.at(metric), vector["prediction"].get<std::string>(),
                               vector["ground_truth"].get<std::string>(), classes),
                vector["score"].get<double>(), metric == "rouge_score" ? 1e-8 : 1e-9)
        << line.substr(0, 300);
    ++seen;
  }
  EXPECT_EQ(seen, 167);
}

TEST_F(LongContextVectors, LongBenchPromptsAreThePublishedOnes) {
  const nlohmann::json prompts = ParseJson(ReadFile(data_ / "longbench" / "dataset2prompt.json"));
  const nlohmann::json lengths = ParseJson(ReadFile(data_ / "longbench" / "dataset2maxlen.json"));
  ASSERT_EQ(LongBenchSets().size(), 21u);
  const std::map<std::string, std::string> read = ReadLongBenchPrompts(data_);
  for (const LongBenchSet& set : LongBenchSets()) {
    EXPECT_EQ(read.at(std::string(set.name)), prompts[std::string(set.name)].get<std::string>());
    EXPECT_EQ(set.max_new, lengths[std::string(set.name)].get<int64_t>());
  }
}

TEST(Passkey, PutsTheKeyWhereItIsTold) {
  for (const PasskeyVariant& variant : PasskeyVariants()) {
    if (variant.layout == PasskeyLayout::kInfiniteBench || variant.layout == PasskeyLayout::kYarnHard) continue;
    const std::string front = PasskeyPrompt(variant.layout, 0, 300, "31415");
    const std::string back = PasskeyPrompt(variant.layout, 300, 0, "31415");
    EXPECT_LT(front.find("31415"), 250u) << variant.name;
    EXPECT_GT(back.find("31415"), front.size() / 3) << variant.name;
    EXPECT_TRUE(front.ends_with("What is the pass key? The pass key is")) << variant.name;
  }
}

TEST(Passkey, DistancesOfAGridAreThoseOfItsKeys) {
  std::vector<Sample> samples;
  std::vector<SampleScore> scores;
  const auto add = [&](double length, double depth, double prompt, double key, double found) {
    Sample sample{.at = {{"length", length}, {"depth", depth}},
                  .facts = {{"prompt_tokens", prompt}, {"key_token", key}}};
    sample.doc = std::make_shared<const nlohmann::ordered_json>(nlohmann::ordered_json{{"variant", "pi"}});
    samples.push_back(std::move(sample));
    scores.push_back({.values = {{found}}});
  };
  add(1024, 1, 1000, 990, 1);
  add(1024, 0, 1000, 100, 0);
  add(1024, 0, 1010, 104, 1);
  add(2048, 0, 2000, 100, 0);
  TaskFigures figures = kPasskey.figures(samples, scores);
  EXPECT_EQ(figures["passkey_pi"]["k_max"], 903) << "the mean of 900 and 906, at which one of two is found";
  for (Sample& sample : samples) sample.at.pop_back();
  EXPECT_TRUE(kPasskey.figures(samples, scores).empty()) << "at random depths there is none";
}

TEST(Passkey, TheFirstNumberCounts) {
  EXPECT_TRUE(FirstNumberIs(" 31415. Remember 7", "31415"));
  EXPECT_TRUE(FirstNumberIs("key 00042", "42"));
  EXPECT_FALSE(FirstDigitsAre("key 00042", "42"));
  EXPECT_TRUE(FirstDigitsAre("key 42,", "42"));
  for (const char* wrong : {"", "none", "3141 5", "314159"}) EXPECT_FALSE(FirstNumberIs(wrong, "31415")) << wrong;
  EXPECT_EQ(Ordinal(1) + Ordinal(2) + Ordinal(3) + Ordinal(4) + Ordinal(11) + Ordinal(22) + Ordinal(113),
            "1st2nd3rd4th11th22nd113th");
}

TEST(Niah, JudgesByRule) {
  EXPECT_EQ(JudgeNeedle("Eat a SANDWICH, in Dolores-Park"), 5);  // a hyphen makes one word of two
  EXPECT_EQ(JudgeNeedle("Eat a sandwich in the Dolores Park!"), 10);
  EXPECT_EQ(JudgeNeedle("Dolores Park"), 5);
  EXPECT_EQ(JudgeNeedle("walk"), 1);
}

TEST(Niah, HidesBehindASentenceAndKeepsTheText) {
  const testing::ByteTokenizer tokenizer;
  const std::string text = "One is here. Two is there. Three is nowhere.";
  const std::vector<int32_t> ids = tokenizer.Encode(text, false, false);
  const auto length = static_cast<int64_t>(ids.size());
  EXPECT_EQ(HideNeedle(ids, length, "[N]", 0.5, tokenizer).text, "One is here.[N] Two is there. Three is nowhere.");
  EXPECT_EQ(HideNeedle(ids, length, "[N]", 0, tokenizer).text, "[N]" + text);
  EXPECT_EQ(HideNeedle(ids, length, "[N]", 1, tokenizer).text, text + "[N]");
  EXPECT_EQ(HideNeedle(ids, 7, "[N]", 1, tokenizer).text, "One is [N]");
  const std::vector<std::string> needles = {"[A]", "[B]"};
  const std::vector<double> depths = {0.5, 0.1};
  const HiddenText hidden = HideNeedles(ids, length, needles, depths, tokenizer);
  EXPECT_EQ(hidden.text, "One [B]is here. Two is th[A]ere. Three is nowhere.");
  EXPECT_EQ(hidden.places, (std::vector<int64_t>{22, 4}));
}

TEST(LongBench, CutsTheMiddleAlone) {
  const testing::ByteTokenizer tokenizer;
  EXPECT_EQ(CutMiddle("0123456789", 10, tokenizer), "0123456789");
  EXPECT_EQ(CutMiddle("0123456789", 5, tokenizer), "0189");
  EXPECT_EQ(FindLongBenchSet("hotpotqa_e")->name, "hotpotqa");
  EXPECT_EQ(LongBenchPrompt("Text: {context}\nQuestion: {input}", "{input}", "asked"),
            "Text: {input}\nQuestion: asked");
}

TEST(LongBench, FirstLinesAndChoices) {
  const LongBenchSet& trec = *FindLongBenchSet("trec");
  EXPECT_EQ(LongBenchScore(trec, "\nDate\nLocation", {"Date"}, {"Date", "Location"}), 1);
  EXPECT_EQ(LongBenchChoice("**The correct answer is (B)**"), 'B');
  EXPECT_EQ(LongBenchChoice("The correct answer is C, or The correct answer is (D)"), 'D');
  EXPECT_EQ(LongBenchChoice("The correct answer is C."), 'C');
  EXPECT_EQ(LongBenchChoice("A or B"), 0);
}

TEST(LongBench, SentencesBeyondMemoryAreRefused) {
  std::string text;
  for (int i = 0; i < 1 << 14; ++i) text += "w ";
  EXPECT_THROW(LongBenchScore(*FindLongBenchSet("gov_report"), text, {text}, {}), Error);
}

// Values of the published code.
TEST(LongBench, BlanksDigitsAndWordsAreThoseOfPython) {
  const auto score = [](const char* set, const char* answer, const char* reference) {
    return LongBenchScore(*FindLongBenchSet(set), answer, {reference}, {});
  };
  EXPECT_DOUBLE_EQ(score("qasper", "It is 12\u00a0km", "12 km"), 2.0 / 3);
  EXPECT_EQ(score("qasper", "“The cat” — sat", "“ cat” — sat"), 1);
  EXPECT_EQ(score("qasper", "the—cat", "—cat"), 1);
  EXPECT_EQ(score("qasper", "3\u3000cats the’s", "3 cats ’s"), 1);
  EXPECT_EQ(score("qasper", "theé", "é"), 0);  // a letter, so no word ends before it
  EXPECT_NEAR(score("gov_report", "one\u00a0two\u2003three. four", "one two three. four"), 1, 1e-8);
  EXPECT_NEAR(score("gov_report", "one\x1ctwo", "one two"), 1, 1e-8);
  EXPECT_DOUBLE_EQ(score("passage_count", "３ or 3", "3"), 0.5);
  EXPECT_DOUBLE_EQ(score("passage_count", "٣ 3 4", "3"), 1.0 / 3);
  EXPECT_DOUBLE_EQ(score("passage_retrieval_zh", "段落７或段落7", "段落7"), 0.5);
}

TEST(LongTasks, ListsDepthsAndLimits) {
  const testing::ByteTokenizer tokenizer;
  const std::string name = "a_name_of_more_letters_than_fit_in_the_string_object_itself";
  TaskInput input{.options = TaskOptions("x:sets=" + name + "+b,depths=3,lengths=1k+2k"), .tokenizer = &tokenizer};
  input.max_length = 2048;
  EXPECT_EQ(input.options.List("sets", ""), (std::vector<std::string>{name, "b"}));
  EXPECT_EQ(TaskDepths(input, "10"), (std::vector<double>{0, 0.5, 1}));
  EXPECT_EQ(TaskLengths(input, "lengths", "9"), (std::vector<int64_t>{1024, 2048}));
  EXPECT_EQ(TaskRoom(input, 1024), 1024);
  input.chat = true;
  EXPECT_LT(TaskRoom(input, 2048), 2048);  // the template needs room too
  input.max_length = 2000;
  EXPECT_THROW(TaskLengths(input, "lengths", "9"), Error);
  for (const char* wrong : {"2.5", "x", "0.1+1.5", "-1", "1+2", "0.5+0.50"}) {
    const TaskInput bad{.options = TaskOptions(fmt::format("x:depths={}", wrong))};
    EXPECT_THROW(TaskDepths(bad, "10"), Error) << wrong;
  }
  // Samples that count twice would narrow error bars.
  for (const char* twice : {"x:lengths=1k+1024", "x:lengths=9+8+9"}) {
    const TaskInput bad{.options = TaskOptions(twice)};
    EXPECT_THROW(bad.options.Ints("lengths", "9", 1, 2000), Error) << twice;
  }
  EXPECT_THROW(TaskOptions("x:sets=a+b+a").List("sets", ""), Error);
  std::vector<Sample> samples = {{.row = "a"}, {.row = "b"}, {.row = "a"}, {.row = "a"}, {.row = "b"}};
  LimitRows(0, &samples);
  EXPECT_EQ(samples.size(), 5u);
  LimitRows(1, &samples);
  ASSERT_EQ(samples.size(), 2u);
  EXPECT_EQ(samples[0].row + samples[1].row, "ab");
  EXPECT_EQ(samples[0].of, 3);
}

/// The samples of a task for a tokenizer of bytes, and the score where every answer is the truth, or wrong.
void CheckTask(const std::string& text, const std::filesystem::path& data, size_t count) {
  const testing::ByteTokenizer tokenizer;
  TaskInput input{.options = TaskOptions(text), .data_dir = data, .tokenizer = &tokenizer};
  input.max_length = 4096;
  const Task& task = FindTask(input.options.task());
  const std::vector<Sample> samples = task.samples(input);
  input.options.CheckAllUsed();
  EXPECT_EQ(samples.size(), count) << text;
  for (const Sample& sample : samples) {
    ASSERT_EQ(sample.requests.size(), 1u);
    const LmRequest& request = sample.requests[0];
    const auto at = std::ranges::find(sample.at, "length", &std::pair<std::string, double>::first);
    EXPECT_LE(static_cast<int64_t>(request.context.size() + request.answer_prefix.size()) + request.max_new,
              at == sample.at.end() ? 4096 : static_cast<int64_t>(at->second))
        << text;
    const std::string right = fmt::format("{}", fmt::join(sample.references, ", "));
    const std::vector<LmAnswer> good = {{.text = right}}, bad = {{.text = "no"}};
    const SampleScore full = task.score(sample, good), none = task.score(sample, bad);
    ASSERT_EQ(full.values.size(), task.metrics.size());
    EXPECT_NEAR(full.values[0].value, 1, 1e-8) << text << ": " << right;
    EXPECT_LE(none.values[0].value, 0.1) << text;
  }
}

// Overall, and by difficulty and by length, as published; each item counts once.
TEST(LongTasks, ChoicesSumUpByDifficultyAndByLength) {
  const fs::path file = FreshPath("long_v2.jsonl");
  std::string lines;
  for (const char* kind : {R"("easy","length":"short")", R"("easy","length":"long")", R"("hard","length":"short")"}) {
    lines += fmt::format(R"({{"difficulty":{},"question":"q","choice_A":"a","choice_B":"b","choice_C":"c",)"
                         R"("choice_D":"d","answer":"C","context":"text"}})"
                         "\n",
                         kind);
  }
  WriteFileAtomically(file, lines);
  const testing::ByteTokenizer tokenizer;
  const TaskInput input{
      .options = TaskOptions("longbench_v2:file=" + file.string()), .tokenizer = &tokenizer, .max_length = 4096};
  ScoredTask scored{
      .task = &FindTask("longbench_v2"), .options = input.options, .samples = FindTask("longbench_v2").samples(input)};
  for (const bool right : {true, false, true}) scored.scores.push_back({.values = {{right ? 1.0 : 0.0}}});
  const nlohmann::json results = ResultsOf(std::span(&scored, 1), 0);
  const auto of = [&](const char* group) { return results["groups"][group]["acc,none"].get<double>(); };
  EXPECT_DOUBLE_EQ(of("longbench_v2"), 2.0 / 3);
  EXPECT_DOUBLE_EQ(of("longbench_v2_easy"), 0.5);
  EXPECT_DOUBLE_EQ(of("longbench_v2_hard"), 1);
  EXPECT_DOUBLE_EQ(of("longbench_v2_short"), 1);
  EXPECT_DOUBLE_EQ(of("longbench_v2_long"), 0);
  EXPECT_EQ(results["groups"]["longbench_v2"]["sample_len"], 3);
  EXPECT_EQ(results["group_subtasks"]["longbench_v2"].size(), 3u);
}

TEST(LongTasks, TheTruthScoresFull) {
  const fs::path data = FreshPath("long_tasks");
  MakeDirectories(data / "longbench" / "data");
  MakeDirectories(data / "longbench_v2");
  MakeDirectories(data / "infinitebench");
  std::string essay;
  for (int i = 0; i < 900; ++i) essay += fmt::format("Line {} has words. ", i);
  WriteFileAtomically(data / "essay.txt", essay);
  const std::string item =
      R"({"context":"long","input":"Who?","answers":["cat"],"all_classes":["cat","dog"],"length":5000,"_id":"a"})";
  for (const char* set : {"hotpotqa", "trec", "gov_report_e"}) {
    WriteFileAtomically(data / "longbench" / "data" / fmt::format("{}.jsonl", set), item + "\n" + item + "\n");
  }
  WriteFileAtomically(
      data / "longbench_v2" / "data.json",
      R"([{"_id":"1","difficulty":"easy","length":"short","question":"q","choice_A":"a","choice_B":"b",)"
      R"("choice_C":"c","choice_D":"d","answer":"C","context":"text"}])");
  WriteFileAtomically(data / "infinitebench" / "passkey.jsonl",
                      R"({"context":"The pass key is 71432.","input":"What is it?","answer":["71432"]})");
  const std::string essay_path = (data / "essay.txt").string();
  for (const char* variant : {"landmark", "yarn", "pose", "pi", "focusllm", "llamacpp"}) {
    CheckTask(fmt::format("passkey:variant={},lengths=1500+2500,depths=3,trials=2", variant), data, 12);
    CheckTask(fmt::format("passkey:variant={},units=9,depths=random,trials=2", variant), data, 2);
  }
  CheckTask("passkey:variant=yarn-hard,keys=3,lengths=2000,depths=2,trials=1,haystack=" + essay_path, data, 2);
  CheckTask("passkey:variant=infinitebench", data, 1);
  CheckTask("niah:lengths=1000+2000,depths=0+0.5+1,haystack=" + essay_path, data, 6);
  CheckTask("niah:form=four,lengths=2000,samples=3,haystack=" + essay_path, data, 3);
  CheckTask("ruler:length=3000,tasks=vt+fwe+niah_multikey_3,samples=2", data, 6);
  CheckTask("longbench_v2", data, 1);
  const char* prompts = "longbench/dataset2prompt.json";
  if (MissingData({prompts}).empty()) {
    WriteFileAtomically(data / prompts, ReadFile(TestData() / prompts));
    CheckTask("longbench:sets=hotpotqa+trec+gov_report_e", data, 6);
  }
  for (const char* beyond : {"passkey:units=9000,depths=3,trials=1", "passkey:variant=infinitebench,file=",
                             "passkey:variant=yarn-hard,lengths=4000,haystack="}) {
    WriteFileAtomically(data / "long.jsonl",
                        R"({"context":")" + std::string(5000, 'x') + R"(","input":"?","answer":"7"})");
    std::string task = beyond;
    if (task.ends_with("file=")) task += (data / "long.jsonl").string();
    if (task.ends_with("haystack=")) task += (data / "short.txt").string();
    WriteFileAtomically(data / "short.txt", "A few words.");
    EXPECT_THROW(CheckTask(task, data, 0), Error) << task;
  }
  EXPECT_THROW(CheckTask("longbench:sets=hotpot", data, 0), Error);
  EXPECT_THROW(CheckTask("longbench:sets=qmsum", data, 0), Error);
  EXPECT_THROW(CheckTask("passkey:lengths=100", data, 0), Error);
  EXPECT_THROW(CheckTask("passkey:variant=landmark,lengths=1500++2500,depths=3,trials=2", data, 0), Error);
  EXPECT_THROW(CheckTask("niah:lengths=9,haystack=" + essay_path, data, 0), Error);
}

TEST(FileScores, PartsAndFaults) {
  const fs::path file = FreshPath("file_scores.jsonl");
  const auto scores = [&](std::string_view task, const std::string& text) {
    WriteFileAtomically(file, text);
    return ScoreFile(task, file);
  };
  const std::vector<FileScore> e = scores("hotpotqa_e",
                                          "{\"pred\":\"the cat\",\"answers\":[\"a cat\"],\"length\":100}\n\n"
                                          "{\"pred\":\"dog\",\"answers\":[\"cat\"],\"length\":9000}\n");
  ASSERT_EQ(e.size(), 3u);
  EXPECT_EQ(e[0].score, 50);
  EXPECT_NEAR(e[0].error, 50, 1e-9);
  EXPECT_EQ(e[1].part, "0-4k");
  EXPECT_EQ(e[1].score, 100);
  EXPECT_EQ(e[2].part, "8k+");
  const std::vector<FileScore> two =
      scores("longbench_v2",
             "{\"response\":\"The correct answer is "
             "(A)\",\"pred\":null,\"answer\":\"A\",\"difficulty\":\"hard\",\"length\":\"short\"}\n");
  ASSERT_EQ(two.size(), 3u);
  EXPECT_EQ(two[1].part + two[2].part, "hardshort");
  EXPECT_EQ(two[0].score, 100);
  // The log of an evaluation.
  EXPECT_EQ(scores("vt", "{\"doc_id\":0,\"doc\":{\"outputs\":[\"AB\",\"CD\"]},\"resps\":[[\"ab\"]]}\n")[0].score, 50);
  for (const char* wrong :
       {"", "{}", "{\"pred\":3,\"answers\":[]}", "{\"pred\":\"x\"}", "[]", "{", "{\"pred\":\"x\",\"answers\":[]}"}) {
    EXPECT_THROW(scores("hotpotqa", wrong), Error) << wrong;
  }
  // What decides the score or its part has to be there.
  const std::string bare = R"({"pred":"Food","answers":["Food"])";
  for (const char* task : {"trec", "lsht", "hotpotqa_e"}) EXPECT_THROW(scores(task, bare + "}"), Error) << task;
  EXPECT_EQ(scores("trec", bare + R"(,"all_classes":["Food","Date"]})")[0].score, 100);
  EXPECT_THROW(scores("hotpot", "{\"pred\":\"x\",\"answers\":[\"x\"]}"), Error);
}

/// "PART SCORE of SAMPLES;" of each score of a file of this text.
std::string ScoresOf(std::string_view task, const fs::path& file, const std::string& text) {
  WriteFileAtomically(file, text);
  std::string found;
  for (const FileScore& s : ScoreFile(task, file)) {
    found += fmt::format("{} {:.6} of {};", s.part, s.score, s.samples);
  }
  return found;
}

// A log of samples is scored as the task scored it, whatever its layout.
TEST(FileScores, LogsOfSamplesByTheirLayouts) {
  const fs::path file = FreshPath("file_layouts.jsonl");
  const auto score = [&](std::string_view task, std::string_view doc, std::string_view answer) {
    WriteFileAtomically(file, fmt::format(R"({{"doc_id":0,"doc":{},"resps":[["{}"]]}})", doc, answer));
    return ScoreFile(task, file)[0].score;
  };
  const char* four = R"({"form":"four","outputs":["111111","222222","333333","444444"]})";
  EXPECT_EQ(score("niah", four, "111111, 444444 and 222222"), 75);
  EXPECT_EQ(score("niah", R"({"form":"grid","answer":"eat"})", "a sandwich"), 50);
  EXPECT_EQ(score("niah", R"({"form":"grid","answer":"eat"})", "walk"), 10);
  const auto both = [&](std::string_view doc, std::string_view answer) {
    return ScoresOf("niah", file, fmt::format(R"({{"doc_id":0,"doc":{},"resps":[["{}"]]}})", doc, answer));
  };
  EXPECT_EQ(both(four, "111111, 444444"), "all 50 of 1;found 100 of 1;");
  EXPECT_EQ(both(R"({"form":"grid","answer":"eat"})", "a sandwich"), "all 50 of 1;found 0 of 1;");
  const auto key = [&](std::string_view variant, std::string_view answer) {
    return score("passkey", fmt::format(R"({{"variant":"{}","answer":"42"}})", variant), answer);
  };
  EXPECT_EQ(key("landmark", "It is 42."), 100);
  EXPECT_EQ(key("focusllm", "It is 42."), 0);
  EXPECT_EQ(key("yarn-hard", "It is 42."), 0);
  EXPECT_EQ(key("infinitebench", "00042"), 0);
  EXPECT_EQ(key("landmark", "00042"), 100);
}

TEST(FileScores, WordProblemsByBothRulesAndLogsWithALineAFilter) {
  const fs::path file = FreshPath("file_gsm8k.jsonl");
  const auto scores = [&](std::string_view task, const std::string& text) { return ScoresOf(task, file, text); };
  const std::string line = R"({"pred":"6 + 12 = 18.\n#### 18","answers":["9 * 2 = 18\n#### 18"]})"
                           "\n";
  EXPECT_EQ(scores("gsm8k", line), "strict-match 100 of 1;flexible-extract 100 of 1;");
  EXPECT_EQ(scores("gsm8k", line + R"({"pred":"It is $1,018.","answer":"1018"})"),
            "strict-match 50 of 2;flexible-extract 100 of 2;");
  EXPECT_EQ(scores("gsm8k_cot", line + R"({"pred":"So. The answer is 18.","answer":18})"),
            "strict-match 50 of 2;flexible-extract 100 of 2;");
  std::string log;
  for (const char* filter : {"strict-match", "flexible-extract"}) {
    for (const int id : {0, 1}) {
      log += fmt::format(
          R"({{"doc_id":{},"doc":{{"question":"?","answer":"#### {}"}},"resps":[["#### 1"]],"filter":"{}"}})"
          "\n",
          id, id, filter);
    }
  }
  EXPECT_EQ(scores("gsm8k", log), "strict-match 50 of 2;flexible-extract 50 of 2;");
}

// Tasks that ask for likelihoods, out of logs in the forms of either program; the values by hand.
TEST(FileScores, LikelihoodsFromLogs) {
  const fs::path file = FreshPath("file_likelihoods.jsonl");
  const auto scores = [&](std::string_view task, const std::string& text) { return ScoresOf(task, file, text); };
  auto line = [id = 0](std::string_view doc, std::string_view target, std::string_view resps,
                       const std::vector<std::string>& choices) mutable {
    std::string arguments;
    for (size_t i = 0; i < choices.size(); ++i) {
      arguments += fmt::format(R"({}"gen_args_{}":{{"arg_0":"Q","arg_1":"{}"}})", i == 0 ? "" : ",", i, choices[i]);
    }
    return fmt::format(R"({{"doc_id":{},"doc":{},"target":{},"arguments":{{{}}},"resps":[{}],"filter":"none"}})"
                       "\n",
                       id++, doc, target, arguments, resps);
  };
  // -4 of two letters is less a letter than -9 of six. Letters count as characters, without the blank in front.
  const std::string two = R"([["-4.0","False"]],[["-9.0","False"]])";
  const std::string first = line("{}", "\"0\"", two, {" \u00e9\u00e9", " abcdef"});
  EXPECT_EQ(scores("piqa", first), "acc 100 of 1;acc_norm 0 of 1;");
  EXPECT_EQ(scores("piqa", first + line("{}", "1", two, {"\u00e9\u00e9", "abcdef"})), "acc 50 of 2;acc_norm 50 of 2;");
  const std::string four = two + R"(,[["-5.0","False"]],[["-3.5","True"]])";
  const std::vector<std::string> letters = {" A", " B", " C", " D"};
  for (const char* target : {"3", "\"3\"", "\"D\""}) {
    EXPECT_EQ(scores("mmlu_anatomy", line(R"({"answer":1})", target, four, letters)), "acc 100 of 1;") << target;
  }
  EXPECT_EQ(scores("mmlu_stem", line("{}", "1", four, letters) + R"({"resps":[],"filter":"other"})"), "acc 0 of 1;");
  std::string counted = line("{}", "0", two, {" ab", " abcdef"});  // by tokens, which the line counts
  EXPECT_EQ(scores("piqa", counted), "acc 100 of 1;acc_norm 0 of 1;");
  counted.replace(1, 0, R"("choice_tokens":[4,4],)");
  EXPECT_EQ(scores("piqa", counted), "acc 100 of 1;acc_norm 100 of 1;");
  EXPECT_EQ(scores("winogrande", line(R"({"answer":"2"})", "\"is it.\"", R"([[-9,false]],[["-4.0","True"]])",
                                      {" is it.", " is it."})),
            "acc 100 of 1;");
  for (const char* target :
       {"\"is it.\"", "\"0\"", "\"7\""}) {  // as a text, as a number, and a text that looks like one
    EXPECT_EQ(
        scores("winogrande", line(R"({"gold":1})", target, R"([[-9,false]],[[-4,true]])", {" is it.", " is it."})),
        "acc 100 of 1;")
        << target;
  }
  EXPECT_EQ(scores("piqa", R"({"target":1,"arguments":[["Q"," a"],["Q"," b"]],"resps":[[[-2,false]],[[-1,true]]]})"),
            "acc 100 of 1;acc_norm 100 of 1;");
  const std::string word = line("{}", "\" it\"", R"([["-1.5","True"]])", {" it"});
  EXPECT_EQ(scores("lambada_openai", word + line("{}", "\" it\"", R"([[-0.5,false]])", {" it"})),
            "perplexity 2.71828 of 2;acc 50 of 2;");
  EXPECT_EQ(scores("wikitext", line(R"({"page":"one two"})", "\"one two\"", R"(["-2.0"])", {})),
            "word_perplexity 2.71828 of 1;byte_perplexity 1.33071 of 1;bits_per_byte 0.412199 of 1;");
  for (const auto& [task, text] :
       {std::pair("mmlu_nonsense", line("{}", "3", four, letters)), std::pair("hellaswag", first),
        std::pair("winogrande", first), std::pair("piqa", line("{}", "0", two, {"a", "a"})),
        std::pair("arc_easy", line(R"({"answer":1})", "\"no\"", four, {"a", "b", "c", "d"})),
        std::pair("lambada_openai", line("{}", "\" it\"", R"([["-1.5"]])", {" it"})),
        std::pair("lambada_openai", line("{}", "\" it\"", R"([["-1.5","yes"]])", {" it"})),
        std::pair("lambada_openai", line(R"({"page":"a"})", "\"a\"", R"(["-1.5"])", {})),
        std::pair("wikitext", line(R"({"page":"a"})", "\"a\"", R"(["1e308"])", {})),
        // Nor is a likelihood a text.
        std::pair("niah_single_1", line(R"({"answer":"1"})", "\"1\"", R"([["-1.5","True"]])", {" it"})),
        std::pair("gsm8k", line(R"({"answer":"1"})", "\"1\"", R"(["-1.5"])", {})), std::pair("piqa", word),
        std::pair("lambada_openai", first), std::pair("wikitext", word),
        std::pair("piqa", line("{}", "2", two, {"a", "b"})), std::pair("piqa", line("{}", "\"no\"", two, {"a", "b"})),
        std::pair("piqa", line("{}", "0", two, {"a"})), std::pair("piqa", line("{}", "0", R"("a","b")", {"a", "b"})),
        std::pair("piqa", line("{}", "0", R"([["nan","True"]],[[1,2,3]])", {"a", "b"})),
        std::pair("piqa", std::string(R"({"pred":"a","answers":["a"]})")), std::pair("piqa", std::string("7")),
        std::pair("piqa", std::string())}) {
    EXPECT_THROW(scores(task, text), Error) << task << " " << text;
  }
}

// What counts twice, and what is of another task.
TEST(FileScores, LogsOfAnotherTaskAndRepeatedDocuments) {
  const fs::path file = FreshPath("file_checks.jsonl");
  const auto line = [](int id, std::string_view doc, std::string_view more = "") {
    return fmt::format(
        R"({{"doc_id":{},"doc":{},"target":"0","arguments":[["Q"," a"],["Q"," b"],["Q"," c"],["Q"," d"]],)"
        R"("resps":[[[-1,true]],[[-2,false]],[[-3,false]],[[-4,false]]]{}}})"
        "\n",
        id, doc, more);
  };
  const std::string anatomy = line(0, R"({"subject":"anatomy","question":"?"})");
  const std::string other = line(0, R"({"subject":"virology","question":"?"})");
  EXPECT_EQ(ScoresOf("mmlu", file, anatomy + other), "acc 100 of 2;acc_norm 100 of 2;") << "two subjects in one file";
  for (const char* task : {"mmlu_anatomy", "mmlu_stem"})
    EXPECT_EQ(ScoresOf(task, file, anatomy), "acc 100 of 1;acc_norm 100 of 1;");
  const auto refused = [&](std::string_view task, const std::string& text, std::string_view reason) {
    try {
      ADD_FAILURE() << ScoresOf(task, file, text) << " of " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kFormat);
      EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
    }
  };
  refused("mmlu", anatomy + other + anatomy, "line 3: the document of \"doc_id\" 0 comes a second time");
  refused("mmlu_virology", anatomy, "\"doc\" is one of mmlu_anatomy");
  refused("mmlu_humanities", anatomy, "one of mmlu_anatomy");
  refused("arc_easy", anatomy, "one of mmlu_anatomy");
  refused("mmlu", line(0, R"({"answerKey":"A"})"), "one of arc_easy or arc_challenge");
  refused("hellaswag", line(0, R"({"answerKey":"A"})"), "one of arc_easy");
  const char* text = R"({"doc_id":0,"doc":{"variant":"landmark","answer":"7"},"resps":[["7"]]})";
  refused("gsm8k", text, "one of passkey");
  const char* set = R"({"doc_id":0,"doc":{"dataset":"hotpotqa","answers":["7"],"length":9},"resps":[["7"]]})";
  for (const char* task : {"vt", "gsm8k", "2wikimqa", "passkey"}) refused(task, set, "one of hotpotqa");
  EXPECT_EQ(ScoresOf("hotpotqa", file, set), "all 100 of 1;");
  EXPECT_EQ(ScoresOf("hotpotqa_e", file, set), "all 100 of 1;0-4k 100 of 1;");
  refused("vt", R"({"doc":{"task":"cwe","outputs":["7"]},"resps":[["7"]]})", "one of cwe");
  const std::string answer = R"({"index":4,"outputs":["7"],"pred":")";
  refused("vt", answer + "7\"}\n" + answer + "8\"}", "\"index\" 4 comes a second time");
  EXPECT_EQ(ScoresOf("vt", file, answer + "7\"}\n" + R"({"index":4,"outputs":["9"],"pred":"8"})"), "all 50 of 2;");

  const fs::path folder = FreshFolder("file_names");
  for (const auto& [name, task, good] :
       {std::tuple("samples_arc_easy_2026-01-02T03-04-05.jsonl", "arc_easy", true),
        std::tuple("samples_arc_easy_2026-01-02T03-04-05.jsonl", "arc_challenge", false),
        std::tuple("samples_arc_easy.jsonl", "arc_challenge", false),
        std::tuple("samples_longbench_2wikimqa_2026-01-02.jsonl", "arc_challenge", false),
        std::tuple("samples_arc_easy_mine.jsonl", "arc_challenge", true),
        std::tuple("arc_easy.jsonl", "arc_challenge", true)}) {
    const auto score = [&, &name = name, &task = task] {
      return ScoresOf(task, folder / name, line(0, R"({"answerKey":"A"})"));
    };
    if (good) {
      EXPECT_EQ(score(), "acc 100 of 1;acc_norm 100 of 1;") << name << " as " << task;
    } else {
      EXPECT_THROW(score(), Error) << name << " as " << task;
    }
  }
}

TEST(FileScores, LinesThatContradictTheirAnswers) {
  const fs::path file = FreshPath("file_contradictions.jsonl");
  const auto note = [&](std::string_view task, const std::string& text) {
    ::testing::internal::CaptureStderr();
    ScoresOf(task, file, text);
    return ::testing::internal::GetCapturedStderr();
  };
  const std::string choice = R"({"target":1,"arguments":[["Q"," a"],["Q"," b"]],"resps":[[[-2,false]],[[-1,true]]],)";
  EXPECT_EQ(note("piqa", choice + R"("acc":1.0,"acc_norm":1})"), "");
  EXPECT_NE(note("piqa", choice + R"("acc":1})" + "\n" + choice + R"("acc":0.0,"acc_norm":0})").find("have: 1 of 2;"),
            std::string::npos);
  EXPECT_EQ(note("piqa", choice + R"("filtered_resps":[[-2,false],[-1,true]]})"), "");
  EXPECT_NE(note("piqa", choice + R"("filtered_resps":[[-1,true],[-2,false]]})").find("not their \"resps\": 1;"),
            std::string::npos);
  const std::string worked =
      R"({"doc":{"question":"?","answer":"#### 1"},"resps":[["#### 1"]],"filter":"strict-match",)";
  EXPECT_EQ(note("gsm8k", worked + R"("exact_match":1.0})"), "");
  const std::string key = R"({"doc":{"variant":"landmark","answer":"7"},"resps":[["7"]],"filter":"none","acc":)";
  EXPECT_EQ(note("passkey", key + "1.0}"), "");
  EXPECT_NE(note("passkey", key + "0}").find("have: 1 of 1;"), std::string::npos);
  const std::string needle = R"({"doc":{"form":"grid","answer":"eat"},"resps":[["a sandwich"]],"filter":"none",)";
  EXPECT_EQ(note("niah", needle + R"("score":0.5,"found":0})"), "");
  EXPECT_NE(note("niah", needle + R"("score":1,"found":0})").find("have: 1 of 1;"), std::string::npos);
  EXPECT_NE(note("gsm8k", worked + R"("exact_match":0})").find("have: 1 of 1;"), std::string::npos);
}

}  // namespace
}  // namespace hawser
