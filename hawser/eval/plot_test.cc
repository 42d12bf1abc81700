#include "hawser/eval/plot.h"

#include <gtest/gtest.h>

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <set>

#include "hawser/base/rng.h"
#include "hawser/eval/plot_canvas.h"

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

/// The path elements of series `i`.
std::string PathOf(const std::string& svg, size_t i) {
  std::string paths;
  const std::string start = fmt::format("<path{}", SvgStroke(SvgSeriesColors()[i]));
  for (size_t at = svg.find(start); at != svg.npos; at = svg.find(start, at + 1)) {
    paths += svg.substr(at, svg.find("/>", at) + 3 - at);
  }
  return paths;
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
  EXPECT_TRUE(AxisTicks(AxisScale::kLinear, 1e17, 1e17 + 64, 5).empty()) << "one more step is no step there";
  EXPECT_LE(AxisTicks(AxisScale::kLinear, -1e300, 1e300, 5).size(), 6u);
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
  EXPECT_EQ(Count(svg, "<circle"), 5u + 1u) << "points and the legend";
  EXPECT_EQ(Count(svg, "<polygon"), 2u + 1u) << "each series has a shape of its own";
  for (const char* text : {">one<", ">two<", ">here<", ">16<", "one, 4: 3.000"})
    EXPECT_EQ(Count(svg, text), 1u) << text;
  EXPECT_EQ(svg, RenderSvg(plot));
}

TEST(PlotTest, GapsOddValuesAndTextSurvive) {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  LinePlot plot{.title = "a<b & \"c\"\n", .x = {"x"}, .y = {"y"}};
  plot.series = {{.name = "<s>", .x = {1, 2, 3, 4, 5, 6}, .y = {1, nan, 3, inf, 1e300, -1e300}}};
  ExpectWellFormed(RenderSvg(plot));
  EXPECT_EQ(Count(PathOf(RenderSvg(plot), 0), "M"), 3u) << "three runs between the gaps";
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
  EXPECT_EQ(EscapeXml("\xc3\xa9\xff\xed\xa0\x80\xf0\x9f\x98\x80\xe2\x82"),
            "\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xf0\x9f\x98\x80\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(PlotTest, CoincidingCurvesTakeTurns) {
  LinePlot plot{.x = {"x"}, .y = {"y"}};
  plot.series = {{.name = "one", .x = {0, 4, 8}, .y = {1, 1, 1}},
                 {.name = "two", .x = {0, 2, 4, 8}, .y = {1, 1, 1, 9}},
                 {.name = "three", .x = {0, 8}, .y = {5, 6}}};
  std::string svg = RenderSvg(plot);
  ExpectWellFormed(svg);
  EXPECT_EQ(Count(PathOf(svg, 0), "dash"), 0u) << "solid under the other";
  EXPECT_EQ(Count(PathOf(svg, 2), "dash"), 0u) << "crossing is not coinciding";
  EXPECT_EQ(Count(PathOf(svg, 1), "<path"), 2u) << "one stretch alone, one shared";
  EXPECT_EQ(Count(PathOf(svg, 1), "stroke-dasharray=\"8 8.0\""), 0u);
  EXPECT_EQ(Count(PathOf(svg, 1), "stroke-dasharray=\"8 8\""), 1u) << PathOf(svg, 1);
  EXPECT_LT(svg.find(PathOf(svg, 0)), svg.find("stroke-dasharray=\"8 8\"")) << "and on top";
  // Three of them: each has a third of the way, and the dashes of one do not hide those of another.
  plot.series = {plot.series[0], plot.series[0], plot.series[0]};
  svg = RenderSvg(plot);
  EXPECT_EQ(Count(PathOf(svg, 1), "stroke-dasharray=\"8 16\" stroke-dashoffset=\"16\""), 1u) << PathOf(svg, 1);
  EXPECT_EQ(Count(PathOf(svg, 2), "stroke-dasharray=\"8 16\" stroke-dashoffset=\"8\""), 1u) << PathOf(svg, 2);
  // Points on points are smaller, down to something that can still be seen.
  EXPECT_EQ(Count(svg, "<circle"), 3u + 1u);
  // Dashed curves lie on solid ones, and take turns among themselves.
  plot.series[1].dashed = plot.series[2].dashed = true;
  svg = RenderSvg(plot);
  EXPECT_EQ(Count(PathOf(svg, 0), "dash"), 0u);
  EXPECT_EQ(Count(PathOf(svg, 1), "stroke-dasharray=\"5 11\" stroke-dashoffset=\"16\""), 1u) << PathOf(svg, 1);
  EXPECT_EQ(Count(PathOf(svg, 2), "stroke-dasharray=\"5 11\" stroke-dashoffset=\"8\""), 1u) << PathOf(svg, 2);
}

TEST(PlotTest, SpreadIsABandThatFits) {
  const double nan = std::nan("");
  LinePlot plot{.x = {"x"}, .y = {"y"}};
  plot.series = {
      {.name = "s", .x = {1, 2, 3, 4, 5}, .y = {5, 5, 5, 5, 5}, .low = {4, 4, nan, 4, -20}, .high = {6, 6, 6, 6, 40}}};
  std::string svg = RenderSvg(plot);
  ExpectWellFormed(svg);
  EXPECT_EQ(Count(svg, "fill-opacity"), 2u) << "two areas about the gap";
  EXPECT_EQ(Count(svg, ">40<"), 1u) << "the axis reaches to its end";
  EXPECT_EQ(Count(svg, "5.000 (4.000 to 6.000)"), 3u);
  plot.y.scale = AxisScale::kLog10;
  ExpectWellFormed(RenderSvg(plot));
}

/// x, y, half-width box of every text that is not turned.
struct TextBox {
  double left, right, top, bottom;
  std::string text;
};
std::vector<TextBox> TextBoxes(const std::string& svg) {
  std::vector<TextBox> boxes;
  for (size_t at = svg.find("<text"); at != svg.npos; at = svg.find("<text", at + 1)) {
    const std::string tag = svg.substr(at, svg.find('>', at) - at);
    const auto number = [&](const std::string& name) {
      return std::stod(tag.substr(tag.find(" " + name + "=\"") + name.size() + 3));
    };
    const size_t begin = at + tag.size() + 1;
    const std::string text = svg.substr(begin, svg.find('<', begin) - begin);
    const double size = number("font-size"), wide = TextWidth(text, size), x = number("x"), y = number("y");
    const double left = tag.find("\"end\"") != tag.npos      ? x - wide
                        : tag.find("\"middle\"") != tag.npos ? x - wide / 2
                                                             : x;
    if (tag.find("rotate") == tag.npos) boxes.push_back({left, left + wide, y - 0.75 * size, y + 0.2 * size, text});
  }
  return boxes;
}

TEST(PlotTest, NoTextMeetsAnotherOrLeavesThePicture) {
  Rng rng{.seed = 5};
  for (int i = 0; i < 300; ++i) {
    const std::string word(1 + rng.Below(30), 'w');
    LinePlot plot{.title = "a title of " + word + " and many " + word + " words more than fit on one line",
                  .subtitle = word + " " + word + " " + word,
                  .x = {word + " " + word, static_cast<AxisScale>(rng.Below(3))},
                  .y = {word, static_cast<AxisScale>(rng.Below(3))},
                  .width = i % 2 == 0 ? 640 : 356,
                  .height = 300};
    for (uint64_t s = 0; s < 1 + rng.Below(9); ++s) {
      PlotSeries series{.name = std::string(1 + rng.Below(40), 'n')};
      for (int k = 0; k < 5; ++k) {
        series.x.push_back(std::pow(10, 6 * rng.Uniform()));
        series.y.push_back(std::pow(10, 8 * rng.Uniform() - 2));
      }
      plot.series.push_back(std::move(series));
    }
    for (uint64_t m = 0; m < rng.Below(6); ++m) {
      plot.marks.push_back({std::pow(10, 6 * rng.Uniform()), "mark " + std::string(rng.Below(20), 'm')});
    }
    const std::string svg = RenderSvg(plot);
    ExpectWellFormed(svg);
    const std::vector<TextBox> boxes = TextBoxes(svg);
    const double height = std::stod(svg.substr(svg.find("height=\"") + 8));
    for (size_t a = 0; a < boxes.size(); ++a) {
      EXPECT_GE(boxes[a].left, 0) << boxes[a].text;
      EXPECT_LE(boxes[a].right, plot.width) << boxes[a].text;
      EXPECT_LE(boxes[a].bottom, height) << boxes[a].text;
      for (size_t b = 0; b < a; ++b) {
        const bool apart = boxes[a].right <= boxes[b].left || boxes[b].right <= boxes[a].left ||
                           boxes[a].bottom <= boxes[b].top || boxes[b].bottom <= boxes[a].top;
        EXPECT_TRUE(apart) << boxes[a].text << " and " << boxes[b].text;
      }
    }
    // And none lies where curves are drawn.
    const size_t clip = svg.find("<svg", 10);
    const auto number = [&](const char* name) {
      return std::stod(svg.substr(svg.find(name, clip) + strlen(name) + 2));
    };
    const double left = number(" x"), top = number(" y");
    const double right = left + number(" width"), bottom = top + number(" height");
    for (const TextBox& box : boxes) {
      EXPECT_TRUE(box.right <= left + 6 || box.left >= right || box.bottom <= top + 6 || box.top >= bottom - 6)
          << box.text;
    }
  }
}

TEST(PlotTest, ColorsAreSeenOnBothPapersAndApart) {
  const auto channels = [](const char* color) {
    const auto byte = [&](int at) { return std::stoi(std::string(color + at, 2), nullptr, 16) / 255.0; };
    std::array<double, 3> rgb = {byte(1), byte(3), byte(5)};
    for (double& c : rgb) c = c <= 0.04045 ? c / 12.92 : std::pow((c + 0.055) / 1.055, 2.4);
    return rgb;
  };
  const auto light = [&](const char* color) {
    const auto [r, g, b] = channels(color);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const auto contrast = [&](const char* a, const char* b) {
    const double one = light(a) + 0.05, other = light(b) + 0.05;
    return std::max(one, other) / std::min(one, other);
  };
  for (const SvgColor& color : SvgSeriesColors()) {
    EXPECT_GE(contrast(color.light, kSvgPaper.light), 3) << color.name;
    EXPECT_GE(contrast(color.dark, kSvgPaper.dark), 3) << color.name;
  }
  for (const SvgColor& color : {kSvgInk, kSvgSoftInk}) {
    EXPECT_GE(contrast(color.light, kSvgPaper.light), 4.5) << color.name;
    EXPECT_GE(contrast(color.dark, kSvgPaper.dark), 4.5) << color.name;
  }
}

TEST(PlotTest, BarsStandOnTheBaseline) {
  BarPlot plot{.title = "T", .y = {"s"}, .groups = {"a", "b"}, .series = {{"one", {2, 4}}, {"two", {1, std::nan("")}}}};
  for (const AxisScale scale : {AxisScale::kLinear, AxisScale::kLog10}) {
    plot.y.scale = scale;
    const std::string svg = RenderSvg(plot);
    ExpectWellFormed(svg);
    EXPECT_EQ(Count(svg, "rx=\"1.5\""), 3u + 2u) << "bars and the legend";
    EXPECT_EQ(Count(svg, ">a<"), 1u);
  }
  plot.y.scale = AxisScale::kLinear;
  plot.series = {{"", {-2, 3}}};
  ExpectWellFormed(RenderSvg(plot));
  ExpectWellFormed(RenderSvg(BarPlot{.title = "T"}));
}

TEST(PlotTest, TwentyBarSeriesDifferInTheirPaint) {
  std::set<std::string> paints;
  BarPlot plot{.title = "T", .y = {"s"}, .groups = {"a"}, .series = {}, .width = 2000};
  for (int i = 0; i < 20; ++i) plot.series.push_back({fmt::format("run {}", i), {1.0 + i}});
  const std::string svg = RenderSvg(plot);
  ExpectWellFormed(svg);
  const std::string mark = "rx=\"1.5\"";
  for (size_t at = svg.find(mark); at != svg.npos; at = svg.find(mark, at + 1)) {
    paints.insert(svg.substr(at, svg.find('>', at) - at));
  }
  EXPECT_EQ(paints.size(), 20u);
}

TEST(PlotTest, LegendsOnAPhoneKeepWholeNames) {
  const std::vector<std::string> names = {
      "SmolLM2-135M-Instruct, sep-stream:4,64,256,800 behind 16,384 tokens of a book",
      "/a/path/of/a/run/" + std::string(80, 'x') + "/that/has/no/blank", "short"};
  BarPlot bars{.title = "T", .y = {"s"}, .groups = {"a"}, .series = {}, .width = 356};
  LinePlot lines{.title = "T", .x = {"x"}, .y = {"y"}, .series = {}, .marks = {}, .width = 356};
  for (const std::string& name : names) {
    bars.series.push_back({name, {1.0}});
    lines.series.push_back({name, {1, 2}, {1, 2}, {}, {}});
  }
  for (std::string svg : {RenderSvg(bars), RenderSvg(lines)}) {
    ExpectWellFormed(svg);
    EXPECT_EQ(svg.find("\u2026"), svg.npos);
    std::string texts;
    for (size_t at = svg.find("<text"); at != svg.npos; at = svg.find("<text", at + 1)) {
      const size_t begin = svg.find('>', at) + 1;
      const std::string text = svg.substr(begin, svg.find('<', begin) - begin);
      EXPECT_LE(TextWidth(text, 12), 356) << text;
      texts += text;
    }
    std::erase(texts, ' ');
    for (std::string name : names) {
      std::erase(name, ' ');
      EXPECT_NE(texts.find(name), texts.npos) << name;
    }
  }
}

}  // namespace
}  // namespace hawser
