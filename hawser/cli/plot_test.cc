// The plot command as people and scripts run it.
#include <gtest/gtest.h>

#include <map>
#include <string>
#include <utility>
#include <vector>

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

TEST(PlotCommand, ReadsAPipe) {
  const auto folder = FreshFolder("cli_plot_pipe");
  const std::string form = R"({"title": "from a pipe", "series": [{"x": [1, 2], "y": [3, 5]}]})";
  const auto run = RunHawser("plot - --out '" + (folder / "a.svg").string() + "'", "echo '" + form + "' | ");
  ASSERT_EQ(run.code, 0) << run.out;
  EXPECT_NE(ReadFile(folder / "a.svg").find("from a pipe"), std::string::npos);
}

TEST(PlotCommand, ReadsResultsAsTheyWereWritten) {
  const auto folder = FreshFolder("cli_plot_results");
  const std::string at = folder.string() + "/";
  WriteBytes(
      folder / "metrics.jsonl",
      "{\"step\":1,\"loss\":4,\"lr\":0.1}\n{\"step\":2,\"loss\":3,\"lr\":0.2,\"validation_loss\":3.5}\n{\"step\":3,");
  WriteBytes(folder / "ppl.json",
             R"({"task":"ppl","model":"m/one","buckets":[{"begin":0,"end":4,"ppl":9.5},{"begin":4,"end":8,"ppl":8}]})");
  WriteBytes(
      folder / "stream.json",
      R"({"task":"ppl","buckets":[],"windows":[{"begin":0,"end":4,"ppl":9,"kv_bytes":64},{"begin":4,"end":8,"ppl":8,"kv_bytes":64}]})");
  const std::string retrieval =
      R"({"task":"retrieval","kv_policy":"@","buckets":[{"begin":1,"end":32,"questions":50,"correct":40,"accuracy":0.8},{"begin":32,"end":64,"questions":50,"correct":10,"accuracy":0.2}]})";
  std::string lines = retrieval + "\n" + retrieval + "\n";
  lines.replace(lines.find('@'), 1, "full"), lines.replace(lines.find('@'), 1, "window:8");
  WriteBytes(folder / "retrieval.jsonl", lines);
  const auto draw = [&](const std::string& arguments) {
    const auto run = RunHawser("plot " + arguments + " --out '" + at + "a.svg' 2>&1");
    EXPECT_EQ(run.code, 0) << run.out;
    return ReadFile(folder / "a.svg");
  };
  for (const auto& [arguments, words] : std::map<std::string, std::vector<std::string>>{
           {at + "metrics.jsonl", {">training<", ">validation<", ">Loss<", "nats a token"}},
           {folder.string(), {">training<"}},
           {at + "metrics.jsonl --y lr --title Rates", {">Rates<", ": 0.2000<"}},
           {at + "ppl.json", {"Perplexity by position", "9.500"}},
           {at + "stream.json --y kv_bytes", {"tokens read", "64.00"}},
           {at + "retrieval.jsonl", {">full<", ">window:8<", "correct (%)", "80.00 (73", "fill-opacity"}}}) {
    const std::string svg = draw(arguments);
    for (const std::string& word : words) EXPECT_NE(svg.find(word), svg.npos) << arguments << ": " << word;
  }
  struct Case {
    std::string arguments, words;
    int code;
  };
  for (const Case& c : {Case{at + "metrics.jsonl --y los", "there are: loss, lr, step", 2},
                        Case{at + "metrics.jsonl " + at + "ppl.json", "one kind", 2}, Case{at + "none", "none", 3}}) {
    const auto run = RunHawser("plot " + c.arguments + " --out '" + at + "b.svg' 2>&1");
    EXPECT_EQ(run.code, c.code) << run.out;
    EXPECT_NE(run.out.find(c.words), run.out.npos) << run.out;
  }
}

TEST(PlotCommand, WritesWhatTheNameSays) {
  const auto folder = FreshFolder("cli_plot_names");
  WriteBytes(folder / "in.json", R"({"title": "T", "series": [{"x": [1, 2], "y": [3, 4]}]})");
  for (const auto& [name, start] :
       {std::pair("a.svg", "<svg "), std::pair("a.PNG", "\x89PNG"), std::pair("a.pdf", "%PDF-")}) {
    const auto run =
        RunHawser("plot '" + (folder / "in.json").string() + "' --out '" + (folder / name).string() + "' 2>&1");
    if (run.code == 4) {
      EXPECT_NE(run.out.find("librsvg"), run.out.npos) << run.out;
      EXPECT_FALSE(std::filesystem::exists(folder / name));
      continue;
    }
    ASSERT_EQ(run.code, 0) << run.out;
    EXPECT_TRUE(ReadFile(folder / name).starts_with(start)) << name;
  }
  for (const char* name : {"a", "a.jpg", "a.svg.gz"}) {
    const auto run =
        RunHawser("plot '" + (folder / "in.json").string() + "' --out '" + (folder / name).string() + "' 2>&1");
    EXPECT_EQ(run.code, 2);
    EXPECT_NE(run.out.find(".svg, .png or .pdf"), run.out.npos) << run.out;
    EXPECT_FALSE(std::filesystem::exists(folder / name));
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
        Case{R"({"x": {"scale": "log"}, "series": []})", "log2"}, Case{R"({"task": "drift"})", "ppl and retrieval"},
        Case{R"({"task": "ppl", "buckets": [3]})", "wanted an object"},
        Case{"{\"step\": 1}\n{\n{\"step\": 2}\n", "line 2"},
        Case{R"({"series": [{"x": [1], "y": [1], "low": [1]}]})", "low"}, Case{R"({"series": 3})", "wanted a list"},
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
