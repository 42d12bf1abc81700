// hawser eval MODEL compare at the command line, on the built-in model, and what hawser report makes of it.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hawser/base/file.h"
#include "hawser/data/synthetic.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/run_command.h"
#include "hawser/testing/smollm2.h"
#include "hawser/testing/test_data.h"

namespace hawser {
namespace {

using testing::CommandResult;
using testing::RunHawser;

class CompareCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("compare_command");
    WriteFileAtomically(folder_ / "log.txt", MakeSyntheticDocument(5, 0, 500).text);
  }
  std::string Path(const std::string& name) const { return "'" + (folder_ / name).string() + "'"; }
  CommandResult Run(const std::string& rest) const {
    return RunHawser("eval builtin compare --data " + Path("log.txt") + " --threads 1 " + rest + " 2>&1");
  }
  nlohmann::json Json(const std::string& rest) const {
    const CommandResult run = Run("--json --quiet " + rest);
    EXPECT_EQ(run.code, 0) << run.out;
    return nlohmann::json::parse(run.out);
  }
  void Refused(int code, const std::string& rest, const std::string& part) const {
    const CommandResult run = Run("--quiet " + rest);
    EXPECT_EQ(run.code, code) << run.out;
    EXPECT_NE(run.out.find(part), std::string::npos) << "wanted '" << part << "' in: " << run.out;
  }

  std::filesystem::path folder_;
};

TEST_F(CompareCommand, SideBySideAndOnAPage) {
  const std::string out = "--output " + Path("run") + " --bootstrap 100 ";
  const std::string text = " 2>&1";
  const CommandResult first =
      RunHawser("eval builtin compare:k=64,delta=24 --judge builtin --threads 1 --save-keys " + Path("keys.jsonl") +
                " --data " + Path("log.txt") + " --methods 'full; window:64' " + out + text);
  ASSERT_EQ(first.code, 0) << first.out;
  for (const char* part : {"window:64", "longppl", "times full", "report.html", "longppl-1 judge=builtin"}) {
    EXPECT_NE(first.out.find(part), std::string::npos) << part << " in " << first.out;
  }
  const nlohmann::json held = nlohmann::json::parse(ReadFile(folder_ / "run/compare.json"));
  EXPECT_NE(ReadFile(folder_ / "run/report.html").find("LongPPL by keys kept"), std::string::npos);
  EXPECT_TRUE(IsFile(folder_ / "run/report-kept-longppl.svg"));
  EXPECT_TRUE(IsFile(folder_ / "run/report-position.csv"));

  // Goes on: what was measured stays, what was being written when it was killed is measured again.
  const std::string log = ReadFile(folder_ / "run/methods.jsonl");
  WriteFileAtomically(folder_ / "run/methods.jsonl", log.substr(0, log.size() - 30));
  const std::string keys = "--keys " + Path("keys.jsonl") + " ";
  Refused(2, keys + out + "--methods full", "--resume goes on with it");
  const nlohmann::json more = Json(keys + out + "--resume --methods 'full; window:64; window=64'");
  ASSERT_EQ(more["methods"].size(), 3u);
  for (const int m : {0, 1}) {
    EXPECT_EQ(more["methods"][m]["stretches"], held["methods"][m]["stretches"]);
    EXPECT_EQ(more["methods"][m]["longppl_times_first"], held["methods"][m]["longppl_times_first"]);
  }
  EXPECT_EQ(more["methods"][0]["seconds"], held["methods"][0]["seconds"]) << "not measured again";
  EXPECT_GT(more["methods"][1]["longppl_times_first"]["low"], 3.0);
  EXPECT_LT(more["methods"][1]["ppl_times_first"]["low"], more["methods"][1]["longppl_times_first"]["low"]);
  EXPECT_EQ(more["equal_memory"].size(), 1u) << "64 keys each";
  Refused(2, out + "--resume --methods full", "another run, with keys");
  Refused(2, keys + out + "--resume --dtype bf16 --methods full", "another run, with dtype");

  const CommandResult report = RunHawser("report " + Path("run") + " --out " + Path("page.html") + text);
  EXPECT_EQ(report.code, 0) << report.out;
  EXPECT_NE(ReadFile(folder_ / "page.html").find("At equal memory"), std::string::npos);
  EXPECT_TRUE(IsFile(folder_ / "page-compare-kept.svg"));
}

TEST_F(CompareCommand, MethodsOfEqualMemory) {
  const nlohmann::json json = Json("--context 300 --methods 'full; window:?; sink:4,?; sep:3,?' --kept 60");
  EXPECT_EQ(json["tokens"], 299) << "of 300 the BOS is not predicted";
  for (size_t m = 1; m < 4; ++m) EXPECT_NEAR(json["methods"][m]["kept"].get<double>(), 60, 3);
  EXPECT_EQ(json["equal_memory"].size(), 3u);
  EXPECT_EQ(json["identity"], nullptr);
  EXPECT_EQ(json["methods"][0]["longppl"], nullptr);
}

TEST_F(CompareCommand, PositionSchemesReadTheirOwnWay) {
  const nlohmann::json json = Json("--methods 'full; full @ linear:factor=8; @ linear:factor=8'");
  EXPECT_GT(json["methods"][1]["ppl_times_first"]["low"], 1.2) << "places eight times as near";
  const double cached = json["methods"][1]["ppl"], passed = json["methods"][2]["ppl"];
  EXPECT_NEAR(cached / passed, 1, 1e-4);
}

/// Every kind of cache, pattern and prefix, and positions behind some: one text, one table.
TEST_F(CompareCommand, EveryMethodOnOneText) {
  const CommandResult made = RunHawser("index builtin --max-tokens 160 --dtype f32 --threads 1 --quiet --prefix " +
                                       Path("log.txt") + " --out " + Path("x.idx") + " 2>&1");
  ASSERT_EQ(made.code, 0) << made.out;
  const std::vector<std::string> methods = {"full",
                                            "full:dtype=q8_0",
                                            "index:" + (folder_ / "x.idx").string() + ",keep=0.3",
                                            "window:48",
                                            "sink:4,44",
                                            "sink:4,44,positions=absolute",
                                            "sep:3,40",
                                            "fix:3,40,6",
                                            "sep-stream:4,16,32,64",
                                            "snapkv:128",
                                            "tova:64",
                                            "expected:64,sinks=4,future=64",
                                            "sepcache:init_cache_size=4,sep_cache_size=16,local_size=32,cache_size=64",
                                            "window=48",
                                            "sinks=4 window=48",
                                            "sinks=3 window=48 sep",
                                            "window=48 every=8",
                                            "full @ linear:factor=2",
                                            "full @ ntk:factor=2",
                                            "full @ yarn:factor=2",
                                            "full @ dynamic:factor=2",
                                            "full @ string:shift=100,window=32",
                                            "window=48 @ yarn:factor=2"};
  std::string list;
  for (const std::string& method : methods) list += (list.empty() ? "" : "; ") + method;
  const nlohmann::json json = Json("--bootstrap 50 --context 512 --methods '" + list + "'");
  ASSERT_EQ(json["methods"].size(), methods.size());
  std::map<std::string, double> ppl;
  for (size_t m = 0; m < methods.size(); ++m) {
    EXPECT_EQ(json["methods"][m]["name"], methods[m]);
    ppl[methods[m]] = json["methods"][m]["ppl"];
    EXPECT_LT(ppl[methods[m]], 8 * ppl["full"]) << methods[m];
    EXPECT_GT(ppl[methods[m]], ppl["full"] / 2) << methods[m];
  }
  EXPECT_EQ(ppl["full @ dynamic:factor=2"], ppl["full"]);  // within the context
  EXPECT_NEAR(ppl["window:48"], ppl["window=48"], 1e-4 * ppl["full"]);
  EXPECT_NE(ppl["sink:4,44"], ppl["sink:4,44,positions=absolute"]);
}

TEST_F(CompareCommand, WhatCannotBeIsToldBeforeAnythingIsMeasured) {
  Refused(4, "--output " + Path("late") + " --methods 'full; window:64; sink:4,60 @ string'",
          "method 'sink:4,60 @ string'");
  const std::string log = ReadFile(folder_ / "late/methods.jsonl");
  EXPECT_EQ(std::ranges::count(log, '\n'), 1) << "what the run is of, and no method: " << log;
}

TEST_F(CompareCommand, MistakesAreNamed) {
  Refused(2, "--methods 'full;  window:?' --kept 5000", "'window:?' keeps");
  Refused(2, "--methods 'full; window:?' --kept nan", "--kept: wanted a number");
  Refused(2, "", "no methods to compare");
  Refused(2, "--methods 'full; sikn:4'", "method 'sikn:4'");
  Refused(2, "--methods 'sink:4,?'", "Give --kept N");
  Refused(2, "--methods full --kept 5", "--kept is for methods with a ?");
  Refused(2, "--methods 'window:?' --kept 5000", "keys at most on these texts");
  Refused(2, "--methods full --resume", "--resume goes on with the run in --output");
  Refused(2, "--methods full --attention window=3", "takes no --attention");
  Refused(2, "--methods full --kv sepllm", "--methods");
  Refused(2, "--methods full --save-keys " + Path("k"), "--save-keys is for a judge");
  Refused(2, "--methods 'full @ yarn'", "method 'full @ yarn'");
  const CommandResult fields = RunHawser("eval builtin compare:k=5 --methods full --data " + Path("log.txt") + " 2>&1");
  EXPECT_EQ(fields.code, 2);
  EXPECT_NE(fields.out.find("k is for key tokens"), std::string::npos) << fields.out;
}

// A folder has one run. What is damaged in it is named, with what to do.
TEST_F(CompareCommand, FoldersOfOtherRunsAreRefused) {
  const auto tasks = [&](const std::string& name, const std::string& more = "") {
    return RunHawser("eval builtin passkey:lengths=300,depths=1,trials=1 --threads 1 --quiet --output " + Path(name) +
                     more + " 2>&1");
  };
  const auto refused = [](const CommandResult& run, int code, const std::string& part) {
    EXPECT_EQ(run.code, code) << run.out;
    EXPECT_NE(run.out.find(part), std::string::npos) << "wanted '" << part << "' in: " << run.out;
  };
  ASSERT_EQ(tasks("tasks").code, 0);
  Refused(2, "--methods full --output " + Path("tasks"), "holds an evaluation (answers.jsonl)");
  ASSERT_EQ(Run("--methods full --quiet --output " + Path("compared")).code, 0);
  refused(tasks("compared"), 2, "holds a comparison (methods.jsonl)");
  MakeDirectories(folder_ / "trained");
  WriteFileAtomically(folder_ / "trained/recipe.toml", "");
  refused(tasks("trained"), 2, "holds a training run (recipe.toml)");
  refused(tasks("tasks", " --resume --batch-tokens 64"), 2, "with batch_tokens 8192, this one 64");
  const std::string log = ReadFile(folder_ / "tasks/answers.jsonl");
  WriteFileAtomically(folder_ / "tasks/answers.jsonl", log.substr(0, log.find('\n') + 1) + "[{\n" + log);
  refused(tasks("tasks", " --resume"), 3, "answers.jsonl:2: not valid JSON");
  refused(tasks("tasks", " --resume"), 3, "delete the line, and what it held is done again");
}

// A model that puts its attention on the first tokens fails once they leave a window, and goes on where they stay
// (arXiv:2309.17453).
TEST_F(CompareCommand, FirstTokensKeepAStreamAlive) {
  HAWSER_NEEDS_SMOLLM2();
  HAWSER_NEEDS_DATA("pg19/test/10146.txt");
  WriteFileAtomically(folder_ / "book.txt", ReadFile(TestData() / "pg19/test/10146.txt").substr(2000, 4000));
  const CommandResult run = RunHawser("eval '" + testing::SmolLm2File().string() + "' compare --context 1024 --data " +
                                      Path("book.txt") + " --methods 'full; window:68; sink:4,64' --json --quiet");
  ASSERT_EQ(run.code, 0) << run.out;
  const nlohmann::json methods = nlohmann::json::parse(run.out)["methods"];
  const double full = methods[0]["ppl"], window = methods[1]["ppl"], sinks = methods[2]["ppl"];
  EXPECT_GT(window, 2 * full);
  EXPECT_LT(sinks, 1.5 * full);
}

}  // namespace
}  // namespace hawser
