#include "hawser/pos/position_map.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>
#include <set>

#include "hawser/base/error.h"

namespace hawser {
namespace {

std::vector<int64_t> Positions(const std::vector<PlacedRun>& runs) {
  std::vector<int64_t> positions;
  for (const PlacedRun& run : runs) {
    for (int32_t i = 0; i < run.tokens; ++i) positions.push_back(std::ssize(positions) + run.skip);
  }
  return positions;
}

/// The statistic of counts that should be equal; its mean is the number of cells - 1.
double ChiSquare(const std::map<int64_t, int64_t>& counts, int64_t cells, int64_t draws) {
  const double expected = static_cast<double>(draws) / static_cast<double>(cells);
  double sum = static_cast<double>(cells - std::ssize(counts)) * expected;
  for (const auto& [cell, count] : counts) {
    const double off = static_cast<double>(count) - expected;
    sum += off * off / expected;
  }
  return sum;
}

TEST(PositionMap, TextsParseBack) {
  for (const char* text :
       {"", "pose", "pose:window=512", "pose:window=512,chunks=3,text=skip,mask_seam_label=on", "skipalign",
        "skipalign:window=64,points=inner,p=0.25", "skipalign:points=outer", "randpos:window=2048"}) {
    EXPECT_EQ(ToString(ParsePositionMap(text)), text);
  }
  EXPECT_EQ(ParsePositionMap("none"), PositionMap());
  EXPECT_EQ(WindowOf(ParsePositionMap("pose:window=4k")), 4096);
  EXPECT_EQ(WindowOf(ParsePositionMap("none")), 0);
  EXPECT_EQ(ToString(WithWindow(ParsePositionMap("randpos"), 64)), "randpos:window=64");
}

TEST(PositionMap, WrongTextsAreNamed) {
  const std::pair<const char*, const char*> kWrong[] = {{"posse", "did you mean 'pose'?"},
                                                        {"pose:chunk=2", "did you mean 'chunks'?"},
                                                        {"pose:points=inner", "pose has no 'points'"},
                                                        {"randpos:chunks=2", "randpos has no 'chunks'"},
                                                        {"none:window=4", "none takes no options"},
                                                        {"pose:window=-1", "window='-1'; wanted a whole number from 0"},
                                                        {"pose:chunks=0", "wanted a whole number from 1"},
                                                        {"pose:chunks=1e99", "chunks='1e99'"},
                                                        {"pose:window=8,window=9", "'window' is given twice"},
                                                        {"pose:text=jump", "known: next, skip"},
                                                        {"pose:mask_seam_label=maybe", "known: off, on"},
                                                        {"skipalign:points=both", "known: inner, outer, all"},
                                                        {"skipalign:p=1.5", "wanted a number from 0 to 1"},
                                                        {"skipalign:p=nan", "wanted a number from 0 to 1"}};
  for (const auto& [text, reason] : kWrong) {
    try {
      ParsePositionMap(text);
      ADD_FAILURE() << text << " was taken";
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      EXPECT_NE(std::string(error.what()).find(reason), std::string::npos) << error.what();
    }
  }
}

TEST(PositionMap, RunsCoverTheTextAndNeverFall) {
  Rng sizes{5};
  for (const char* text : {"pose", "pose:chunks=1", "pose:chunks=3", "pose:chunks=1000", "skipalign",
                           "skipalign:points=inner,p=0.5", "skipalign:points=outer", "randpos"}) {
    const PositionMap map = ParsePositionMap(text);
    for (uint64_t number = 0; number < 400; ++number) {
      std::vector<TextBlock> blocks(std::holds_alternative<SkipAlign>(map) ? 1 + sizes.Below(6) : 1);
      int32_t tokens = 0;
      for (size_t b = 0; b < blocks.size(); ++b) {
        blocks[b] = {static_cast<int32_t>(1 + sizes.Below(20)), b % 2 == 1};
        tokens += blocks[b].tokens;
      }
      const auto room = static_cast<int64_t>(sizes.Below(number % 4 == 0 ? 1 : 50));
      Rng rng{number}, again{number};
      const std::vector<PlacedRun> runs = DrawRuns(map, blocks, room, &rng);
      const std::vector<int64_t> positions = Positions(runs);
      ASSERT_EQ(std::ssize(positions), tokens) << text;
      ASSERT_EQ(positions, Positions(DrawRuns(map, blocks, room, &again))) << "a draw is that of its seed";
      if (!std::holds_alternative<RandPos>(map)) {
        ASSERT_EQ(positions[0], 0) << text;
      }
      for (size_t i = 1; i < positions.size(); ++i) ASSERT_GT(positions[i], positions[i - 1]) << text;
      ASSERT_LT(positions.back(), tokens + room) << text;
      if (room == 0) {
        ASSERT_EQ(positions.back(), tokens - 1) << text;
      }
      if (map == PositionMap(Pose{.chunks = 1})) {
        ASSERT_EQ(positions.back(), tokens - 1) << "one chunk stays where it is";
      }
    }
  }
}

TEST(PositionMap, PoseDrawsItsSkipEvenlyAndShowsEveryDistance) {
  constexpr int32_t kTokens = 8;
  constexpr int64_t kReach = 32, kDraws = 20000;
  std::map<int64_t, int64_t> skips, firsts;
  std::set<int64_t> distances;
  Rng rng{1};
  const TextBlock text{kTokens};
  for (int64_t draw = 0; draw < kDraws; ++draw) {
    const std::vector<PlacedRun> runs = DrawRuns(ParsePositionMap("pose"), {&text, 1}, kReach - kTokens, &rng);
    ASSERT_EQ(runs.size(), 2u);
    ++skips[runs[1].skip];
    ++firsts[runs[0].tokens];
    const std::vector<int64_t> positions = Positions(runs);
    for (size_t q = 0; q < positions.size(); ++q) {
      for (size_t k = 0; k < q; ++k) distances.insert(positions[q] - positions[k]);
    }
  }
  // Mean 24 and 3; the standard deviation is sqrt(2 * 24), sqrt(2 * 3).
  EXPECT_LT(ChiSquare(skips, kReach - kTokens + 1, kDraws), 24 + 5 * 7);
  EXPECT_EQ(firsts.rbegin()->first, kTokens / 2) << "the first chunk is the shorter one";
  EXPECT_LT(ChiSquare(firsts, kTokens / 2, kDraws), 3 + 5 * 2.5);
  EXPECT_EQ(std::ssize(distances), kReach - 1);
  EXPECT_EQ(*distances.rbegin(), kReach - 1);
}

TEST(PositionMap, ThreeChunksAreCutAnywhere) {
  Rng rng{2};
  std::map<int64_t, int64_t> cuts;
  constexpr int64_t kDraws = 20000;
  for (int64_t draw = 0; draw < kDraws; ++draw) {
    const std::vector<int32_t> lengths = DrawChunks(3, 6, &rng);
    ASSERT_EQ(lengths.size(), 3u);
    ASSERT_EQ(std::accumulate(lengths.begin(), lengths.end(), 0), 6);
    ++cuts[lengths[0] * 10 + lengths[1]];
  }
  EXPECT_LT(ChiSquare(cuts, 10, kDraws), 9 + 5 * 4.3);  // (5 choose 2) ways
  EXPECT_EQ(DrawChunks(3, 2, &rng).size(), 2u);
  EXPECT_EQ(DrawChunks(3, 1, &rng), std::vector<int32_t>{1});
}

TEST(PositionMap, RandomPlacesAreEverySetAlike) {
  Rng rng{3};
  std::map<int64_t, int64_t> sets;
  constexpr int64_t kDraws = 20000;
  const TextBlock text{3};
  for (int64_t draw = 0; draw < kDraws; ++draw) {
    const std::vector<int64_t> p = Positions(DrawRuns(ParsePositionMap("randpos"), {&text, 1}, 3, &rng));
    ++sets[p[0] * 100 + p[1] * 10 + p[2]];
  }
  EXPECT_LT(ChiSquare(sets, 20, kDraws), 19 + 5 * 6.2);  // (6 choose 3)
}

TEST(PositionMap, SkipAlignSkipsBetweenBlocksAlone) {
  const std::vector<TextBlock> talk = {{3, false}, {2, true}, {4, false}, {1, true}};
  const auto starts = [&](const char* text) {
    std::set<int64_t> seen;  // tokens that a skip lies before
    Rng rng{4};
    for (int draw = 0; draw < 300; ++draw) {
      const std::vector<int64_t> p = Positions(DrawRuns(ParsePositionMap(text), talk, 90, &rng));
      for (size_t i = 1; i < p.size(); ++i) {
        if (p[i] != p[i - 1] + 1) seen.insert(static_cast<int64_t>(i));
      }
    }
    return seen;
  };
  EXPECT_EQ(starts("skipalign:points=inner"), (std::set<int64_t>{3, 9})) << "before responses";
  EXPECT_EQ(starts("skipalign:points=outer"), (std::set<int64_t>{5})) << "before the next instruction";
  EXPECT_EQ(starts("skipalign"), (std::set<int64_t>{3, 5, 9}));
  EXPECT_TRUE(starts("skipalign:p=0").empty());

  Rng rng{4};
  const std::vector<TextBlock> single = {{3, false}, {2, true}};
  for (const PlacedRun& run : DrawRuns(ParsePositionMap("skipalign:points=outer"), single, 90, &rng)) {
    EXPECT_EQ(run.skip, 0) << "a single turn has no outer point";
  }
}

TEST(PositionMap, HelpNamesEveryMapAndField) {
  const std::string help = FormHelp<PositionMap>();
  for (const char* word : {"pose", "skipalign", "randpos", "mask_seam_label", "points", "chunks"}) {
    EXPECT_NE(help.find(word), std::string::npos) << word;
  }
}

}  // namespace
}  // namespace hawser
