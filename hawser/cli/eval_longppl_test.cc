// hawser eval MODEL longppl at the command line, on the built-in model.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "hawser/base/file.h"
#include "hawser/data/synthetic.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/run_command.h"

namespace hawser {
namespace {

using testing::CommandResult;
using testing::RunHawser;

class LongPplCommand : public ::testing::Test {
 protected:
  void SetUp() override {
    folder_ = FreshFolder("longppl_command");
    for (uint64_t number = 0; number < 2; ++number) {
      Write(fmt::format("text/log{}.txt", number), MakeSyntheticDocument(5, number, 500).text);
    }
  }
  void Write(const std::string& name, std::string_view contents) const {
    MakeDirectories((folder_ / name).parent_path());
    WriteFileAtomically(folder_ / name, contents);
  }
  std::string Path(const std::string& name) const { return "'" + (folder_ / name).string() + "'"; }
  CommandResult Run(const std::string& fields, const std::string& rest) const {
    return RunHawser("eval builtin longppl" + fields + " " + rest + " --threads 1 2>&1");
  }
  nlohmann::json Json(const std::string& fields, const std::string& rest) const {
    const CommandResult run = Run(fields, "--json --quiet " + rest);
    EXPECT_EQ(run.code, 0) << run.out;
    return nlohmann::json::parse(run.out);
  }
  void Refused(int code, const std::string& fields, const std::string& rest, const std::string& part) const {
    const CommandResult run = Run(fields, "--quiet " + rest);
    EXPECT_EQ(run.code, code) << run.out;
    EXPECT_NE(run.out.find(part), std::string::npos) << "wanted '" << part << "' in: " << run.out;
    EXPECT_EQ(std::count(run.out.begin(), run.out.end(), '\n'), 1) << run.out;
  }

  std::filesystem::path folder_;
};

TEST_F(LongPplCommand, JudgesOnceAndMeasuresCaches) {
  const std::string data = " --data " + Path("text");
  const nlohmann::json judged = Json(":k=64,delta=24", "--judge builtin --save-keys " + Path("keys.jsonl") + data);
  EXPECT_GT(judged["key_tokens"], 20);
  EXPECT_LT(judged["longppl"], 1.5);
  EXPECT_GT(judged["ppl"], 3.0);
  EXPECT_EQ(judged["documents"].size(), 2u);
  const std::string identity = judged["identity"];
  EXPECT_NE(identity.find("judge=builtin fingerprint="), std::string::npos) << identity;
  EXPECT_NE(identity.find("dtype=f32"), std::string::npos) << identity;
  EXPECT_NE(identity.find("k=64 delta=24 alpha=2 beta=-2 length=4096"), std::string::npos) << identity;

  const nlohmann::json again = Json("", "--keys " + Path("keys.jsonl") + data);
  EXPECT_EQ(again["longppl"], judged["longppl"]);
  EXPECT_EQ(again["identity"], judged["identity"]);
  EXPECT_EQ(again["k"], 64);

  const nlohmann::json window = Json("", "--kv window:64 --keys " + Path("keys.jsonl") + data);
  EXPECT_EQ(window["key_tokens"], judged["key_tokens"]);
  EXPECT_GT(window["longppl"], 5.0) << "what is asked for is gone";
  EXPECT_LT(window["kept"], 65);
  EXPECT_EQ(window["kv_policy"], "window:64");
  EXPECT_EQ(Json("", "--limit 1 --keys " + Path("keys.jsonl") + data)["documents"].size(), 1u);
  EXPECT_NE(Run("", "--keys " + Path("keys.jsonl") + data).out.find("longppl 1."), std::string::npos);
}

TEST_F(LongPplCommand, MistakesAreOneLine) {
  const std::string data = " --data " + Path("text"), keys = "--keys " + Path("keys.jsonl");
  ASSERT_EQ(Run(":k=64,delta=24", "--judge builtin --save-keys " + Path("keys.jsonl") + data).code, 0);
  Refused(2, "", data, "who says which tokens");
  Refused(2, "", "--judge builtin", "which text? Give --data");
  Refused(2, ":k=64,gamma=5", "--judge builtin" + data, "no option 'gamma'");
  Refused(2, ":k=0", "--judge builtin" + data, "k is '0'");
  Refused(2, ":k=1000,delta=8", "--judge builtin" + data, "k=1000 and delta=8 want more than 1008 tokens");
  Refused(2, ":k=64,delta=24,alpha=1e6", "--judge builtin" + data, "no key tokens");
  Refused(2, ":k=64,delta=25", keys + data, "chosen with delta=24, not 25");
  Refused(2, "", keys + " --context 100" + data, "cut to 4096 tokens of the judge, not 100");
  Refused(2, "", keys + " --judge builtin" + data, "--judge");
  Refused(2, "", keys + " --save-keys " + Path("x") + data, "--save-keys is for a judge");
  Refused(2, "", keys + " --judge-rope theta=5e6" + data, "--judge-rope is for a judge");
  Refused(2, "", keys + " --kv sink:4,60 --attention window=64" + data, "--kv and --attention");
  Refused(3, "", "--keys " + Path("none.jsonl") + data, "none.jsonl");
  Refused(3, "", "--keys " + Path("text/log0.txt") + data, "log0.txt:1");
  Refused(2, "", keys + " --protocol full" + data, "takes no --protocol");
  Write("text/log1.txt", "another text");
  Refused(2, "", keys + data, "log1.txt: another text than the one judged as");
  Write("text/log1.txt", MakeSyntheticDocument(5, 1, 500).text);
  Write("text/log2.txt", "one more");
  Refused(2, "", keys + data, "log2.txt: not judged");
}

}  // namespace
}  // namespace hawser
