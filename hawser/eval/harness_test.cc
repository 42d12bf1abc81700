// Prompts, order and completeness of the harness's tasks against digests that its authors published, and scores against
// theirs for made-up answers.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/python_random.h"
#include "hawser/eval/data_files.h"
#include "hawser/eval/data_made.h"
#include "hawser/eval/gsm8k.h"
#include "hawser/eval/harness.h"
#include "hawser/eval/metrics.h"
#include "hawser/eval/task_results.h"
#include "hawser/eval/tasks.h"
#include "hawser/io/digest.h"
#include "hawser/io/json.h"
#include "hawser/testing/test_data.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

class HarnessOracle : public ::testing::Test {
 protected:
  void SetUp() override {
    HAWSER_NEEDS_DATA("oracles/harness_request_hashes.json");
    oracle_ = ParseJson(ReadFile(root_ / "oracles/harness_request_hashes.json"));
  }
  static std::vector<Sample> Samples(std::string_view text, int64_t limit = 0) {
    const TaskInput input{.options = TaskOptions(text), .limit = limit};
    return FindTask(input.options.task()).samples(input);
  }

  const std::filesystem::path root_ = TestData();
  nlohmann::json oracle_;
};

/// json.dumps of a string.
std::string PythonString(std::string_view text) { return nlohmann::json(text).dump(-1, ' ', true); }

/// [context, continuation], or [text] alone.
using Arguments = std::vector<std::vector<std::string>>;
Arguments ArgumentsOf(const Sample& sample) {
  Arguments list;
  for (const LmRequest& request : sample.requests) {
    if (request.kind != LmRequest::Kind::kLogLikelihood) list.push_back({request.context});
    for (const std::string& continuation : request.continuations) list.push_back({request.context, continuation});
  }
  return list;
}

std::string PythonJson(const Arguments& arguments) {
  std::string text;
  for (const std::vector<std::string>& request : arguments) {
    text += text.empty() ? "[" : ", [";
    for (size_t i = 0; i < request.size(); ++i) text += (i > 0 ? ", " : "") + PythonString(request[i]);
    text += "]";
  }
  return "[" + text + "]";
}

std::string SimpleHash(const Arguments& arguments) {
  std::string text;
  for (const std::vector<std::string>& request : arguments) {
    for (size_t i = 0; i < request.size(); ++i) text += (i > 0 ? "\x1f" : "") + request[i];
    text += "\x1e";
  }
  return Sha256(text);
}

Arguments AllOf(const std::vector<Sample>& samples) {
  Arguments all;
  for (const Sample& sample : samples) {
    for (std::vector<std::string>& request : ArgumentsOf(sample)) all.push_back(std::move(request));
  }
  return all;
}

std::vector<Sample> Shuffled(std::vector<Sample> samples) {
  PythonRandom(42).Shuffle(samples);
  return samples;
}

/// The k-th request is answered with the k-th number of Random(42), below zero; `each`: how often every request is
/// asked.
std::vector<SampleScore> DummyScores(const Task& task, const std::vector<Sample>& samples, int each = 1) {
  PythonRandom random(42);
  std::vector<SampleScore> scores;
  for (const Sample& sample : samples) {
    std::vector<LmAnswer> answers;
    for (const LmRequest& request : sample.requests) {
      const bool rolling = request.kind == LmRequest::Kind::kRolling;
      LmAnswer& answer = answers.emplace_back();
      for (size_t c = 0; c < (rolling ? 1 : request.continuations.size()); ++c) {
        answer.likelihoods.push_back({.ll = -random.Random()});
        for (int again = 1; again < each; ++again) random.Random();
      }
    }
    scores.push_back(task.score(sample, answers));
  }
  return scores;
}

MetricSummary Summary(const Task& task, const std::vector<SampleScore>& scores, std::string_view name) {
  for (size_t m = 0; m < task.metrics.size(); ++m) {
    if (task.metrics[m].name != name) continue;
    std::vector<MetricValue> values;
    for (const SampleScore& score : scores) values.push_back(score.values[m]);
    return Summarize(task.metrics[m], values);
  }
  ADD_FAILURE() << name;
  return {};
}

TEST_F(HarnessOracle, UpstreamDigestsAndDummyScores) {
  int checked = 0;
  std::map<std::string, std::vector<Sample>> mmlu;
  for (Sample& sample : Samples("mmlu:prompt=texts")) {
    mmlu["hendrycksTest-" + sample.row.substr(5)].push_back(std::move(sample));
  }
  for (const auto& [name, wanted] : oracle_["upstream"]["tasks"].items()) {
    if (name == "gsm8k") continue;  // below
    const bool subject = name.starts_with("hendrycksTest-");
    const Task& task = FindTask(subject ? "mmlu" : name);
    const std::vector<Sample> samples = Shuffled(subject ? std::move(mmlu[name]) : Samples(name));
    Arguments arguments = AllOf(samples);
    const int each = name == "lambada_openai" ? 2 : 1;  // then every request was asked twice
    if (each == 2) {
      Arguments twice;
      for (const auto& request : arguments) twice.insert(twice.end(), 2, request);
      arguments = std::move(twice);
    }
    EXPECT_EQ(arguments.size(), wanted["n_requests"]) << name;
    EXPECT_EQ(samples.size(), wanted["n_docs"]) << name;
    // The text of llama.cpp may stand for that of HellaSwag: other bytes, the same order, labels and lengths.
    if (name != "hellaswag" || HasDataFile({}, "hellaswag/hellaswag_val.jsonl")) {
      EXPECT_EQ(Sha256(PythonJson(arguments)), wanted["upstream_sha256"]) << name;
    }
    const std::vector<SampleScore> scores = DummyScores(task, samples, each);
    for (const auto& [metric, value] : wanted["dummy_results"].items()) {
      if (metric == "ppl_stderr") continue;  // a bootstrap of ten draws
      const bool error = metric.ends_with("_stderr");
      const std::string own = metric == "ppl" ? "perplexity" : error ? metric.substr(0, metric.size() - 7) : metric;
      const MetricSummary summary = Summary(task, scores, own);
      EXPECT_NEAR(error ? summary.error : summary.value, value.get<double>(), 1e-12) << name << " " << metric;
    }
    ++checked;
  }
  // Its first form: no examples, ended by a line's end.
  std::string text;
  for (const Sample& sample : Shuffled(Samples("gsm8k:shots=0"))) {
    text += (text.empty() ? "[" : ", [") + PythonString(sample.requests[0].context) + ", [\"\\n\"]]";
  }
  EXPECT_EQ(Sha256("[" + text + "]"), oracle_["upstream"]["tasks"]["gsm8k"]["upstream_sha256"]);
  EXPECT_EQ(checked + 1, 65);
}

TEST_F(HarnessOracle, PresentPrompts) {
  const nlohmann::json& derived = oracle_["derived"]["tasks"];
  // All subjects, and behind examples some: there every prompt is long.
  for (const auto& [task, name] :
       {std::pair("mmlu", "mmlu_0shot"), std::pair("mmlu:shots=5,subjects=sociology+virology", "mmlu_5shot")}) {
    std::map<std::string, Arguments> subjects;  // alphabetical, as the whole is hashed
    for (const Sample& sample : Samples(task)) {
      for (std::vector<std::string>& request : ArgumentsOf(sample)) {
        subjects[sample.row.substr(5)].push_back(std::move(request));
      }
    }
    Arguments all;
    for (auto& [subject, arguments] : subjects) {
      EXPECT_EQ(SimpleHash(arguments), derived[name]["per_subject"][subject]) << subject;
      std::ranges::move(arguments, std::back_inserter(all));
    }
    EXPECT_EQ(subjects.size(), name == std::string("mmlu_0shot") ? 57 : 2);
    if (subjects.size() == 57) {
      EXPECT_EQ(SimpleHash(all), derived[name]["simple_sha256"]);
    }
  }
  EXPECT_EQ(SimpleHash(AllOf(Samples("arc_easy"))), derived["arc_easy_0shot"]["simple_sha256"]);
  EXPECT_EQ(SimpleHash(AllOf(Samples("arc_challenge:shots=5"))),
            derived["arc_challenge_5shot_seed1234"]["simple_sha256"]);
  const std::vector<Sample> cot = Samples("gsm8k_cot");
  EXPECT_EQ(SimpleHash(AllOf(cot)), derived["gsm8k_cot_8shot"]["simple_sha256"]);
}

TEST_F(HarnessOracle, ALimitKeepsThePrompts) {
  const std::vector<Sample> all = Samples("arc_challenge:shots=3"), few = Samples("arc_challenge:shots=3", 7);
  ASSERT_EQ(few.size(), 7);
  for (size_t s = 0; s < few.size(); ++s) EXPECT_EQ(ArgumentsOf(few[s]), ArgumentsOf(all[s]));
}

TEST_F(HarnessOracle, InAChatExamplesAreTurns) {
  const auto first = [](std::string_view text) {
    const TaskInput input{.options = TaskOptions(text), .limit = 1, .chat = true};
    return FindTask(input.options.task()).samples(input).at(0).requests;
  };
  const std::vector<LmRequest> plain = Samples("mmlu:shots=2,subjects=anatomy", 1).at(0).requests;
  const LmRequest mmlu = first("mmlu:shots=2,subjects=anatomy").at(0);
  std::string all;
  for (size_t t = 0; t < mmlu.before.size(); ++t) {
    EXPECT_EQ(mmlu.before[t].role, t == 0 ? "system" : t % 2 == 1 ? "user" : "assistant");
    all += mmlu.before[t].text + (t == 0 ? "" : t % 2 == 1 ? " " : "\n\n");
  }
  EXPECT_EQ(mmlu.before.size(), 5);
  EXPECT_EQ(all + mmlu.context, plain.at(0).context);  // the same words
  EXPECT_EQ(mmlu.continuations, (std::vector<std::string>{"A", "B", "C", "D"}));
  const std::vector<LmRequest> winogrande = first("winogrande");
  ASSERT_EQ(winogrande.size(), 2);
  EXPECT_TRUE(winogrande[0].before.empty());
  EXPECT_FALSE(winogrande[0].continuations.at(0).starts_with(" "));
  // A last word has its blank everywhere, and behind the prompt of an example there is one more.
  const LmRequest word = first("lambada_openai:shots=1").at(0);
  EXPECT_TRUE(word.continuations.at(0).starts_with(" "));
  EXPECT_TRUE(word.before.at(1).text.starts_with(" "));
  const LmRequest told = Samples("lambada_openai:shots=1", 1).at(0).requests.at(0);
  EXPECT_EQ(told.context, word.before[0].text + " " + word.before[1].text + "\n\n" + word.context);
  const LmRequest text = first("gsm8k_cot").at(0);
  EXPECT_EQ(text.before.size(), 16);
  EXPECT_TRUE(text.before[1].text.ends_with("The answer is 6."));
}

TEST(HarnessExamples, ADocumentIsNoExampleOfItself) {
  HarnessSet set{.spare_example = true};
  for (int i = 0; i < 6; ++i) {
    HarnessDoc doc{.query = std::to_string(i), .choices = {"x"}};
    doc.doc = std::make_shared<const nlohmann::ordered_json>(nlohmann::ordered_json{{"number", i / 2}});  // in pairs
    set.pool.push_back(doc);
  }
  set.docs = set.pool;
  const TaskInput input{.options = TaskOptions("any:shots=4")};
  PythonRandom random(1234);
  for (const Prompted& prompt : HarnessPrompts(input, set, 4)) {
    // As the harness does it: one more is drawn; where copies of the document leave too few, again without them.
    std::vector<size_t> drawn = random.SampleIndices(6, 5);
    const int64_t own = (*prompt.doc->doc)["number"];
    std::erase_if(drawn, [&](size_t i) { return static_cast<int64_t>(i / 2) == own; });
    if (drawn.size() < 4) {
      std::vector<size_t> others;
      for (size_t i = 0; i < 6; ++i) {
        if (static_cast<int64_t>(i / 2) != own) others.push_back(i);
      }
      drawn = random.SampleIndices(4, 4);
      for (size_t& i : drawn) i = others[i];
    }
    std::string wanted;
    for (size_t i = 0; i < 4; ++i) wanted += std::to_string(drawn[i]) + " x\n\n";
    EXPECT_EQ(prompt.contexts.at(0), wanted + prompt.doc->query);
  }
  EXPECT_THROW(HarnessPrompts(input, set, 6), Error);  // six are there, and one of them is spare
  EXPECT_THROW(HarnessPrompts(input, set, 5), Error);  // of which two are the document
}

TEST_F(HarnessOracle, ExamplesOfTrainingSets) {
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "hawser_training_sets";
  std::filesystem::remove_all(folder);
  MakeDirectories(folder);
  std::filesystem::create_directory_symlink(root_ / "piqa", folder / "piqa");
  MakeDirectories(folder / "winogrande");
  std::filesystem::create_symlink(root_ / "winogrande/winogrande_xl_validation.jsonl",
                                  folder / "winogrande/winogrande_xl_validation.jsonl");
  const auto ask = [&](std::string_view text) {
    const TaskInput input{.options = TaskOptions(text), .data_dir = folder, .limit = 2};
    return FindTask(input.options.task()).samples(input);
  };
  const auto refused = [&](std::string_view text, std::string_view part) {
    try {
      ask(text);
      ADD_FAILURE() << text;
    } catch (const Error& error) {
      EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos) << error.what();
    }
  };
  if (!HasDataFile(folder, "piqa/train.jsonl")) refused("piqa:shots=5", "hawser pull data:piqa_train");
  refused("winogrande:shots=1", "winogrande_1.1.zip");
  refused("hellaswag:protocol=llmc,shots=1", "protocol=harness");
  const std::filesystem::path train = folder / "winogrande/train_xl.jsonl";
  WriteFileAtomically(train, R"({"sentence":"Ann saw Bea, so _ waved.","option1":"Ann","option2":"Bea","answer":"2"})"
                             "\n"
                             R"({"sentence":"The _ sank.","option1":"rope","option2":"mast","answer":"1"})"
                             "\n");
  const std::vector<Sample> plain = ask("winogrande"), shown = ask("winogrande:shots=1");
  PythonRandom random(1234);
  const std::string examples[] = {"Ann saw Bea, so Bea waved.\n\n", "The rope sank.\n\n"};
  for (size_t s = 0; s < 2; ++s) {
    EXPECT_EQ(plain[s].requests[1].continuations, std::vector<std::string>{" " + plain[s].target});
    const std::string example = examples[random.SampleIndices(2, 2)[0]];
    for (size_t r = 0; r < 2; ++r) {
      EXPECT_EQ(shown[s].requests[r].context, example + plain[s].requests[r].context);
      EXPECT_EQ(shown[s].requests[r].continuations, plain[s].requests[r].continuations);
    }
  }
  refused("winogrande:shots=2", "at most 1 can be drawn");
  WriteFileAtomically(train, R"({"sentence":"No place.","option1":"a","option2":"b","answer":"2"})");
  refused("winogrande:shots=1", "a sentence with a _");
  std::filesystem::remove_all(folder);
}

TEST(DataFiles, AreKnownByEitherHash) {
  const DataFile blob{.set = "a", .path = "a/b", .bytes = 0, .hash = "ce013625030ba8dba906f756967f9e9ca394464a"};
  CheckDataFile(blob, "here", "hello\n");  // as `git hash-object` names it
  EXPECT_THROW(CheckDataFile(blob, "here", "hello"), Error);
  const std::string hash = Sha256("hello\n");
  const DataFile whole{.set = "a", .path = "a/b", .bytes = 6, .hash = hash};
  CheckDataFile(whole, "here", "hello\n");
  try {
    CheckDataFile(whole, "here", "hell");
    ADD_FAILURE();
  } catch (const Error& error) {
    for (const std::string& part : {hash, Sha256("hell"), std::string("6 bytes"), std::string("4 bytes")}) {
      EXPECT_NE(std::string_view(error.what()).find(part), std::string_view::npos) << error.what();
    }
  }
}

TEST_F(HarnessOracle, Gsm8kExtraction) {
  const nlohmann::json wanted = ParseJson(ReadFile(root_ / "oracles/gsm8k_extraction_expected.json"));
  std::vector<std::string> gold;
  for (const nlohmann::json& line : ReadDataLines({}, "gsm8k/test.jsonl")) {
    gold.push_back(Gsm8kNormalized(line["answer"].get<std::string>()));
  }
  EXPECT_EQ(nlohmann::json(gold), wanted["gold_normalised"]);
  const std::string solutions = ReadFile(root_ / "gsm8k/model_solutions_6b_ft_175b_ver.jsonl");
  std::map<std::string, std::vector<std::string>> strict, flexible;
  std::map<std::string, int> right;
  for (size_t at = 0, i = 0; at < solutions.size(); ++i) {
    const size_t end = solutions.find('\n', at);
    const nlohmann::json line = ParseJson(std::string_view(solutions).substr(at, end - at));
    at = end + 1;
    for (const std::string model : {"6b_finetuning", "175b_verification"}) {
      std::string text = line[model]["solution"];
      flexible[model].push_back(Gsm8kFlexible(text));
      if (const size_t mark = text.rfind("\nA: "); mark != text.npos) text.replace(mark, 4, "\n#### ");
      strict[model].push_back(Gsm8kStrict(text));
      right[model] += Gsm8kNormalized(strict[model].back()) == gold[i];
    }
  }
  for (const std::string model : {"6b_finetuning", "175b_verification"}) {
    EXPECT_EQ(nlohmann::json(strict[model]), wanted[model]["strict_on_rewritten"]["extracted"]) << model;
    EXPECT_EQ(right[model], wanted[model]["label_true"]) << model;
    EXPECT_EQ(nlohmann::json(flexible[model]), wanted[model]["flexible"]["extracted"]) << model;
  }
}

TEST(TaskOptions, ListsNumbersAndWhatIsLeft) {
  const TaskOptions options("ruler:tasks=niah_single_1+variable_tracking+common_words,length=4k+8192,depth=0.5,more=1");
  EXPECT_EQ(options.task(), "ruler");
  EXPECT_EQ(options.List("tasks", "all"),
            (std::vector<std::string>{"niah_single_1", "variable_tracking", "common_words"}));
  EXPECT_EQ(options.Ints("length", "1", 1, 1 << 20), (std::vector<int64_t>{4096, 8192}));
  EXPECT_EQ(options.Real("depth", 0, 0, 1), 0.5);
  EXPECT_EQ(options.Int("trials", 7, 1, 9), 7);
  EXPECT_THROW(options.Int("length", 1, 1, 1 << 20), Error);  // a list
  EXPECT_THROW(options.Real("depth", 0, 0, 0.1), Error);
  EXPECT_THROW(options.CheckAllUsed(), Error);
  EXPECT_EQ(options.Int("more", 0, 0, 1), 1);
  options.CheckAllUsed();
  EXPECT_EQ(options.used().at("trials"), "7");
  EXPECT_THROW(TaskOptions("a:b"), Error);
  EXPECT_THROW(TaskOptions("a:b=1,b=2"), Error);
}

TEST(Gsm8k, WhatCountsAsTheAnswer) {
  EXPECT_EQ(Gsm8kCotStrict("The answer is 12.\n\nQ:"), "12");
  EXPECT_EQ(Gsm8kCotStrict("The answer is 12"), "1");  // one character of the line has to follow
  EXPECT_EQ(Gsm8kCotStrict("The answer is 5"), "[invalid]");
  EXPECT_EQ(Gsm8kCotStrict("The answer is -1,234 apples"), "-1,234");
  EXPECT_EQ(Gsm8kStrict("first #### 7 then #### 8"), "7");
  EXPECT_EQ(Gsm8kFlexible("so 3 and $4.50, or -7"), "-7");
  EXPECT_EQ(Gsm8kFlexible("none"), "[invalid]");
  EXPECT_EQ(Gsm8kNormalized("#### $1,234."), "1234");
}

TEST(Metrics, PoolsAndErrors) {
  const std::vector<MetricValue> values = {{1}, {0}, {1}, {1}};
  const MetricSummary mean = Summarize({.name = "acc"}, values);
  EXPECT_DOUBLE_EQ(mean.value, 0.75);
  EXPECT_DOUBLE_EQ(mean.error, 0.25);
  const MetricSummary two[] = {{.value = 1, .error = 0.1, .samples = 3}, {.value = 0, .error = 0.2, .samples = 1}};
  EXPECT_DOUBLE_EQ(Pool(two).value, 0.75);
  EXPECT_DOUBLE_EQ(Pool(two).error, std::sqrt((2 * 3 * 0.01) / 2 / 4));
  EXPECT_DOUBLE_EQ(MeanOfRows(two).value, 0.5);
  EXPECT_DOUBLE_EQ(MeanOfRows(two).error, std::sqrt(0.01 + 0.04) / 2);
  EXPECT_EQ(MeanOfRows(two).samples, 4);
  const std::vector<MetricValue> lls = {{-1}, {-2}, {-3}};
  EXPECT_DOUBLE_EQ(Summarize({.name = "p", .mean = Mean::kPerplexity}, lls).value, std::exp(2.0));
  EXPECT_GT(Summarize({.name = "p", .mean = Mean::kPerplexity}, lls, 1000).error, 1);
}

TEST(Metrics, GroupsWeighSamplesOrWhatStandsBelowThem) {
  Task task{.name = "t", .metrics = {{.name = "score"}}};
  ScoredTask scored{.task = &task, .options = TaskOptions("t")};
  const auto add = [&](const std::string& row, const std::string& group, double value) {
    scored.samples.push_back({.row = row, .groups = {group, "t"}});
    scored.answers.emplace_back();
    scored.scores.push_back({.values = {{value}}});
  };
  for (int i = 0; i < 5; ++i) add("t_code_a", "t_code", 1);
  add("t_qa_a", "t_qa", 0);
  add("t_qa_b", "t_qa", 1);
  const auto score = [&](const char* group) { return ResultsOf({&scored, 1}, 0)["results"][group]["score,none"]; };
  EXPECT_DOUBLE_EQ(score("t").get<double>(), 6.0 / 7);
  task.rows_weigh_alike = true;
  EXPECT_DOUBLE_EQ(score("t_qa").get<double>(), 0.5);
  EXPECT_DOUBLE_EQ(score("t").get<double>(), 0.75);  // of t_code and t_qa
  EXPECT_TRUE(FindTask("longbench").rows_weigh_alike);
  EXPECT_TRUE(FindTask("ruler").rows_weigh_alike);
  EXPECT_FALSE(FindTask("mmlu").rows_weigh_alike);
}

TEST(DataMade, RowsOfCsv) {
  using Rows = std::vector<std::vector<std::string>>;
  EXPECT_EQ(CsvRows("a,b\n\"c, \"\"d\"\"\n\r e\",f\"g\"\r\n\n,\n\"\"\nlast"),
            Rows({{"a", "b"}, {"c, \"d\"\n\r e", "f\"g\""}, {"", ""}, {""}, {"last"}}));
  EXPECT_EQ(CsvRows(""), Rows());
  EXPECT_EQ(CsvRows("\"open"), Rows({{"open"}}));
}

/// One file, whatever is asked for; those of other names by the end of their path.
PartFetcher Served(std::map<std::string, std::string> files) {
  return [files = std::move(files)](const std::string& path, int64_t, int64_t) {
    for (const auto& [end, text] : files) {
      if (path.ends_with(end)) return text;
    }
    ADD_FAILURE() << path;
    return std::string();
  };
}

TEST(DataMade, NoExamplesAreNoFile) {
  for (const char* text : {"", "task: gsm8k_cot\n", "<html>"}) {
    EXPECT_THROW(MakeGsm8kExamples("f", Served({{"f", text}})), Error) << text;
  }
}

TEST(DataMade, QuestionsOfArc) {
  const std::string two =
      R"({"id": "a", "question": {"stem": "W\u00e4s?", "choices": [{"text": "x", "label": "1", "para": "p"}, )"
      R"({"text": "y", "label": "2"}]}, "answerKey": "2"})"
      "\n"
      R"({"id": "b", "question": {"stem": "Z", "choices": []}, "answerKey": "A"})"
      "\n";
  const std::string a =
      "{\"id\": \"a\", \"question\": \"W\xc3\xa4s?\", \"choices\": [\"x\", \"y\"], \"labels\": [\"1\", \"2\"], ";
  const std::string b = R"({"id": "b", "question": "Z", "choices": [], "labels": [], "answerKey": "A"})";
  EXPECT_EQ(MakeArc("f", Served({{"f", two}})), a + "\"answerKey\": \"2\"}\n" + b + "\n");

  const std::string all = R"({"choices": ["q", "r"], "query": "Question: New?", "gold": 1})"
                          "\n"
                          R"({"choices": [], "query": "Question: W", "gold": 0})";
  const std::string made = MakeArcChallengeTest(
      "f",
      Served({{"f", two},
              {"question-answers.jsonl", "{\"id\": \"c\", \"answerKey\": \"B\"}\n{\"id\":\"a\",\"answerKey\":\"1\"}"},
              {"arc_challenge.jsonl", all}}));
  EXPECT_EQ(made, R"({"id": "c", "question": "New?", "choices": ["q", "r"], "labels": ["A", "B"], "answerKey": "B"})"
                  "\n" +
                      a + "\"answerKey\": \"1\"}\n");
  const std::string missing = R"({"id": "c", "answerKey": "B"})";
  for (const char* query : {"", "Quest", "Other: New?"}) {
    const std::string bare = fmt::format(R"({{"choices": [], "query": "{}"}})", query);
    const auto files = Served({{"f", ""}, {"question-answers.jsonl", missing}, {"arc_challenge.jsonl", bare}});
    EXPECT_THROW(MakeArcChallengeTest("f", files), Error) << query;
  }
  for (const char* bad :
       {"{}", "[]", "{\"id\": 1}", "x", R"({"id": "a", "question": {"stem": "s", "choices": [1]}})"}) {
    EXPECT_THROW(MakeArc("f", Served({{"f", bad}})), Error) << bad;
  }
}

TEST(DataMade, RowsOfWikitextAndQuestionsOfHotpot) {
  const std::string layout = " \n = <unk> = \n \n text <unk> \n";
  EXPECT_EQ(MakeWikitext("f", Served({{"f", " = A = \r\n text B \r\n"}, {"test.txt", layout}})),
            " \n = A = \n \n text B \n");
  EXPECT_THROW(MakeWikitext("f", Served({{"f", "one"}, {"test.txt", layout}})), Error);

  const std::string lists = R"([{"question": "q", "answer": "a", "type": "t", "level": "l", "id": 3, )"
                            R"("supporting_facts": {"title": ["T"], "sent_id": [4]}, )"
                            R"("context": {"title": ["T", "U"], "sentences": [["s", " t"], []]}}])";
  EXPECT_EQ(MakeHotpot("f", Served({{"f", lists}})),
            R"([{"question": "q", "answer": "a", "type": "t", "level": "l", "supporting_facts": [["T", 4]], )"
            R"("context": [["T", ["s", " t"]], ["U", []]]}])");
  for (const char* bad : {"{\"a\": 1}", "[1]", "", R"([{"supporting_facts": {"title": ["T"], "sent_id": []}}])"}) {
    EXPECT_THROW(MakeHotpot("f", Served({{"f", bad}})), Error) << bad;
  }
}

}  // namespace
}  // namespace hawser
