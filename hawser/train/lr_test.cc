// Values worked out by hand from the definitions, at the corners and in between.
#include "hawser/train/lr.h"

#include <gtest/gtest.h>

#include <cmath>

namespace hawser {
namespace {

TrainConfig Config(Schedule schedule, int64_t warmup, double min_ratio) {
  TrainConfig c;
  c.lr = 2.0;
  c.schedule = schedule;
  c.warmup = warmup;
  c.min_lr_ratio = min_ratio;
  return c;
}

TEST(LearningRate, WarmupIsLinearAndReachesThePeak) {
  for (const Schedule s : {Schedule::kConstant, Schedule::kCosine, Schedule::kLinear, Schedule::kWsd}) {
    const TrainConfig c = Config(s, 4, 0.0);
    EXPECT_DOUBLE_EQ(LearningRate(c, 1, 100), 0.5);
    EXPECT_DOUBLE_EQ(LearningRate(c, 2, 100), 1.0);
    EXPECT_DOUBLE_EQ(LearningRate(c, 4, 100), 2.0);
  }
}

TEST(LearningRate, Constant) {
  const TrainConfig c = Config(Schedule::kConstant, 0, 0.0);
  for (int64_t step = 1; step <= 10; ++step) EXPECT_DOUBLE_EQ(LearningRate(c, step, 10), 2.0);
}

TEST(LearningRate, Cosine) {
  const TrainConfig c = Config(Schedule::kCosine, 10, 0.1);
  EXPECT_DOUBLE_EQ(LearningRate(c, 35, 110), 0.2 + 1.8 * (1 + std::sqrt(0.5)) / 2);  // a quarter: cos(pi / 4)
  EXPECT_NEAR(LearningRate(c, 60, 110), 1.1, 1e-15);                                 // half way
  EXPECT_NEAR(LearningRate(c, 110, 110), 0.2, 1e-15);
}

TEST(LearningRate, Linear) {
  const TrainConfig c = Config(Schedule::kLinear, 0, 0.25);
  EXPECT_DOUBLE_EQ(LearningRate(c, 1, 4), 1.625);
  EXPECT_DOUBLE_EQ(LearningRate(c, 2, 4), 1.25);
  EXPECT_DOUBLE_EQ(LearningRate(c, 4, 4), 0.5);
}

TEST(LearningRate, WarmupStableDecay) {
  TrainConfig c = Config(Schedule::kWsd, 5, 0.0);
  c.decay = 0.2;
  EXPECT_DOUBLE_EQ(LearningRate(c, 6, 100), 2.0);
  EXPECT_DOUBLE_EQ(LearningRate(c, 80, 100), 2.0);
  EXPECT_DOUBLE_EQ(LearningRate(c, 90, 100), 1.0);
  EXPECT_NEAR(LearningRate(c, 95, 100), 0.5, 1e-12);
  EXPECT_NEAR(LearningRate(c, 100, 100), 0.0, 1e-12);
}

TEST(LearningRate, WarmupAsLongAsTheRunNeverDivides) {
  for (const Schedule s : {Schedule::kConstant, Schedule::kCosine, Schedule::kLinear, Schedule::kWsd}) {
    TrainConfig c = Config(s, 10, 0.1);
    c.decay = 0;
    for (int64_t step = 1; step <= 10; ++step) {
      EXPECT_DOUBLE_EQ(LearningRate(c, step, 10), 0.2 * static_cast<double>(step));
    }
    c.warmup = 0;
    EXPECT_TRUE(std::isfinite(LearningRate(c, 1, 1)));
  }
}

TEST(LearningRate, ARunMadeLongerKeepsTheRatesOfTheStepsItHasMade) {
  const TrainConfig plain = Config(Schedule::kLinear, 0, 0.0);
  TrainConfig first = plain, second = plain, third = plain;
  first.steps = 10;
  second.steps = 20;
  Lengthen(&second, first, 10);
  EXPECT_EQ(second.lengthened, (std::vector<int64_t>{10, 10}));
  for (int64_t step = 1; step <= 20; ++step) {
    EXPECT_EQ(LearningRate(second, step, 20), LearningRate(plain, step, step <= 10 ? 10 : 20)) << step;
  }
  third.steps = 40;
  Lengthen(&third, second, 15);
  EXPECT_EQ(third.lengthened, (std::vector<int64_t>{10, 10, 15, 20}));
  Lengthen(&third, second, 10);  // no step of the longer plan was made
  EXPECT_EQ(third.lengthened, (std::vector<int64_t>{10, 10}));
  Lengthen(&third, second, 7);
  EXPECT_EQ(third.lengthened, (std::vector<int64_t>{7, 10}));
  second.steps = 40;
  Lengthen(&third, second, 12);  // as long as it was
  EXPECT_EQ(third.lengthened, second.lengthened);
}

}  // namespace
}  // namespace hawser
