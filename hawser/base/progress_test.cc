#include "hawser/base/progress.h"

#include <gtest/gtest.h>

#include <string>

namespace hawser {
namespace {

class Progress : public ::testing::Test {
 protected:
  void TearDown() override {
    SetProgressSeconds(10);
    SetQuiet(false);
  }
  static std::string Run() {
    ::testing::internal::CaptureStderr();
    {
      ProgressBar bar("train", 40, 8);
      bar.Update(10, "loss 2.5");
      LogLine("step 10 validation loss 2.4");
      bar.Update(40);
    }
    return ::testing::internal::GetCapturedStderr();
  }
};

TEST_F(Progress, LinesWhereThereIsNoTerminal) {
  SetProgressSeconds(1e-9);
  const std::string text = Run();
  EXPECT_EQ(text,
            "train: 10 of 40 (25 %), loss 2.5, 0:00 left\n"
            "step 10 validation loss 2.4\n"
            "train: 40 of 40 (100 %), 0:00 left\n");
}

TEST_F(Progress, NotMoreOftenThanEveryFewSeconds) {
  SetProgressSeconds(3600);
  EXPECT_EQ(Run(), "step 10 validation loss 2.4\n");
  SetProgressSeconds(0);
  EXPECT_EQ(Run(), "step 10 validation loss 2.4\n");
}

TEST_F(Progress, NothingWhileQuiet) {
  SetProgressSeconds(1e-9);
  SetQuiet(true);
  EXPECT_EQ(Run(), "");
}

}  // namespace
}  // namespace hawser
