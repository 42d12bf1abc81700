// The eval command as people and scripts run it, on the 260K-parameter TinyStories model.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "hawser/base/file.h"
#include "hawser/testing/run_command.h"

namespace hawser {
namespace {

using testing::CommandResult;
using testing::RunHawser;

class EvalCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    const char* data = std::getenv("HAWSER_DATA");
    if (data == nullptr) GTEST_SKIP() << "HAWSER_DATA is not set";
    const std::filesystem::path root = data;
    for (const char* file : {"models/stories260k/checkpoint_v1.bin", "models/stories260k/tokenizer.bin"}) {
      if (!std::filesystem::exists(root / file)) GTEST_SKIP() << root / file << " is absent";
    }
    model_ = (root / "models/stories260k/checkpoint_v1.bin").string();
    tokenizer_ = " --tokenizer '" + (root / "models/stories260k/tokenizer.bin").string() + "'";
    folder_ = std::filesystem::path(::testing::TempDir()) / "hawser_eval_test";
    std::filesystem::remove_all(folder_);
    MakeDirectories(folder_);
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
  expect(2, "ruler --data " + data_ + tokenizer_, "known: ppl");
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

}  // namespace
}  // namespace hawser
