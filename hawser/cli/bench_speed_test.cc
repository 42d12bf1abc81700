#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "hawser/testing/run_command.h"

namespace hawser {
namespace {

using testing::CommandResult;
using testing::RunHawser;

TEST(BenchSpeed, PromptsOfBlocksAndTokensOfStreams) {
  const CommandResult prefill =
      RunHawser("bench prefill --shape demo --dtype q4_0 --context 40 90 --repeat 2 --threads 1 --json");
  ASSERT_EQ(prefill.code, 0);
  const auto prompts = nlohmann::json::parse(prefill.out)["rows"];
  ASSERT_EQ(prompts.size(), 2u);
  EXPECT_EQ(prompts[1]["context"], 90);
  EXPECT_GT(prompts[1]["gflops"], 0.0);
  const CommandResult decode =
      RunHawser("bench decode --shape demo --dtype bf16 --context 50 --batch 3 --tokens 4 --threads 1 --json");
  ASSERT_EQ(decode.code, 0);
  const auto tokens = nlohmann::json::parse(decode.out)["rows"];
  ASSERT_EQ(tokens.size(), 1u);
  EXPECT_EQ(tokens[0]["batch"], 3);
  // 50 tokens, those to warm up, and half of those timed; two layers, keys and values, 128 channels of BF16
  EXPECT_NEAR(tokens[0]["kv_bytes"].get<double>(), 3 * (50 + 2 + 2.5) * 2 * 2 * 128 * 2, 1.0);
}

TEST(BenchSpeed, WrongArgumentsAreUsageErrors) {
  EXPECT_EQ(RunHawser("bench prefill --shape demo --context 0 2>/dev/null").code, 2);
  EXPECT_EQ(RunHawser("bench decode --shape demo --dtype f16 2>/dev/null").code, 2);
  EXPECT_EQ(RunHawser("bench decode --shape demo --dtype q4_k 2>/dev/null").code, 2);  // rows of 128 are no blocks
  EXPECT_EQ(RunHawser("bench decode --shape demo --dtype q3_k 2>/dev/null").code, 4);
}

}  // namespace
}  // namespace hawser
