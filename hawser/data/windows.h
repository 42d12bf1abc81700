// data/windows.h - a document in windows of K + delta tokens, in each of which the last delta are predicted from K to
// K + delta - 1 tokens before them: what a model knows without the far context (arXiv:2410.23771).
#pragma once

#include <cstdint>
#include <vector>

namespace hawser {

/// Rows [begin, begin + length) of a document; those from `scored` on (counted from `begin`) predict.
struct ShortWindow {
  int64_t begin = 0, length = 0, scored = 0;
};

/// Of a document of `rows`, row r of which predicts token r + 1: windows begin at delta, 2 delta, ... as long as one
/// row is left to score. The window at 0, whose context is the whole text, is left out, so the first K + delta - 1 rows
/// are scored by none, and every other row by one. k, delta >= 1.
std::vector<ShortWindow> ShortWindows(int64_t rows, int64_t k, int64_t delta);

}  // namespace hawser
