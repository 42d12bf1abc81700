// The eval command as people and scripts run it, on the 260K-parameter TinyStories model.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
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

class EvalCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    HAWSER_NEEDS_DATA("models/stories260k/checkpoint_v1.bin", "models/stories260k/tokenizer.bin");
    const std::filesystem::path root = TestData();
    model_ = (root / "models/stories260k/checkpoint_v1.bin").string();
    tokenizer_ = " --tokenizer '" + (root / "models/stories260k/tokenizer.bin").string() + "'";
    folder_ = FreshFolder("eval_command");
    std::string text;
    for (int i = 0; i < 60; ++i) text += "Once upon a time, there was a little girl who had a red ball.\n";
    data_ = Write("story.txt", text);
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  std::string Write(const std::string& name, std::string_view contents) const {
    WriteFileAtomically(folder_ / name, contents);
    return "'" + (folder_ / name).string() + "'";
  }
  CommandResult Eval(const std::string& arguments) const {
    return RunHawser("eval '" + model_ + "' " + arguments + " --threads 1 2>&1");
  }
  nlohmann::json Json(const std::string& arguments) const {
    const CommandResult run = Eval("ppl --data " + data_ + tokenizer_ + " --json --quiet " + arguments);
    EXPECT_EQ(run.code, 0) << run.out;
    return nlohmann::json::parse(run.out);
  }

  std::filesystem::path folder_;
  std::string model_, tokenizer_, data_;
};

TEST_F(EvalCommand, RetrievalWithAVocabularyOfPieces) {
  const CommandResult run = Eval("retrieval --context 200 --documents 4 --json --quiet" + tokenizer_);
  ASSERT_EQ(run.code, 0) << run.out;
  const nlohmann::json found = nlohmann::json::parse(run.out);
  EXPECT_GT(found["answer_tokens"], 1.0);
  int64_t questions = 0;
  for (const nlohmann::json& bucket : found["buckets"]) {
    questions += bucket["questions"].get<int64_t>();
    EXPECT_LE(bucket["begin"], 200);
  }
  EXPECT_GT(questions, 4);
  EXPECT_EQ(found["questions"], questions);
  EXPECT_LE(found["kv"]["seen"], 200);
  const CommandResult none = Eval("retrieval --context 20 --documents 4" + tokenizer_);
  EXPECT_EQ(none.code, 2);
  EXPECT_NE(none.out.find("no question fits in documents of 20 tokens"), std::string::npos) << none.out;
  for (const std::string& option :
       {"--data " + data_, std::string("--stride 8"), std::string("--attention window=8")}) {
    const CommandResult other = Eval("retrieval " + option + tokenizer_);
    EXPECT_EQ(other.code, 2);
    EXPECT_NE(other.out.find("eval retrieval takes no " + option.substr(0, option.find(' '))), std::string::npos)
        << other.out;
  }
  EXPECT_EQ(Eval("ppl --documents 3 --data " + data_ + tokenizer_).code, 2);
  EXPECT_EQ(Eval("ppl" + tokenizer_).code, 2);  // no --data
}

TEST_F(EvalCommand, WindowsAndStreamsInJson) {
  const nlohmann::json windows = Json("--context 256");
  EXPECT_EQ(windows["protocol"], "windowed");
  EXPECT_EQ(windows["context"], 256);
  EXPECT_EQ(windows["model"], model_);
  EXPECT_EQ(windows["bytes"], 60 * 62);
  EXPECT_EQ(windows["words"], 60 * 14);
  EXPECT_LT(windows["ppl"], 10.0) << "its own kind of text";
  EXPECT_LT(windows["buckets"].back()["ppl"], windows["buckets"][0]["ppl"]);
  EXPECT_GT(windows["tokens_per_second"], 0.0);

  const nlohmann::json stream = Json("--kv sink:4,60 --max-tokens 300");
  EXPECT_EQ(stream["protocol"], "streaming") << "a bounded cache asks for a stream";
  EXPECT_EQ(stream["tokens"], 300);
  EXPECT_EQ(stream["kv"]["peak"], 64);
  EXPECT_EQ(stream["kv_policy"], "sink:4,60");
  EXPECT_EQ(stream["windows"].size(), 2u);
  EXPECT_GT(stream["peak_rss_bytes"], 1 << 20);
}

TEST_F(EvalCommand, TableNoteAndTokenFile) {
  const std::string nll = (folder_ / "nll.txt").string();
  const CommandResult run =
      Eval("ppl --data " + data_ + tokenizer_ + " --context 1024 --max-tokens 1000 --nll '" + nll + "'");
  EXPECT_EQ(run.code, 0);
  for (const char* part : {"beyond the 512", "512-767", "ppl ", "1,000 tokens, protocol windowed, context 1024"}) {
    EXPECT_NE(run.out.find(part), std::string::npos) << part << " in " << run.out;
  }
  const std::string lines = ReadFile(nll);
  EXPECT_EQ(std::count(lines.begin(), lines.end(), '\n'), 1000);
}

TEST_F(EvalCommand, WrongCallsSaySo) {
  const std::string good = "ppl --data " + data_ + tokenizer_;
  const auto expect = [&](int code, const std::string& arguments, const std::string& part) {
    const CommandResult run = Eval(arguments);
    EXPECT_EQ(run.code, code) << arguments << ": " << run.out;
    EXPECT_NE(run.out.find(part), std::string::npos) << arguments << ": " << run.out;
  };
  expect(2, "pplx --data " + data_ + tokenizer_, "did you mean 'ppl'?");
  expect(2, "ppl" + tokenizer_, "--data");
  expect(2, "ppl --data " + data_, "--tokenizer");
  expect(2, good + " --context 1", "--context");
  expect(2, good + " --protocol slidin", "did you mean 'sliding'");
  expect(2, good + " --kv nothing:3", "nothing:3");
  expect(2, good + " --protocol windowed --kv sink:4,60", "--protocol streaming");
  expect(2, good + " --protocol streaming --attention full", "--kv");
  expect(2, good + " --stride 512", "1 to 511");
  expect(3, "ppl --data '" + folder_.string() + "/none'" + tokenizer_, "none");
  expect(3, "ppl --data " + Write("empty.txt", "") + tokenizer_, "empty");
  expect(3, "ppl --data " + Write("bad.txt", "ab\xff") + tokenizer_, "byte 2");
  expect(3, "ppl --data " + Write("bad.jsonl", "{\"text\":1}") + tokenizer_, "line 1");
}

TEST_F(EvalCommand, TasksGoOnWhereTheyWereCut) {
  const auto run = [&](const std::string& folder, const std::string& more) {
    return Eval("piqa arc_easy:shots=1 gsm8k_cot:shots=0,max_new=5 --limit 12" + tokenizer_ + " --output '" +
                (folder_ / folder).string() + "' " + more);
  };
  const auto results = [&](const std::string& folder) {
    std::map<std::string, std::string> files;  // by name without the time
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder_ / folder)) {
      const std::string extension = entry.path().extension();
      if (extension != ".json" && (extension != ".jsonl" || entry.path().filename() == "answers.jsonl")) continue;
      const std::string name = entry.path().filename();
      files[name.substr(0, name.rfind('_'))] = ReadFile(entry.path());
    }
    return files;
  };
  ASSERT_EQ(run("whole", "--quiet").code, 0);
  std::map<std::string, std::string> whole = results("whole");
  ASSERT_EQ(whole.size(), 4u);
  const nlohmann::json json = nlohmann::json::parse(whole.extract("results").mapped());
  EXPECT_EQ(json["n-shot"]["arc_easy"], 1);
  EXPECT_EQ(json["n-samples"]["piqa"]["effective"], 12);
  EXPECT_EQ(json["n-samples"]["piqa"]["original"], 1838);
  EXPECT_EQ(json["n-samples"]["gsm8k_cot"]["original"], 1319);
  EXPECT_TRUE(json["results"]["gsm8k_cot"].contains("exact_match,flexible-extract"));
  EXPECT_EQ(json["engine"]["cache"], "full");
  EXPECT_EQ(json["configs"]["piqa"]["output_type"], "multiple_choice");
  EXPECT_EQ(json["configs"]["piqa"]["metric_list"][1]["metric"], "acc_norm");
  EXPECT_FALSE(json["configs"]["piqa"].contains("filter_list"));
  const nlohmann::json& worked = json["configs"]["gsm8k_cot"];
  EXPECT_EQ(worked["output_type"], "generate_until");
  EXPECT_EQ(worked["metric_list"].size(), 1u);
  EXPECT_EQ(worked["filter_list"], nlohmann::json::parse(R"([{"name":"strict-match"},{"name":"flexible-extract"}])"));

  // As a kill leaves it: some answers, the last line cut.
  const std::string log = ReadFile(folder_ / "whole/answers.jsonl");
  const size_t second = log.find('\n', log.find('\n') + 1);
  MakeDirectories(folder_ / "cut");
  WriteFileAtomically(folder_ / "cut/answers.jsonl", log.substr(0, second + 40));
  EXPECT_NE(run("cut", "").out.find("--resume goes on"), std::string::npos);
  EXPECT_NE(run("cut", "--resume --kv window:20").out.find("another run"), std::string::npos);
  const CommandResult fewer =
      Eval("piqa --limit 3" + tokenizer_ + " --resume --output '" + (folder_ / "cut").string() + "'");
  EXPECT_NE(fewer.out.find("with limit 12, this one 3"), std::string::npos) << fewer.out;
  // Whole lines that answer another question than was asked.
  const nlohmann::json first = nlohmann::json::parse(log.substr(0, second).substr(log.find('\n') + 1));
  for (const char* list :
       {"[]", "[[-1.0, false, 2], [-1.0, false, 2], [-1.0, false, 2], [-1.0, false, 2], [0, true, 1]]",
        "[[1e300, false, 1]]", "7"}) {
    nlohmann::json other = first;
    other[0]["ll"] = nlohmann::json::parse(list);
    MakeDirectories(folder_ / "damaged");
    WriteFileAtomically(folder_ / "damaged/answers.jsonl", log.substr(0, log.find('\n') + 1) + other.dump() + "\n");
    const CommandResult refused = run("damaged", "--resume");
    EXPECT_EQ(refused.code, 3) << list << refused.out;
    EXPECT_NE(refused.out.find("answers.jsonl:2:"), std::string::npos) << refused.out;
  }
  EXPECT_EQ(results("cut").size(), 0u);
  const CommandResult resumed = run("cut", "--resume");
  ASSERT_EQ(resumed.code, 0) << resumed.out;
  EXPECT_NE(resumed.out.find("questions were answered before"), std::string::npos);
  std::map<std::string, std::string> after = results("cut");
  const nlohmann::json again = nlohmann::json::parse(after.extract("results").mapped());
  EXPECT_EQ(after, whole);
  EXPECT_EQ(again["results"], json["results"]);
  EXPECT_NE(run("cut", "--resume").out.find("finished before"), std::string::npos);
  EXPECT_EQ(ReadFile(folder_ / "cut/answers.jsonl").substr(second + 1), log.substr(second + 1));
}

TEST_F(EvalCommand, OtherWeightsUnderTheSameNameAreAnotherRun) {
  const std::string model = " '" + (folder_ / "model").string() + "' ", out = "'" + (folder_ / "run").string() + "'";
  const auto make = [&](const std::string& options) {
    const CommandResult run = RunHawser("convert --random layers=1,width=32,heads=2,vocab=512 " + options + model +
                                        tokenizer_ + " --quiet 2>&1");
    ASSERT_EQ(run.code, 0) << run.out;
  };
  const auto ask = [&](const std::string& options) {
    return RunHawser("eval" + model + "piqa --limit 3 --output " + out + options + " --threads 1 2>&1");
  };
  make("--seed 1");
  ASSERT_EQ(ask("").code, 0);
  EXPECT_EQ(ask(" --resume").code, 0);
  make("--seed 2 --force");
  const CommandResult other = ask(" --resume");
  EXPECT_EQ(other.code, 2) << other.out;
  EXPECT_NE(other.out.find("another run, with weights"), std::string::npos) << other.out;
}

TEST_F(EvalCommand, TasksSayWhatTheyMiss) {
  const auto expect = [&](int code, const std::string& arguments, const std::string& part) {
    const CommandResult run = Eval(arguments);
    EXPECT_EQ(run.code, code) << arguments << ": " << run.out;
    EXPECT_NE(run.out.find(part), std::string::npos) << arguments << ": " << run.out;
  };
  const CommandResult list = RunHawser("eval --list 2>&1");
  EXPECT_EQ(list.code, 0);
  for (const char* part :
       {"mmlu", "gsm8k_cot", "retrieval", "data:arc", "trials=K, keys=K, haystack=PATH, file=PATH"}) {
    EXPECT_NE(list.out.find(part), std::string::npos) << part;
  }
  const std::string piqa = "piqa --limit 1" + tokenizer_;
  expect(2, "piqa:shots=x" + tokenizer_, "shots is 'x'");
  expect(2, "piqa:shot=1" + tokenizer_, "did you mean 'shots'?");
  expect(2, "ruler:length=64" + tokenizer_, "64 tokens are too few");
  expect(2, "passkey:keys=2" + tokenizer_, "task passkey has no option 'keys' here");
  expect(2, "mmlu:subjects=anatomi" + tokenizer_, "did you mean 'anatomy'?");
  expect(2, "piqa piqa --limit 1" + tokenizer_, "given twice");
  expect(2, "piqa ppl" + tokenizer_, "by itself");
  expect(2, piqa + " --stride 5", "eval piqa takes no --stride");
  expect(2, piqa + " --resume", "--output");
  expect(2, piqa + " --kv full --attention window=4", "one of them");
  expect(2, piqa + " --chat", "template");
  expect(2, "gsm8k_cot --limit 1 --context 200" + tokenizer_, "no room");
  MakeDirectories(folder_ / "data/piqa");
  const std::string other = piqa + " --data-dir '" + (folder_ / "data").string() + "'";
  expect(3, other, "hawser pull data:piqa");
  expect(3, "longbench_v2" + other.substr(4), "longbench_v2/data.json: not found; give such a file by file=PATH");
  std::string labels(3676, '1');
  WriteFileAtomically(folder_ / "data/piqa/valid-labels.lst", labels);
  expect(3, other, "b4192dc3a2a0363d9d60ccf79800cbbe2f32ebb17726efdde6970e0b8131bceb");
  labels.pop_back();
  WriteFileAtomically(folder_ / "data/piqa/valid-labels.lst", labels);
  expect(3, other, "3675 bytes");
}

}  // namespace
}  // namespace hawser
