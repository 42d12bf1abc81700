#include "hawser/pos/alibi.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "hawser/base/error.h"
#include "hawser/pos/alibi_golden.h"
#include "hawser/pos/scheme.h"
#include "hawser/testing/hostile.h"

namespace hawser {
namespace {

TEST(AlibiTest, SlopesOfTheVectors) {
  for (const testing::AlibiGolden& golden : testing::kAlibiGolden) {
    const bool scaled = golden.factor > 1;
    const std::vector<float> slopes = AlibiSlopes(
        {.scaling = scaled ? AlibiScaling::kNtk : AlibiScaling::kNone, .factor = golden.factor}, golden.heads);
    ASSERT_EQ(slopes.size(), golden.slopes.size());
    for (size_t h = 0; h < slopes.size(); ++h) {
      EXPECT_NEAR(slopes[h], golden.slopes[h], 6.1e-8 * golden.slopes[h]) << golden.heads << " " << golden.factor;
    }
  }
}

// The other way to write the slopes down: those of the next power of two, odd ones first (MPT).
TEST(AlibiTest, AnyNumberOfHeadsAsMptOrdersThem) {
  for (const double max_bias : {8.0, 6.0, 16.0}) {
    for (int heads = 1; heads <= 128; ++heads) {
      int power = 1;
      while (power < heads) power *= 2;
      std::vector<double> logs;
      if (power == heads) {
        for (int k = 1; k <= power; ++k) logs.push_back(max_bias * k / power);
      } else {
        for (int k = 2; k <= power; k += 2) logs.push_back(max_bias * k / power);
        for (int k = 1; k <= power; k += 2) logs.push_back(max_bias * k / power);
        logs.resize(static_cast<size_t>(heads));
      }
      const std::vector<float> slopes = AlibiSlopes({.max_bias = max_bias}, heads);
      for (size_t h = 0; h < slopes.size(); ++h) {
        EXPECT_EQ(slopes[h], static_cast<float>(std::exp2(-logs[h]))) << heads << " heads, head " << h;
      }
    }
  }
}

TEST(AlibiTest, ScalingsKeepWhatTheyPromise) {
  for (int heads = 2; heads <= 112; ++heads) {
    const std::vector<float> plain = AlibiSlopes({}, heads);
    for (const double factor : {1.0, 2.0, 7.5, 1e6}) {
      const auto scaled = [&](AlibiScaling scaling) {
        return AlibiSlopes({.scaling = scaling, .factor = factor}, heads);
      };
      const std::vector<float> linear = scaled(AlibiScaling::kLinear), ntk = scaled(AlibiScaling::kNtk),
                               bmax = scaled(AlibiScaling::kMaxBias);
      const auto steepest = std::max_element(plain.begin(), plain.end()) - plain.begin();
      const auto flattest = std::min_element(plain.begin(), plain.end()) - plain.begin();
      EXPECT_EQ(ntk[steepest], plain[steepest]);
      EXPECT_FLOAT_EQ(static_cast<float>(ntk[flattest] * factor), plain[flattest]);
      for (int h = 0; h < heads; ++h) {
        EXPECT_FLOAT_EQ(static_cast<float>(linear[h] * factor), plain[h]);
        if (factor == 1) {
          EXPECT_FLOAT_EQ(ntk[h], plain[h]);
          EXPECT_EQ(bmax[h], plain[h]);
        }
        for (int other = 0; other < heads; ++other) {
          if (plain[h] < plain[other]) {
            EXPECT_LT(ntk[h], ntk[other]);
          }
        }
      }
      if ((heads & (heads - 1)) == 0) {
        EXPECT_NEAR(bmax[heads - 1] * factor, plain[heads - 1], 1e-6 * plain[heads - 1]);
      }
    }
  }
  const AlibiSpec four{.scaling = AlibiScaling::kMaxBias, .factor = 4, .multiplier = 0.125};
  EXPECT_EQ(BakeMaxBias(four), (AlibiSpec{.max_bias = 10, .multiplier = 0.125}));
  EXPECT_EQ(AlibiSlopes(four, 12), AlibiSlopes(BakeMaxBias(four), 12));
  EXPECT_EQ(AlibiSlopes(four, 2)[0], 0.125f * AlibiSlopes({.max_bias = 10}, 2)[0]);
}

TEST(AlibiTest, Texts) {
  const auto parse = [](const std::string& text, int64_t wanted = 0) { return ApplyAlibiText({}, text, 256, wanted); };
  EXPECT_EQ(parse("alibi"), AlibiSpec());
  EXPECT_EQ(parse("alibi:none"), AlibiSpec());
  EXPECT_EQ(parse("alibi:linear,factor=4"),
            (AlibiSpec{.scaling = AlibiScaling::kLinear, .factor = 4, .original = 256}));
  EXPECT_EQ(parse("alibi:factor=4, ntk, original=2K"),
            (AlibiSpec{.scaling = AlibiScaling::kNtk, .factor = 4, .original = 2048}));
  EXPECT_EQ(parse("alibi:bmax,factor=2,max_bias=16").max_bias, 16);
  EXPECT_EQ(parse("alibi:ntk", 1024).factor, 4);
  for (const char* text : {"alibi", "alibi:max_bias=6", "alibi:linear,factor=4,original=256",
                           "alibi:ntk,factor=2.5,original=100,max_bias=16", "alibi:bmax,factor=8,original=2048",
                           "alibi:ntk,factor=4,original=256,multiplier=0.125"}) {
    EXPECT_EQ(ToString(parse(text)), text);
    EXPECT_EQ(parse(ToString(parse(text))), parse(text));
  }
  // A scaled model keeps its first context and the rest of what it is.
  const AlibiSpec scaled = ApplyAlibiText({.max_bias = 6, .multiplier = 0.5}, "alibi:ntk,factor=4", 256);
  EXPECT_EQ(
      ApplyAlibiText(scaled, "alibi:linear", 1024, 2048),
      (AlibiSpec{.max_bias = 6, .scaling = AlibiScaling::kLinear, .factor = 8, .original = 256, .multiplier = 0.5}));
  EXPECT_EQ(ApplyAlibiText(scaled, "alibi", 1024), (AlibiSpec{.max_bias = 6, .multiplier = 0.5}));
  EXPECT_EQ(MaxContext(scaled, 1024), 1024);
  EXPECT_EQ(OriginalContext(scaled, 1024), 256);
  EXPECT_EQ(MaxContext(AlibiSpec(), 300), 300);
}

TEST(AlibiTest, WrongTextsAndNumbersAreNamed) {
  const auto message = [](const std::string& text) { return UsageMessage([&] { ApplyAlibiText({}, text, 256); }); };
  EXPECT_NE(message("yarn:factor=8").find("no rotary positions"), std::string::npos);
  EXPECT_NE(message("theta=5e6").find("no rotary positions"), std::string::npos);
  EXPECT_NE(message("alibi:ntc,factor=2").find("did you mean 'ntk'"), std::string::npos)
      << message("alibi:ntc,factor=2");
  EXPECT_NE(message("alibi:ntk,facter=2").find("did you mean 'factor'"), std::string::npos);
  EXPECT_NE(message("alibi:ntk,linear,factor=2").find("'linear'"), std::string::npos);
  EXPECT_NE(message("alibi:ntk,factor=2,factor=3").find("twice"), std::string::npos);
  EXPECT_NE(message("alibi:factor=2").find("needs a scaling"), std::string::npos);
  EXPECT_NE(message("alibi:none,original=256").find("needs a scaling"), std::string::npos);
  EXPECT_NE(message("alibi:ntk").find("needs a factor"), std::string::npos);
  EXPECT_NE(message("alibi:ntk,factor=0.5").find("factor=0.5; wanted 1 or more"), std::string::npos);
  EXPECT_NE(message("alibi:ntk,factor=inf").find("wanted a number"), std::string::npos);
  EXPECT_NE(message("alibi:ntk,factor=").find("wanted a number"), std::string::npos);
  EXPECT_NE(message("alibi:ntk,factor=2,original=0").find("wanted a whole number from 1 on"), std::string::npos);
  EXPECT_NE(message("alibi:max_bias=-8").find("max_bias"), std::string::npos);
  EXPECT_NE(message("alibi:max_bias=0").find("max_bias"), std::string::npos);
  EXPECT_NE(message("alibi:multiplier=0").find("multiplier"), std::string::npos);
  // A rotary model is told the same the other way round.
  EXPECT_NE(UsageMessage([] { ApplyRopeText({.rotary_dim = 8}, "alibi:ntk,factor=4", 256); }).find("rotary positions"),
            std::string::npos);
  EXPECT_NE(UsageMessage([] { AlibiSlopes({}, 0); }).find("0 heads"), std::string::npos);
  EXPECT_NE(UsageMessage([] { AlibiSlopes({.scaling = AlibiScaling::kNtk, .factor = 2}, 1); }).find("2 or more"),
            std::string::npos);
  EXPECT_NE(UsageMessage([] { AlibiSlopes({.factor = std::numeric_limits<double>::quiet_NaN()}, 4); }).find("factor"),
            std::string::npos);
}

}  // namespace
}  // namespace hawser
