#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "hawser/testing/run_command.h"

namespace hawser {
namespace {

using testing::CommandResult;
using testing::RunHawser;

TEST(BenchTrain, VerifiesAndReportsEveryVariant) {
  const CommandResult run = RunHawser(
      "bench train --tokens 96 --docs 24 --width 32 --layers 1 --heads 2 --kv-heads 1 --vocab 64 --repeat 1 --threads "
      "1 "
      "--attention full --attention intra-reset --attention 'scope=doc anchors=1 sep window=8' --json");
  ASSERT_EQ(run.code, 0);
  const auto json = nlohmann::json::parse(run.out);
  ASSERT_EQ(json["rows"].size(), 6u);
  for (const auto& row : json["rows"]) {
    EXPECT_EQ(row["tokens"], 96);
    EXPECT_EQ(row["width"], 32);
    EXPECT_EQ(row["head_dim"], 16);
    EXPECT_GT(row["gflops"], 0.0);
    EXPECT_GT(row["tokens_per_second"], 0.0);
    EXPECT_GT(row["activation_bytes"], 0);
    EXPECT_GT(row["time_over_full"], 0.0);
  }
  EXPECT_EQ(json["rows"][0]["density"], 1.0);
  EXPECT_EQ(json["rows"][0]["flops_over_full"], 1.0);
  EXPECT_LT(json["rows"][1]["flops_over_full"], 1.0);
  EXPECT_LT(json["rows"][2]["density"], json["rows"][1]["density"]);
  EXPECT_GT(json["machine"]["f32_gflops"], 0.0);
}

TEST(BenchTrain, WrongSizesAreUsageErrors) {
  EXPECT_EQ(RunHawser("bench train --heads 3 --kv-heads 2 2>/dev/null").code, 2);
  EXPECT_EQ(RunHawser("bench train --width 30 --heads 4 2>/dev/null").code, 2);
  EXPECT_EQ(RunHawser("bench train --attention ancor 2>/dev/null").code, 2);
}

}  // namespace
}  // namespace hawser
