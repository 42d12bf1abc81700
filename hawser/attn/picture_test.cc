#include "hawser/attn/picture.h"

#include <gtest/gtest.h>

#include "hawser/base/error.h"

namespace hawser {
namespace {

TEST(Picture, DrawsEachPiece) {
  TokenLayout layout = MakeLayout(1, {6, 3});
  layout.is_separator = {0, 0, 0, 1, 0, 0, 0, 0, 0, 0};
  const AttnSchedule s = CompileSchedule(ParsePattern("scope=doc anchors=1 sinks=1 window=2 sep"), layout);
  EXPECT_EQ(DrawPattern(s, layout),
            "   0  A\n"
            "   1  A #\n"
            "   2  A # #\n"
            "   3, A o # #\n"
            "   4  A o . # #\n"
            "   5  A o . o # #\n"
            "   6  A o . o . # #\n"
            "   7  A . . . . . . #\n"
            "   8  A . . . . . . # #\n"
            "   9  A . . . . . . o # #\n"
            "      A anchor  o pinned (sinks, separators)  # band  . invisible\n");
}

TEST(Picture, ShowsPaddingAndTheLastQueries) {
  TokenLayout layout = MakeLayout(0, {4});
  layout.is_padding = {0, 0, 0, 1};
  const std::string text = DrawPattern(CompileSchedule({}, layout, 2), layout);
  EXPECT_EQ(text.substr(0, text.find("   ", 20)), "   2  # # #\n   3- . . . .\n");
}

TEST(Picture, SvgHoldsThePieces) {
  const TokenLayout layout = MakeLayout(1, {2, 2});
  const std::string svg = DrawPatternSvg(CompileSchedule(ParsePattern("anchor"), layout), layout, "a < b & c");
  EXPECT_TRUE(svg.starts_with("<svg ")) << svg;
  EXPECT_TRUE(svg.ends_with("</svg>\n")) << svg;
  EXPECT_NE(svg.find("a &lt; b &amp; c"), std::string::npos);
  // The anchor's column, five cells of 16.
  EXPECT_NE(
      svg.find(
          "<path class=\"f-pa\" fill=\"#d55e00\" d=\"M0 0h15v15h-15zM0 16h15v15h-15zM0 32h15v15h-15zM0 48h15v15h-15zM0 "
          "64h15v15h-15z\"/>"),
      std::string::npos)
      << svg;
}

TEST(Picture, RefusesWhatNobodyCanRead) {
  const TokenLayout layout = MakeLayout(0, {2000});
  const AttnSchedule s = CompileSchedule({}, layout);
  EXPECT_THROW(DrawPattern(s, layout), Error);
  EXPECT_THROW(DrawPatternSvg(s, layout, ""), Error);
  const TokenLayout most = MakeLayout(0, {kMaxSvgPicture});
  EXPECT_LT(DrawPatternSvg(CompileSchedule(ParsePattern("window=8"), most), most, "").size(), 200000u);
}

}  // namespace
}  // namespace hawser
