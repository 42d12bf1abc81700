#include "hawser/eval/run_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>

namespace hawser {
namespace {

size_t Occurrences(std::string_view text, std::string_view what) {
  size_t count = 0;
  for (size_t at = 0; (at = text.find(what, at)) != text.npos; at += what.size()) ++count;
  return count;
}

nlohmann::json Line(int64_t step) {
  return {{"step", step},
          {"loss", 4.0 / static_cast<double>(step)},
          {"lr", 1e-3},
          {"grad_norm", 0.5},
          {"density", 0.25},
          {"tokens_per_second", 1000.0},
          {"seconds", static_cast<double>(step)},
          {"tokens", 100 * step}};
}

TEST(RunReport, ShowsEveryCurveAndTheRecipe) {
  std::vector<nlohmann::json> lines;
  for (int64_t step = 1; step <= 20; ++step) lines.push_back(Line(step));
  lines[4]["validation_loss"] = 1.25;
  lines[9]["validation_loss"] = 1.0;
  lines[19]["validation_loss"] = 1.5;
  const std::string page = RunReportPage("a <run>", "lr = 1\nattention = \"anchor\"\n", lines);
  EXPECT_EQ(Occurrences(page, "<svg xmlns"), 2 * 5u) << "for wide and for narrow pages";
  for (const char* text : {"<footer>Written 20", " UTC by hawser ", " cores", "prefers-color-scheme: dark"}) {
    EXPECT_NE(page.find(text), std::string::npos) << text;
  }
  for (const char* text : {"Loss", "Learning rate", "Gradient norm", "Speed", "Density", "a &lt;run&gt;",
                           "lr = 1\nattention = &quot;anchor&quot;\n", "validation", ">2,000<", "0.2000 nats",
                           "1.0000 nats, perplexity 2.718, after step 10", ">100<"}) {
    EXPECT_NE(page.find(text), std::string::npos) << text;
  }
  EXPECT_EQ(page.find("http", page.find("</svg>")), page.find("http://www.w3.org/2000/svg", page.find("</svg>")));
  EXPECT_EQ(Occurrences(page, "<script"), 0u);
  EXPECT_EQ(Occurrences(page, "src="), 0u);
}

TEST(RunReport, LongRunsStaySmallAndKeepTheirMeans) {
  std::vector<nlohmann::json> lines;
  for (int64_t step = 1; step <= 100000; ++step) lines.push_back(Line(step));
  const std::string page = RunReportPage("run", "", lines);
  EXPECT_LT(page.size(), 400000u);
  EXPECT_EQ(Occurrences(page, "fill-opacity"), 2 * 5u) << "each mean has its spread";
  EXPECT_NE(page.find("100,000"), std::string::npos);
}

TEST(RunReport, WhateverTheLogHolds) {
  EXPECT_NE(RunReportPage("run", "", {}).find("No step"), std::string::npos);
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<nlohmann::json> odd = {
      {{"step", 1}},
      {{"step", 2}, {"loss", "high"}, {"tokens", nullptr}, {"seconds", 0}},
      {{"step", 3}, {"loss", inf}, {"grad_norm", -1}, {"validation_loss", nullptr}, {"density", 1e308}},
      {{"step", -(int64_t{1} << 62)}, {"loss", 1e300}, {"tokens", 1e300}, {"seconds", 1e-300}, {"lr", {1, 2}}}};
  for (size_t n = 1; n <= odd.size(); ++n) {
    const std::string page = RunReportPage("run", "", {odd.begin(), odd.begin() + static_cast<std::ptrdiff_t>(n)});
    EXPECT_EQ(Occurrences(page, "nan"), 0u);
    EXPECT_NE(page.find("</html>"), std::string::npos);
  }
}

}  // namespace
}  // namespace hawser
