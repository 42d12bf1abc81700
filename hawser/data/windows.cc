#include "hawser/data/windows.h"

#include <algorithm>

#include "hawser/base/error.h"

namespace hawser {

std::vector<ShortWindow> ShortWindows(int64_t rows, int64_t k, int64_t delta) {
  HAWSER_CHECK(k >= 1 && delta >= 1);
  std::vector<ShortWindow> windows;
  for (int64_t begin = delta; begin + k <= rows; begin += delta) {
    windows.push_back({begin, std::min(k + delta - 1, rows - begin), k - 1});
  }
  return windows;
}

}  // namespace hawser
