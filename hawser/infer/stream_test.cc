#include "hawser/infer/stream.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

/// Feeds `text` in pieces cut at random; every piece that comes out must be whole UTF-8.
std::string Feed(TextStream& stream, std::string_view text, Rng& rng) {
  std::string out;
  while (!text.empty()) {
    const size_t n = std::min<size_t>(text.size(), rng.Below(5));
    const std::string piece = stream.Push(text.substr(0, n));
    EXPECT_TRUE(IsUtf8(piece));
    out += piece;
    text.remove_prefix(n);
  }
  return out + stream.Finish();
}

TEST(TextStream, HoldsCharactersUntilTheyAreWhole) {
  TextStream stream({});
  EXPECT_EQ(stream.Push("a\xE2"), "a");
  EXPECT_EQ(stream.Push("\x82"), "");
  EXPECT_EQ(stream.Push("\xAC!"), "\xE2\x82\xAC!");
  EXPECT_EQ(stream.Push("\xF0\x9F\x98"), "");
  EXPECT_EQ(stream.Finish(), "\xEF\xBF\xBD\xEF\xBF\xBD\xEF\xBF\xBD");
  EXPECT_EQ(stream.Push("\xFFz\x80"), "\xEF\xBF\xBDz\xEF\xBF\xBD");
}

TEST(TextStream, AnyCutOfAnyTextComesOutTheSame) {
  const std::string text = "na\xC3\xAFve \xE2\x82\xAC 100 \xF0\x9F\x98\x80 \xE6\x97\xA5\xE6\x9C\xAC";
  for (uint64_t seed = 0; seed < 2000; ++seed) {
    Rng rng{.seed = seed, .stream = 4};
    TextStream stream({"never", "\xE2\x82\xAC 200"});
    EXPECT_EQ(Feed(stream, text, rng), text);
    EXPECT_FALSE(stream.stopped());
  }
}

TEST(TextStream, EndsInFrontOfTheFirstStop) {
  TextStream stream({"\n\n", "Q:"});
  EXPECT_EQ(stream.Push("one Q"), "one ");
  EXPECT_EQ(stream.Push("uite\n"), "Quite");
  EXPECT_EQ(stream.Push("\nmore"), "");
  EXPECT_TRUE(stream.stopped());
  EXPECT_EQ(stream.Push("even more"), "");
  EXPECT_EQ(stream.Finish(), "");
}

TEST(TextStream, WhatOnlyBeganLikeAStopIsText) {
  TextStream stream({"aab"});
  EXPECT_EQ(stream.Push("aa"), "");
  EXPECT_EQ(stream.Push("a"), "a");
  EXPECT_EQ(stream.Finish(), "aa");
}

TEST(TextStream, StopsMatchASearchOfTheTextSoFar) {
  for (uint64_t seed = 0; seed < 20000; ++seed) {
    Rng rng{.seed = seed, .stream = 5};
    const auto random = [&](uint64_t length) {
      std::string s;
      while (s.size() < length) s += std::array<std::string_view, 3>{"a", "b", "\xC3\xA9"}[rng.Below(3)];
      return s;
    };
    std::vector<std::string> stops(rng.Below(4));
    for (std::string& stop : stops) stop = random(1 + rng.Below(5));
    TextStream stream(stops);
    std::string fed, shown;
    size_t cut = std::string::npos;
    while (fed.size() < 30 && cut == std::string::npos) {
      const std::string piece = random(rng.Below(4));
      fed += piece;
      for (const std::string& stop : stops) cut = std::min(cut, fed.find(stop));
      shown += stream.Push(piece);
      // What is held back is shorter than the longest stop.
      ASSERT_TRUE(fed.substr(0, cut).starts_with(shown)) << seed;
      ASSERT_EQ(stream.stopped(), cut != std::string::npos) << seed;
      if (cut == std::string::npos) {
        ASSERT_LT(fed.size() - shown.size(), 7u);
      }
    }
    shown += stream.Finish();
    ASSERT_EQ(shown, fed.substr(0, cut)) << seed;
  }
}

TEST(TextStream, EmptyStopIsAMistake) { EXPECT_THROW(TextStream({""}), Error); }

}  // namespace
}  // namespace hawser
