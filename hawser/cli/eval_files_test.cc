#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>

#include "hawser/base/file.h"
#include "hawser/io/json.h"
#include "hawser/testing/run_command.h"
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

TEST(EvalFiles, FaultsAreOneLine) {
  const fs::path folder = Fresh("faults");
  const auto fails = [](const std::string& arguments, int code, const std::string& says) {
    const CommandResult result = RunHawser(arguments + " 2>&1");
    EXPECT_EQ(result.code, code) << arguments << ": " << result.out;
    EXPECT_NE(result.out.find(says), std::string::npos) << arguments << ": " << result.out;
    EXPECT_EQ(std::ranges::count(result.out, '\n'), 1) << result.out;
  };
  const std::string out = " --tokenizer builtin --num-samples 1 --out " + folder.string();
  fails("eval ruler", 2, "gen, score");
  fails("eval ruler gen", 2, "required");
  fails("eval ruler gen --task vtt" + out, 2, "did you mean 'vt'");
  fails("eval ruler gen --task fwe --max-seq-length 100" + out, 2, "100 tokens are too few");
  fails("eval ruler gen --task niah_single_2 --haystack /absent.txt" + out, 3, "/absent.txt");
  fails("eval ruler gen --template lama3" + out, 2, "did you mean 'llama3'");
  EXPECT_TRUE(fs::is_empty(folder));
  fails("eval ruler score --pred " + folder.string(), 2, "no predictions");
  fails("eval score --task vtt --pred /absent", 2, "did you mean 'vt'");
  fails("eval score --task vt --pred /absent", 3, "/absent");
  // Behind a model the words are tasks.
  fails("eval builtin score", 2, "unknown task 'score'");
  fails("eval builtin ruler:length=1M --quiet", 2, "beyond the longest input");
}

}  // namespace
}  // namespace hawser
