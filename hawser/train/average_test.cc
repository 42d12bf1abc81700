#include "hawser/train/average.h"

#include <gtest/gtest.h>

#include <cstring>
#include <functional>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/parallel.h"
#include "hawser/device/registry.h"
#include "hawser/testing/test_folder.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/train/checkpoint.h"
#include "hawser/train/lora.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

class AverageTest : public ::testing::Test {
 protected:
  void SetUp() override { fs::remove_all(folder_); }
  void TearDown() override { fs::remove_all(folder_); }

  void Save(int64_t step, const TrainConfig& config = {}) {
    ParamStore weights = TinyModel(spec_, static_cast<uint64_t>(step)), moment(spec_, DType::kF32);
    ParamStore adapters(spec_, LoraLayout(weights.layout(), LoraOf(config)), DType::kF32);
    InitializeLora(&adapters, static_cast<uint64_t>(step));
    float* values = static_cast<float*>(adapters.arena().data);
    for (int64_t i = 0; i < adapters.size(); ++i) values[i] += 0.01f * static_cast<float>(i % 5);
    TrainState state{&weights, &moment, &moment};
    if (config.lora_rank > 0) state.adapters = state.adapters_m = state.adapters_v = &adapters;
    SaveCheckpoint(folder_ / "checkpoints", {.step = step, .recipe = "", .rope_hash = RopeHash(spec_)}, state, 10);
  }
  ParamStore Average(std::vector<int64_t> steps, const TrainConfig& config = {}) {
    return AverageCheckpoints(folder_ / "checkpoints", std::move(steps), spec_, config, backend_.get());
  }
  static std::vector<float> Values(const ParamStore& store) {
    const auto* values = static_cast<const float*>(store.arena().data);
    return {values, values + store.size()};
  }
  static std::string UsageOf(const std::function<void()>& body) {
    try {
      body();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage) << error.what();
      return error.what();
    }
    return "nothing was thrown";
  }

  ModelSpec spec_ = TinySpec();
  std::unique_ptr<Backend> backend_ = MakeBackend("cpu");
  fs::path folder_ = FreshPath("average");
};

TEST_F(AverageTest, IsTheMeanInDouble) {
  for (const int64_t step : {5, 10, 15}) Save(step);
  const std::vector<float> a = Values(TinyModel(spec_, 5)), b = Values(TinyModel(spec_, 10)),
                           c = Values(TinyModel(spec_, 15));
  std::vector<float> want(a.size());
  for (size_t i = 0; i < a.size(); ++i) want[i] = static_cast<float>((double{a[i]} + double{b[i]} + double{c[i]}) / 3);
  EXPECT_EQ(Values(Average({5, 10, 15})), want);
  EXPECT_EQ(Values(Average({15, 5, 10, 5})), want);  // a set, in any order
  SetThreads(1);
  EXPECT_EQ(Values(Average({5, 10, 15})), want);
  SetThreads(0);
  EXPECT_EQ(Values(Average({10})), b);
}

TEST_F(AverageTest, AdaptersAreMergedFirst) {  // the mean of products is not the product of means
  TrainConfig config;
  config.lora_rank = 2;
  for (const int64_t step : {1, 2}) Save(step, config);
  const std::vector<float> one = Values(Average({1}, config)), two = Values(Average({2}, config)),
                           both = Values(Average({1, 2}, config)), plain = Values(TinyModel(spec_, 1));
  EXPECT_NE(one, plain);
  for (size_t i = 0; i < both.size(); ++i) {
    ASSERT_EQ(both[i], static_cast<float>((double{one[i]} + double{two[i]}) / 2)) << i;
  }
}

TEST_F(AverageTest, SaysWhichCheckpointIsWrong) {
  EXPECT_NE(UsageOf([&] { LastCheckpoints(folder_ / "checkpoints", 1); }).find("none"), std::string::npos);
  for (const int64_t step : {5, 10}) Save(step);
  EXPECT_EQ(LastCheckpoints(folder_ / "checkpoints", 1), std::vector<int64_t>{10});
  EXPECT_EQ(LastCheckpoints(folder_ / "checkpoints", 2), (std::vector<int64_t>{5, 10}));
  EXPECT_NE(UsageOf([&] { LastCheckpoints(folder_ / "checkpoints", 3); }).find("5, 10"), std::string::npos);
  EXPECT_NE(UsageOf([&] { Average({5, 7}); }).find("step 7"), std::string::npos);
  EXPECT_NE(UsageOf([&] { Average({}); }).find("no checkpoints"), std::string::npos);
  spec_.rope.theta = 20000;
  EXPECT_NE(UsageOf([&] { Average({5, 10}); }).find("rotations"), std::string::npos);
  spec_.rope.theta = 10000;
  fs::resize_file(folder_ / "checkpoints/step_000010/state.safetensors", 100);
  EXPECT_THROW(Average({5, 10}), Error);
}

TEST_F(AverageTest, TheBestHaveTheLowestValidationLoss) {
  for (const int64_t step : {4, 8, 12, 16}) Save(step);
  WriteFileAtomically(folder_ / "metrics.jsonl",
                      "{\"step\":4,\"validation_loss\":2.5}\n{\"step\":8,\"validation_loss\":1.5}\n"
                      "{\"step\":10,\"validation_loss\":0.1}\n{\"step\":12,\"validation_loss\":2.0}\n"
                      "{\"step\":16,\"validation_loss\":2.0}\n{\"step\":17,\"validation_loss\":");
  EXPECT_EQ(BestCheckpoints(folder_, 1), std::vector<int64_t>{8});
  EXPECT_EQ(BestCheckpoints(folder_, 2), (std::vector<int64_t>{8, 16}));
  EXPECT_EQ(BestCheckpoints(folder_, 3), (std::vector<int64_t>{8, 12, 16}));
  EXPECT_NE(UsageOf([&] { BestCheckpoints(folder_, 5); }).find("found 4"), std::string::npos);
}

}  // namespace
}  // namespace hawser
