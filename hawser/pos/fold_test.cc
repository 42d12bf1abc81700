#include "hawser/pos/fold.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/pos/scheme.h"

namespace hawser {
namespace {

RopeSpec Folded(const std::string& text, int64_t context = 8192, int64_t wanted = 0) {
  return ApplyRopeText({.rotary_dim = 64}, text, context, wanted);
}

std::string FoldError(const std::string& text, int64_t context = 8192, int64_t wanted = 0) {
  try {
    Folded(text, context, wanted);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "took it";
}

TEST(Fold, PublishedDistances) {
  const RopeFold llama = Folded("string:shift=43253,window=128", 131072).fold;
  EXPECT_EQ(llama.Distance(43252), 43252);
  EXPECT_EQ(llama.Distance(43253), 128);
  EXPECT_EQ(llama.Distance(131071), 87946);
  const auto last_row = [](int64_t window) {
    const RopeFold fold{.shift = 3, .window = window};
    std::vector<int64_t> row;
    for (int64_t key = 0; key < 9; ++key) row.push_back(fold.Distance(8 - key));
    return row;
  };
  EXPECT_EQ(last_row(0), (std::vector<int64_t>{5, 4, 3, 2, 1, 0, 2, 1, 0}));
  EXPECT_EQ(last_row(1), (std::vector<int64_t>{6, 5, 4, 3, 2, 1, 2, 1, 0}));
}

TEST(Fold, TheFarQueryStandsAtTheFoldedDistance) {
  const RopeFold fold{.shift = 7, .window = 2};
  for (int64_t query = 0; query < 40; ++query) {
    for (int64_t key = 0; key <= query - fold.shift; ++key) {
      EXPECT_EQ(fold.FarPosition(query) - key, fold.Distance(query - key));
    }
  }
}

TEST(Fold, TextsComeBack) {
  for (const auto& [text, want] : std::vector<std::pair<std::string, std::string>>{
           {"string:shift=2730,window=128", "default,string:shift=2730"},
           {"string", "default,string:shift=2730"},
           {"string:window=512", "default,string:shift=2730,window=512"},
           {"string:window=3k", "default,string:shift=3072,window=3072"},
           {"string:shift=100", "default,string:shift=100,window=100"},
           {"string:shift=2k,window=0,temperature=1", "default,string:shift=2048,window=0,temperature=1"},
           {"yarn:factor=2, string:shift=4k,window=128", "yarn:factor=2,original=8192,string:shift=4096"},
           {"yarn:factor=2,string", "yarn:factor=2,original=8192,string:shift=5461"},
           {"theta=5e5,string:shift=2000", "default:theta=500000,string:shift=2000"},
           {"string:shift=0,window=9", "default"}}) {
    const RopeSpec spec = Folded(text);
    EXPECT_EQ(ToString(spec), want);
    EXPECT_EQ(Folded(ToString(spec)), spec) << text;
  }
}

TEST(Fold, QueriesMayGrowToo) {
  const RopeSpec spec = Folded("eabf,string:shift=2000,temperature=1");
  EXPECT_TRUE(spec.query_scale);
  EXPECT_EQ(Folded(ToString(spec)), spec) << ToString(spec);
}

TEST(Fold, IsOnTopOfTheBaseOrGone) {
  const RopeSpec yarn = ApplyRopeText({.rotary_dim = 64}, "yarn:factor=4,original=2048", 8192);
  const RopeSpec folded = ApplyRopeText(yarn, "string:shift=1000", 8192);
  EXPECT_EQ(folded.scaling, yarn.scaling);
  EXPECT_TRUE(folded.fold.active());
  EXPECT_TRUE(ApplyRopeText(folded, "theta=5e5", 8192).fold.active());
  EXPECT_FALSE(ApplyRopeText(folded, "default", 8192).fold.active());
  EXPECT_FALSE(ApplyRopeText(folded, "string:shift=0", 8192).fold.active());
  EXPECT_EQ(ApplyRopeText(folded, "string:shift=0", 8192).scaling, yarn.scaling);
}

TEST(Fold, ReachesAsManyTokensMoreAsItTakesFromDistances) {
  EXPECT_EQ(MaxContext(Folded("string:shift=4000,window=100"), 8192), 8192 + 3900);
  EXPECT_EQ(MaxContext(Folded("yarn:factor=2,string:shift=4000,window=100"), 8192), 16384 + 3900);
  const RopeFold far = Folded("string", 8192, 12288).fold;  // a third would not do
  EXPECT_EQ(far.shift, 12288 - 8192 + 128);
  EXPECT_EQ(Folded("string", 8192, 9000).fold.shift, 2730);
  // A factor that is left out is as small as the fold allows.
  const RopeSpec scaled = Folded("yarn,string:shift=4224,window=128", 8192, 20480);
  EXPECT_EQ(MaxContext(scaled, 8192), 20480);
  EXPECT_EQ(scaled.scaling.factor, 2.0);
}

TEST(Fold, TheTemperatureMultipliesRotations) {
  const double plain = ComputeFrequencies(Folded("yarn:factor=4"), 1).multiplier;
  EXPECT_DOUBLE_EQ(ComputeFrequencies(Folded("yarn:factor=4,string"), 1).multiplier, plain * 1.0693147180559945);
  EXPECT_EQ(ComputeFrequencies(Folded("string:temperature=1"), 1).multiplier, 1.0);
  EXPECT_EQ(ComputeFrequencies(Folded("string"), 1).turns, ComputeFrequencies(Folded("default"), 1).turns);
}

TEST(Fold, WhatIsRefusedByName) {
  for (const auto& [text, want] : std::vector<std::pair<std::string, std::string>>{
           {"string:shift=100,window=101", "window=101; wanted from 0 to the shift of 100"},
           {"string:shift=8192", "shift=8192 must be less than the 8192 tokens"},
           {"string:shift=-1", "shift='-1'"},
           {"string:shift=1.5", "shift='1.5'"},
           {"string:window=", "window=''"},
           {"string:shift=9,shift=9", "twice"},
           {"string:temperature=0", "temperature='0'; wanted a number from 0.001 to 1000"},
           {"string:temperature=nan", "wanted a number"},
           {"string:shfit=9", "did you mean 'shift'"},
           {"string:temperature=1e30", "wanted a number from 0.001 to 1000"},
           {"string:window=9k", "shift=9216 must be less than the 8192 tokens"},
           {"string:shift=9,yarn:factor=2", "string stands behind the scheme, and once"},
           {"string:shift=9,string:shift=8", "string stands behind the scheme, and once"},
           {"string,string", "string stands behind the scheme, and once"},
           {"dynamic:factor=2,string", "those of dynamic follow the tokens"},
           {"strnig", "string, theta=B"},
           {"eabf,string", "give temperature=1"},
           {"yarn,string", "yarn needs a factor"}}) {
    EXPECT_NE(FoldError(text).find(want), std::string::npos) << text << ": " << FoldError(text);
  }
  EXPECT_NE(FoldError("string", 8192, 16384).find("scale too"), std::string::npos);
  EXPECT_NE(FoldError("string", 0).find("needs a shift"), std::string::npos);
  const RopeSpec dynamic = ApplyRopeText({.rotary_dim = 64}, "dynamic:factor=2", 8192);
  EXPECT_THROW(ApplyRopeText(dynamic, "string", 8192), Error);
}

}  // namespace
}  // namespace hawser
