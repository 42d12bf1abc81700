#include "hawser/pos/segments.h"

#include <gtest/gtest.h>

#include <string>

namespace hawser {
namespace {

TEST(Segments, SeparatorsCloseTheSegmentTheyBelongTo) {
  const std::string text = "ab,c.def,g";
  const SegmentSpec spec{.places = 16, .separators = {',', '.'}};
  std::string places, segments;
  SegmentCounter counter;
  for (const char c : text) {
    places += std::to_string(counter.place);
    segments += std::to_string(counter.segment);
    counter.Pass(spec, c);
  }
  EXPECT_EQ(places, "0120101230");
  EXPECT_EQ(segments, "0001122223");
}

TEST(Segments, RowsEndWithTheTable) {
  const SegmentSpec spec{.places = 3, .separators = {7}};
  SegmentCounter counter;
  std::string rows;
  for (const int token : {1, 1, 1, 1, 1, 7, 1, 7, 7}) {
    rows += std::to_string(counter.Row(spec));
    counter.Pass(spec, token);
  }
  EXPECT_EQ(rows, "012222010");
  EXPECT_EQ(counter.segment, 3);
}

}  // namespace
}  // namespace hawser
