#include "hawser/data/windows.h"

#include <gtest/gtest.h>

namespace hawser {
namespace {

// The published code, window 0 left out: for a = 0, delta, ... while a < N - K the tokens [a, a + K + delta) score
// their last delta targets, so target i (a token, predicted by the row before it) sees the tokens from a on.
TEST(ShortWindows, ScoreWhatThePublishedCodeScores) {
  for (int64_t n = 1; n <= 40; ++n) {
    for (int64_t k = 1; k <= 9; ++k) {
      for (int64_t delta = 1; delta <= 9; ++delta) {
        std::vector<int64_t> wanted(static_cast<size_t>(n) + 1, -1), found = wanted;
        for (int64_t a = delta; a < n - k; a += delta) {
          for (int64_t i = a + k; i < std::min(a + k + delta, n); ++i) wanted[i] = a;
        }
        for (const ShortWindow& window : ShortWindows(n, k, delta)) {
          ASSERT_GT(window.length, window.scored);
          ASSERT_LE(window.begin + window.length, n);
          for (int64_t r = window.scored; r < window.length; ++r) {
            const int64_t target = window.begin + r + 1;
            ASSERT_EQ(found[target], -1) << "scored twice";
            ASSERT_GE(target - window.begin, k) << "a context of K tokens at least";
            ASSERT_LE(target - window.begin, k + delta - 1);
            found[target] = window.begin;
          }
        }
        found.pop_back();  // the token behind the document, which the last row would predict
        wanted.pop_back();
        ASSERT_EQ(found, wanted) << n << " " << k << " " << delta;
      }
    }
  }
}

}  // namespace
}  // namespace hawser
