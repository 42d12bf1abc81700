#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "hawser/base/file.h"
#include "hawser/io/json.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/test_data.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using testing::CommandResult;
using testing::RunHawser;

fs::path Fresh(const std::string& name) {
  const fs::path folder = FreshPath("eval_files_" + name);
  MakeDirectories(folder);
  return folder;
}

TEST(EvalFiles, RulerGenThenScore) {
  const fs::path folder = Fresh("gen");
  const std::string gen = "eval ruler gen --tokenizer builtin --max-seq-length 1500 --num-samples 3 --out ";
  const CommandResult made = RunHawser(gen + (folder / "a").string() + " --task niah_multikey_3,vt,fwe --json --quiet");
  ASSERT_EQ(made.code, 0) << made.out;
  const nlohmann::json json = ParseJson(made.out);
  EXPECT_EQ(json["seed"], 42);
  ASSERT_EQ(json["tasks"].size(), 3u);
  for (const nlohmann::json& task : json["tasks"]) {
    EXPECT_EQ(task["samples"], 3);
    EXPECT_LE(task["longest"].get<int64_t>(), 1500);
  }
  // The same again; another seed is other data.
  ASSERT_EQ(RunHawser(gen + (folder / "b").string() + " --task fwe --quiet").code, 0);
  ASSERT_EQ(RunHawser(gen + (folder / "c").string() + " --task fwe --seed 7 --quiet").code, 0);
  EXPECT_EQ(ReadFile(folder / "a" / "fwe.jsonl"), ReadFile(folder / "b" / "fwe.jsonl"));
  EXPECT_NE(ReadFile(folder / "b" / "fwe.jsonl"), ReadFile(folder / "c" / "fwe.jsonl"));

  MakeDirectories(folder / "pred");
  WriteFileAtomically(folder / "pred" / "vt.jsonl",
                      "{\"index\":0,\"pred\":\"ABC, DEF\",\"outputs\":[\"abc\",\"XYZ\"]}\n");
  const CommandResult scored = RunHawser("eval ruler score --pred " + (folder / "pred").string() + " --out " +
                                         (folder / "csv").string() + " --json");
  ASSERT_EQ(scored.code, 0) << scored.out;
  EXPECT_EQ(ParseJson(scored.out)["models"][0]["tasks"]["vt"]["score"], 50);
  EXPECT_EQ(ReadFile(folder / "csv" / "submission.csv"), "Task,ID,Prediction\nvt,0,\"ABC, DEF\"\n");
  const CommandResult one =
      RunHawser("eval score --task vt --pred " + (folder / "pred" / "vt.jsonl").string() + " --json");
  ASSERT_EQ(one.code, 0) << one.out;
  EXPECT_EQ(ParseJson(one.out)["scores"][0]["score"], 50);
}

TEST(EvalFiles, RulerRunAnswersWhatGenMade) {
  HAWSER_NEEDS_DATA("ruler/wordlists");
  const fs::path folder = Fresh("run");
  const std::string data = (folder / "data").string(), out = (folder / "out").string();
  ASSERT_EQ(RunHawser("eval ruler gen --tokenizer builtin --max-seq-length 500 --num-samples 2 --task "
                      "fwe,niah_single_1 "
                      "--quiet --out " +
                      data)
                .code,
            0);
  // The layout of the original's prepared data.
  MakeDirectories(folder / "data" / "fwe");
  fs::rename(folder / "data" / "fwe.jsonl", folder / "data" / "fwe" / "validation.jsonl");
  const std::string run = "eval ruler run builtin --quiet --data " + data + " --out " + out;
  const CommandResult first = RunHawser(run + " --max-seq-length 500 --kv sink:4,252 --json");
  ASSERT_EQ(first.code, 0) << first.out;
  const nlohmann::json results = ParseJson(first.out);
  EXPECT_EQ(results["n-samples"]["ruler_500_fwe"]["effective"], 2);
  EXPECT_NE(results["engine"].dump().find("sink:4,252"), std::string::npos) << results["engine"];

  // The same samples, made on the way, are answered the same.
  const CommandResult direct =
      RunHawser("eval builtin ruler:length=500,samples=2,tasks=fwe+niah_single_1 --quiet --kv sink:4,252 --output " +
                (folder / "direct").string());
  ASSERT_EQ(direct.code, 0) << direct.out;
  for (const char* name : {"fwe.jsonl", "niah_single_1.jsonl"}) {
    EXPECT_EQ(ReadFile(folder / "out" / name), ReadFile(folder / "direct" / name));
  }
  const CommandResult scored = RunHawser("eval ruler score --pred " + out + " --json");
  ASSERT_EQ(scored.code, 0) << scored.out;
  for (const char* name : {"fwe", "niah_single_1"}) {
    EXPECT_NEAR(ParseJson(scored.out)["models"][0]["tasks"][name]["score"].get<double>(),
                100 * results["results"][std::string("ruler_500_") + name]["score,none"].get<double>(), 0.006);
  }

  EXPECT_EQ(RunHawser(run + " 2>&1").code, 2);  // another run is there
  const auto fails = [&](const std::string& with, int code, const std::string& says) {
    const CommandResult result = RunHawser("eval ruler run builtin --quiet --out " + out + "2 " + with + " 2>&1");
    EXPECT_EQ(result.code, code) << with << ": " << result.out;
    EXPECT_NE(result.out.find(says), std::string::npos) << with << ": " << result.out;
  };
  fails("", 2, "--data");
  fails("--data " + out + "/absent", 2, "no samples");
  fails("--data " + data + " --task vt", 3, "no samples of vt");
  fails("--data " + data + " --task fwx", 2, "unknown task");
  fails("--data " + data + " --context 300", 2, "beyond the longest input of 300");
  for (const auto& [line, says] : std::initializer_list<std::pair<const char*, const char*>>{
           {"{\"input\":\"a\"}", "line 1: wanted a list \"outputs\""},
           {"{\"input\":\"a\",\"outputs\":[]}", "line 1: wanted a list"},
           {"{\"input\":\"a\",\"outputs\":[1]}", "wanted texts"},
           {"{\"input\":7,\"outputs\":[\"1\"]}", "input"},
           {"{", "line 1"},
           {"\n", "no samples"}}) {
    WriteFileAtomically(folder / "data" / "vt.jsonl", line);
    fails("--data " + data, 3, says);
  }
}

TEST(EvalFiles, PartsTakeNoOptionsOfTheirParent) {
  for (const char* part : {"ruler gen --tokenizer builtin --out x", "ruler score --pred x",
                           "ruler run builtin --data x --out x", "score --task vt --pred x"}) {
    const CommandResult result = RunHawser(std::string("eval ") + part + " --stretch 3 2>&1");
    EXPECT_EQ(result.code, 2) << part;
    EXPECT_NE(result.out.find("unknown option '--stretch'"), std::string::npos) << result.out;
  }
  const CommandResult help = RunHawser("eval ruler run --help");
  EXPECT_NE(help.out.find("what hawser eval ruler takes: --json"), std::string::npos) << help.out;
  EXPECT_EQ(help.out.find("--stretch"), std::string::npos) << help.out;
}

TEST(EvalFiles, FaultsAreOneLine) {
  const fs::path folder = Fresh("faults");
  const auto fails = [](const std::string& arguments, int code, const std::string& says) {
    const CommandResult result = RunHawser(arguments + " 2>&1");
    EXPECT_EQ(result.code, code) << arguments << ": " << result.out;
    EXPECT_NE(result.out.find(says), std::string::npos) << arguments << ": " << result.out;
    EXPECT_EQ(std::ranges::count(result.out, '\n'), 1) << result.out;
  };
  const std::string out = " --tokenizer builtin --num-samples 1 --out " + folder.string();
  fails("eval ruler", 2, "gen, run, score");
  fails("eval ruler gen", 2, "required");
  fails("eval ruler gen --task vtt" + out, 2, "did you mean 'vt'");
  fails("eval ruler gen --task fwe --max-seq-length 100" + out, 2, "100 tokens are too few");
  fails("eval ruler gen --task niah_single_2 --haystack /absent.txt" + out, 3, "/absent.txt");
  fails("eval ruler gen --template lama3" + out, 2, "did you mean 'llama3'");
  EXPECT_TRUE(fs::is_empty(folder));
  fails("eval ruler score --pred " + folder.string(), 2, "no predictions");
  fails("eval score --task vtt --pred /absent", 2, "did you mean 'vt'");
  fails("eval builtin ppl --context 5 --context 6", 2, "--context: wanted once, found 2 times");
  fails("eval score --task vt --pred /absent", 3, "/absent");
  // Behind a model the words are tasks.
  fails("eval builtin score", 2, "unknown task 'score'");
  fails("eval builtin ruler:length=1M --quiet", 2, "beyond the longest input");
}

TEST(EvalFiles, TasksThatDoNotFitALengthAreNamed) {
  HAWSER_NEEDS_DATA("ruler/wordlists");
  const CommandResult some = RunHawser("eval builtin ruler:length=300,samples=1 2>&1");
  EXPECT_EQ(some.code, 0) << some.out;
  EXPECT_NE(some.out.find("left out at 300 tokens"), std::string::npos) << some.out;
}

}  // namespace
}  // namespace hawser
