#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "hawser/testing/run_command.h"

namespace hawser {
namespace {

using testing::CommandResult;
using testing::RunHawser;

TEST(BenchCache, VerifiesAndReportsDepthAndFlatness) {
  const CommandResult run = RunHawser(
      "bench cache --shape demo --context 200 --near 100 --far 3000 --dtype f32 --threads 1 --kv full "
      "--kv sep-stream:2,8,16,64 --kv sep-stream:2,8,16,64,policy=full,positions=absolute --kv full:dtype=q8_0 "
      "--kv sep-stream:2,8,16,64,dtype=q8_0 --json");
  ASSERT_EQ(run.code, 0);
  const auto rows = nlohmann::json::parse(run.out)["rows"];
  ASSERT_EQ(rows.size(), 8u);
  EXPECT_NEAR(rows[0]["slots"].get<double>(), 200 + 2 + 32.0 / 2, 1.0);
  EXPECT_EQ(rows[0]["kv_bytes"].get<double>(), rows[0]["slots"].get<double>() * 2 * 2 * 128 * 4);
  EXPECT_EQ(rows[1]["tokens"], 64 - 2 - 8 - 16 + 1);
  EXPECT_EQ(rows[2]["tokens"], 64 - 2 - 8 - 16);
  EXPECT_NEAR(rows[1]["slots"].get<double>(), (2 + 8 + 16 + 64) / 2.0, 0.01);
  EXPECT_NEAR(rows[3]["kv_bytes"].get<double>() / rows[0]["kv_bytes"].get<double>(), 34.0 / 128, 0.001);
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_GT(rows[i]["seconds"], 0.0);
    EXPECT_EQ(rows[i].contains("bound"), i > 0 && i < 5) << i;
    EXPECT_EQ(rows[i].contains("compression_share"), i >= 5) << i;
  }
  EXPECT_GT(rows[1]["bound"], 1.0);
  EXPECT_GT(rows[5]["compression_seconds"], 0.0);
  EXPECT_LE(rows[5]["compression_seconds"], rows[5]["upkeep_seconds"]);
  EXPECT_EQ(rows[5]["near_slots"], rows[5]["slots"]);  // separators are as many as they may be at both
}

TEST(BenchCache, WrongArgumentsAreUsageErrors) {
  EXPECT_EQ(RunHawser("bench cache --shape demo --kv sepstream:1 2>/dev/null").code, 2);
  EXPECT_EQ(RunHawser("bench cache --shape demo --kv sink:1,4,positions=cachelen 2>/dev/null").code, 2);
  EXPECT_EQ(RunHawser("bench cache --shape demo --near 10 --far 10 2>/dev/null").code, 2);
}

}  // namespace
}  // namespace hawser
