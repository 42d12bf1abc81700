// `hawser bench attention` as scripts use it: what its JSON holds, and that wrong options end in one line.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>

#include "hawser/testing/run_command.h"

namespace hawser {
namespace {

using testing::CommandResult;

CommandResult Bench(const std::string& arguments) { return testing::RunHawser("bench attention " + arguments); }

TEST(BenchAttentionCommand, JsonHoldsTheMachineAndTheRows) {
  const CommandResult run =
      Bench("--pattern full --pattern 'window=16 sep' --tokens 96 --head-dim 16 --repeat 1 --json");
  ASSERT_EQ(run.code, 0) << run.out;
  const nlohmann::json json = nlohmann::json::parse(run.out);
  for (const char* key : {"f32_gflops", "bf16_avx512_gflops", "bf16_amx_gflops", "gb_per_s"}) {
    EXPECT_GE(json["machine"][key].get<double>(), 0.0) << key;
  }
  EXPECT_GT(json["machine"]["f32_gflops"].get<double>(), 0.0);
  EXPECT_TRUE(json["machine"]["isa"].is_string());
  ASSERT_EQ(json["rows"].size(), 4u);  // two patterns, two directions
  for (const nlohmann::json& row : json["rows"]) {
    for (const char* key : {"seconds", "gflops", "peak_fraction", "density"}) {
      EXPECT_GT(row[key].get<double>(), 0.0) << key;
    }
    EXPECT_EQ(row["tokens"], 96);
    EXPECT_EQ(row["head_dim"], 16);
    EXPECT_EQ(row["dtype"], "bf16");
    EXPECT_EQ(row["density"] < 1.0, row["pattern"] != "full");
    EXPECT_EQ(row.contains("time_over_dense"), row["pattern"] != "full");
  }
  EXPECT_EQ(json["rows"][0]["direction"], "forward");
  EXPECT_EQ(json["rows"][1]["direction"], "backward");
}

TEST(BenchAttentionCommand, BiasedAndCappedScoresAreVerifiedToo) {
  const CommandResult run = Bench("--tokens 96 --head-dim 16 --heads 6 --repeat 1 --alibi --softcap 30 --json");
  ASSERT_EQ(run.code, 0) << run.out;
  const nlohmann::json json = nlohmann::json::parse(run.out);
  EXPECT_EQ(json["rows"][0]["alibi"], true);
  EXPECT_EQ(json["rows"][0]["softcap"], 30.0);
  EXPECT_EQ(json["rows"][0]["name"], "attention full alibi softcap=30 bf16 16 96 forward");
}

TEST(BenchAttentionCommand, FarKeysAreVerifiedAndTimedBesideTheSameWithout) {
  for (const auto& [direction, rows] : {std::pair("both", 1u), std::pair("decode", 1u)}) {
    const CommandResult run =
        Bench(std::string("--tokens 200 --head-dim 16 --repeat 1 --string 60 --json --direction ") + direction);
    ASSERT_EQ(run.code, 0) << run.out;
    const nlohmann::json json = nlohmann::json::parse(run.out);
    ASSERT_EQ(json["rows"].size(), rows);  // no backward
    EXPECT_EQ(json["rows"][0]["shift"], 60);
    EXPECT_GT(json["rows"][0]["time_over_plain"].get<double>(), 0.0);
  }
}

TEST(BenchAttentionCommand, RefusesWhatItCannotDo) {
  EXPECT_EQ(Bench("--string 60 --direction backward").code, 2);
  EXPECT_EQ(Bench("--softcap -1").code, 2);
  EXPECT_EQ(Bench("--isa mmx").code, 2);
  EXPECT_EQ(Bench("--pattern windows=3").code, 2);
  EXPECT_EQ(Bench("--heads 3 --kv-heads 2").code, 2);
  EXPECT_EQ(Bench("--head-dim 300").code, 2);
}

}  // namespace
}  // namespace hawser
