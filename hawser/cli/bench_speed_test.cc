#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "hawser/testing/run_command.h"

namespace hawser {
namespace {

using testing::CommandResult;
using testing::RunHawser;

TEST(BenchSpeed, PromptsAndTokensOfEveryKindOfWeights) {
  for (const char* dtype : {"f32", "bf16", "q4_0"}) {
    const std::string common = std::string(" --shape demo --threads 1 --json --dtype ") + dtype;
    const CommandResult prefill = RunHawser("bench prefill --context 40 90 --repeat 2" + common);
    ASSERT_EQ(prefill.code, 0) << dtype;
    const auto prompts = nlohmann::json::parse(prefill.out)["rows"];
    ASSERT_EQ(prompts.size(), 2u);
    EXPECT_EQ(prompts[1]["context"], 90);
    EXPECT_GT(prompts[1]["gflops"], 0.0);
    const CommandResult decode = RunHawser("bench decode --context 50 --batch 3 --tokens 4" + common);
    ASSERT_EQ(decode.code, 0) << dtype;
    const auto tokens = nlohmann::json::parse(decode.out)["rows"];
    ASSERT_EQ(tokens.size(), 1u);
    EXPECT_EQ(tokens[0]["batch"], 3);
    const double size = dtype == std::string("f32") ? 4 : 2;  // 50 tokens, those to warm up, and half of those timed
    EXPECT_NEAR(tokens[0]["kv_bytes"].get<double>(), 3 * (50 + 2 + 2.5) * 2 * 2 * 128 * size, 1.0);
  }
}

TEST(BenchSpeed, WrongArgumentsAreUsageErrors) {
  EXPECT_EQ(RunHawser("bench prefill --shape demo --context 0 2>/dev/null").code, 2);
  EXPECT_EQ(RunHawser("bench decode --shape demo --dtype f16 2>/dev/null").code, 2);
  EXPECT_EQ(RunHawser("bench decode --shape demo --dtype q4_k 2>/dev/null").code, 2);  // rows of 128 are no blocks
  EXPECT_EQ(RunHawser("bench decode --shape demo --dtype q3_k 2>/dev/null").code, 4);
}

}  // namespace
}  // namespace hawser
