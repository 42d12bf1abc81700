#include "hawser/eval/plot.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "hawser/base/rng.h"

namespace hawser {
namespace {

/// Every tag is closed in order, attributes are quoted, and no number went wrong.
void ExpectWellFormed(const std::string& svg) {
  std::vector<std::string> open;
  for (size_t at = svg.find('<'); at != svg.npos; at = svg.find('<', at)) {
    const size_t end = svg.find('>', at);
    ASSERT_NE(end, svg.npos);
    const std::string tag = svg.substr(at + 1, end - at - 1);
    EXPECT_EQ(std::count(tag.begin(), tag.end(), '"') % 2, 0) << tag;
    const std::string name = tag.substr(0, tag.find_first_of(" /", 1));
    if (tag.front() == '/') {
      ASSERT_FALSE(open.empty());
      EXPECT_EQ("/" + open.back(), tag);
      open.pop_back();
    } else if (tag.back() != '/') {
      open.push_back(name);
    }
    at = end;
  }
  EXPECT_TRUE(open.empty());
  for (const char* bad : {"nan", "inf", "<script", "href"}) EXPECT_EQ(svg.find(bad), svg.npos) << bad;
}

size_t Count(const std::string& text, const std::string& part) {
  size_t count = 0;
  for (size_t at = text.find(part); at != text.npos; at = text.find(part, at + 1)) ++count;
  return count;
}

TEST(AxisTest, LinearTicksAreRoundNumbersInRange) {
  EXPECT_EQ(AxisTicks(AxisScale::kLinear, 0, 10, 5), (std::vector<double>{0, 2, 4, 6, 8, 10}));
  EXPECT_EQ(AxisTicks(AxisScale::kLinear, -3, 41, 4), (std::vector<double>{0, 20, 40}));
  Rng rng{.seed = 1};
  for (int i = 0; i < 1000; ++i) {
    const double low = (rng.Uniform() - 0.5) * std::pow(10, rng.Uniform() * 12 - 6);
    const double high = low + std::pow(10, rng.Uniform() * 12 - 6);
    const auto ticks = AxisTicks(AxisScale::kLinear, low, high, 5);
    ASSERT_GE(ticks.size(), 1u);
    ASSERT_LE(ticks.size(), 6u);
    for (const double t : ticks) {
      EXPECT_GE(t, low - 1e-6 * (high - low));
      EXPECT_LE(t, high + 1e-6 * (high - low));
    }
  }
}

TEST(AxisTest, LogTicks) {
  EXPECT_EQ(AxisTicks(AxisScale::kLog2, 1, 4096, 12),
            (std::vector<double>{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096}));
  EXPECT_EQ(AxisTicks(AxisScale::kLog2, 3, 5000, 6), (std::vector<double>{4, 16, 64, 256, 1024, 4096}));
  EXPECT_EQ(AxisTicks(AxisScale::kLog10, 30, 300, 5), (std::vector<double>{50, 100, 200}));
  const auto decades = AxisTicks(AxisScale::kLog10, 0.5, 2e6, 10);
  ASSERT_EQ(decades.size(), 7u);
  EXPECT_NEAR(decades[0], 1, 1e-12);
  EXPECT_NEAR(decades[6], 1e6, 1e-6);
  EXPECT_GE(AxisTicks(AxisScale::kLog10, 40, 43, 4).size(), 2u) << "plain steps inside a decade";
  EXPECT_TRUE(AxisTicks(AxisScale::kLog10, 0, 1, 5).empty());
  EXPECT_TRUE(AxisTicks(AxisScale::kLinear, 1, 1, 5).empty());
  EXPECT_TRUE(AxisTicks(AxisScale::kLinear, 0, std::numeric_limits<double>::infinity(), 5).empty());
}

TEST(AxisTest, Labels) {
  EXPECT_EQ(TickLabel(AxisScale::kLinear, 0.05), "0.05");
  EXPECT_EQ(TickLabel(AxisScale::kLinear, -0.0), "0");
  EXPECT_EQ(TickLabel(AxisScale::kLinear, 2500), "2500");
  EXPECT_EQ(TickLabel(AxisScale::kLinear, 12500), "12.5k");
  EXPECT_EQ(TickLabel(AxisScale::kLog10, 3.5e6), "3.5M");
  EXPECT_EQ(TickLabel(AxisScale::kLinear, 1e-7), "1e-07");
  EXPECT_EQ(TickLabel(AxisScale::kLog2, 512), "512");
  EXPECT_EQ(TickLabel(AxisScale::kLog2, 4096), "4K");
  EXPECT_EQ(TickLabel(AxisScale::kLog2, 1536), "1.5K");
  EXPECT_EQ(TickLabel(AxisScale::kLog2, 0x1p21), "2M");
}

TEST(PlotTest, LinesAreDrawnEachWithItsName) {
  LinePlot plot{.title = "T", .x = {"x", AxisScale::kLog2}, .y = {"y", AxisScale::kLog10}, .marks = {{8, "here"}}};
  plot.series = {{.name = "one", .x = {1, 2, 4, 8, 16}, .y = {5, 4, 3, 2, 1}},
                 {.name = "two", .x = {1, 16}, .y = {1, 1000}, .dashed = true}};
  const std::string svg = RenderSvg(plot);
  ExpectWellFormed(svg);
  EXPECT_EQ(Count(svg, "<path"), 2u);
  EXPECT_EQ(Count(svg, "<circle"), 7u);
  for (const char* text : {">one<", ">two<", ">here<", ">16<", "one, 4: 3.000"})
    EXPECT_EQ(Count(svg, text), 1u) << text;
  EXPECT_EQ(svg, RenderSvg(plot));
}

TEST(PlotTest, GapsOddValuesAndTextSurvive) {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  LinePlot plot{.title = "a<b & \"c\"\n", .x = {"x"}, .y = {"y"}};
  plot.series = {{.name = "<s>", .x = {1, 2, 3, 4, 5, 6}, .y = {1, nan, 3, inf, 1e300, -1e300}}};
  ExpectWellFormed(RenderSvg(plot));
  EXPECT_EQ(Count(RenderSvg(plot), "M"), 3u) << "three runs between the gaps";
  plot.y.scale = AxisScale::kLog10;
  ExpectWellFormed(RenderSvg(plot));
  plot.y.min = 0.5, plot.y.max = 5;
  ExpectWellFormed(RenderSvg(plot));
  plot.series = {{.name = "flat", .x = {3, 3}, .y = {7, 7}}};
  ExpectWellFormed(RenderSvg(plot));
  plot.series.clear();
  ExpectWellFormed(RenderSvg(plot));
  EXPECT_EQ(Count(RenderSvg(plot), "no data"), 1u);
  EXPECT_EQ(EscapeXml("a<b & \"c'\x01"), "a&lt;b &amp; &quot;c&#39;");
}

TEST(PlotTest, BarsStandOnTheBaseline) {
  BarPlot plot{.title = "T", .y = {"s"}, .groups = {"a", "b"}, .series = {{"one", {2, 4}}, {"two", {1, std::nan("")}}}};
  for (const AxisScale scale : {AxisScale::kLinear, AxisScale::kLog10}) {
    plot.y.scale = scale;
    const std::string svg = RenderSvg(plot);
    ExpectWellFormed(svg);
    EXPECT_EQ(Count(svg, "rx=\"1.5\""), 3u);
    EXPECT_EQ(Count(svg, ">a<"), 1u);
  }
  plot.y.scale = AxisScale::kLinear;
  plot.series = {{"", {-2, 3}}};
  ExpectWellFormed(RenderSvg(plot));
  ExpectWellFormed(RenderSvg(BarPlot{.title = "T"}));
}

}  // namespace
}  // namespace hawser
