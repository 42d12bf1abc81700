// The plot command as people and scripts run it.
#include <gtest/gtest.h>

#include "hawser/base/file.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/run_command.h"

namespace hawser {
namespace {

using testing::RunHawser;

TEST(PlotCommand, DrawsEverySeries) {
  const auto folder = FreshFolder("cli_plot");
  WriteBytes(folder / "in.json",
             R"({"title": "T & t", "x": {"label": "tokens", "scale": "log2"}, "y": {"min": 0},
                 "series": [{"name": "first", "x": [1, 2, 4], "y": [3, null, 5]},
                            {"name": "second", "x": [1, 4], "y": [4, 4], "dashed": true}],
                 "marks": [{"x": 2, "name": "here"}]})");
  const auto run =
      RunHawser("plot '" + (folder / "in.json").string() + "' --out '" + (folder / "a.svg").string() + "'");
  ASSERT_EQ(run.code, 0);
  const std::string svg = ReadFile(folder / "a.svg");
  for (const char* wanted : {"<svg", "T &amp; t", "first", "second", "here", "tokens"}) {
    EXPECT_NE(svg.find(wanted), std::string::npos) << wanted;
  }
}

TEST(PlotCommand, SaysWhatIsWrong) {
  const auto folder = FreshFolder("cli_plot_bad");
  struct Case {
    const char* text;
    const char* words;
  };
  for (const Case& c :
       {Case{R"({"series": []})", "no series"}, Case{R"({"series": [{"x": [1], "y": []}]})", "1 values of x, 0 of y"},
        Case{R"({"series": [{"x": ["a"], "y": [1]}]})", "wanted numbers"}, Case{R"({"serie": []})", "serie"},
        Case{R"({"x": {"scale": "log"}})", "log2"}, Case{R"({"series": 3})", "wanted a list"},
        Case{"[", "not valid JSON"}}) {
    WriteBytes(folder / "in.json", c.text);
    const auto run =
        RunHawser("plot '" + (folder / "in.json").string() + "' --out '" + (folder / "a.svg").string() + "' 2>&1");
    EXPECT_EQ(run.code, 3) << run.out;
    EXPECT_NE(run.out.find(c.words), std::string::npos) << run.out;
    EXPECT_FALSE(std::filesystem::exists(folder / "a.svg"));
  }
}

}  // namespace
}  // namespace hawser
