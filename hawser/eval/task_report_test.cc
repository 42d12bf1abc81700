#include "hawser/eval/task_report.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/eval/heat_map.h"
#include "hawser/eval/passkey.h"
#include "hawser/eval/report.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Results with a grid of passkeys at two lengths and two depths, RULER at two lengths, and one plain task.
json Results(const std::string& cache, double right) {
  json results = {{"model_name", "/models/small"}, {"engine", {{"cache", cache}, {"rope", "default"}}}};
  const auto row = [&](const std::string& name, const char* metric, double value, int64_t samples) {
    results["results"][name] = {{"name", name},
                                {"sample_len", samples},
                                {fmt::format("{},none", metric), value},
                                {fmt::format("{}_stderr,none", metric), 0.05}};
  };
  for (const int length : {1024, 2048}) {
    const std::string name = fmt::format("passkey_landmark_{}", length);
    for (const double depth : {0.0, 1.0}) {
      results["cells"][name].push_back(
          {{"length", length}, {"depth", depth}, {"acc,none", depth == 1 ? 1 : right}, {"samples", 10}});
    }
    row(name, "acc", (1 + right) / 2, 20);
    for (const char* task : {"vt", "cwe"}) {
      const std::string ruler = fmt::format("ruler_{}_{}", length, task);
      results["cells"][ruler].push_back({{"length", length}, {"score,none", right}, {"samples", 5}});
      row(ruler, "score", right, 5);
    }
  }
  results["group_subtasks"]["passkey"] = {"passkey_landmark_1024", "passkey_landmark_2048"};
  results["figures"]["passkey_landmark"]["k_max"] = 2039;
  row("passkey", "acc", right, 40);
  row("piqa", "acc", 0.625, 8);
  return results;
}

const ReportPicture& Picture(const TaskReport& report, std::string_view name) {
  const auto found = std::ranges::find(report.pictures, name, &ReportPicture::name);
  EXPECT_NE(found, report.pictures.end()) << name;
  return *found;
}

TEST(TaskReport, DrawsNeedlesRulerAndTheRunsInOneFigure) {
  const std::vector<ReportRun> runs = {{"a", Results("full", 0.9)}, {"b", Results("sink:4,252", 0.3)}};
  const TaskReport report = MakeTaskReport("Needles", runs);
  EXPECT_EQ(Picture(report, "passkey_landmark-2").csv,
            "length (tokens),depth of the needle (0 %: the beginning),share,label\n"
            "1K,0 %,0.3,3/10\n2K,0 %,0.3,3/10\n1K,100 %,1,10/10\n2K,100 %,1,10/10\n");
  EXPECT_NE(Picture(report, "passkey_landmark-1").svg.find(">9/10</text>"), std::string::npos);
  EXPECT_EQ(Picture(report, "ruler-lengths").csv.substr(0, 60).find("series,length,percent,low,high\nfull,1024,90,"),
            0u);
  EXPECT_NE(Picture(report, "ruler-tasks").csv.find("vt,\"sink:4,252\",30\n"), std::string::npos);
  EXPECT_EQ(Picture(report, "tasks").csv, "group,series,value\npiqa,full,62.5\npiqa,\"sink:4,252\",62.5\n");
  for (const char* text :
       {"<title>Needles</title>", "k_max", "2,039", "sink:4,252", "prefers-color-scheme", "All results"}) {
    EXPECT_NE(report.html.find(text), std::string::npos) << text;
  }
  EXPECT_EQ(report.html.find("nan"), std::string::npos);
}

TEST(TaskReport, AGroupInItselfEnds) {
  nlohmann::json results = Results("full", 0.9);
  results["group_subtasks"]["mmlu"] = {"mmlu"};
  results["results"]["mmlu"] = {{"acc,none", 0.5}, {"sample_len", 2}};
  EXPECT_FALSE(MakeTaskReport("Groups", std::vector<ReportRun>{{"a", results}}).html.empty());
}

TEST(TaskReport, LabelsSayWhatDiffers) {
  std::vector<ReportRun> runs = {{"a", Results("full", 1)}, {"b", Results("full", 1)}, {"c", Results("sink:4,60", 1)}};
  runs[1].results["engine"]["rope"] = "yarn:factor=4";
  EXPECT_EQ(RunLabels(runs), (std::vector<std::string>{"full", "full, yarn:factor=4", "sink:4,60"}));
  runs[1].results["engine"]["rope"] = "default";
  EXPECT_EQ(RunLabels(runs), (std::vector<std::string>{"full", "full (b)", "sink:4,60"}));
  EXPECT_EQ(RunLabels(std::span(runs).first(1)), std::vector<std::string>{"a"});
}

TEST(TaskReport, ReadsFoldersAndFiles) {
  const fs::path folder = FreshPath("task_report");
  MakeDirectories(folder / "run" / "small");
  WriteFileAtomically(folder / "run" / "small" / "results_2026-01-01T00-00-00.json", Results("full", 0.2).dump());
  WriteFileAtomically(folder / "run" / "small" / "results_2026-01-02T00-00-00.json", Results("full", 0.4).dump());
  WriteFileAtomically(
      folder / "ppl.json",
      R"({"task":"ppl","protocol":"windowed","buckets":[{"begin":1,"end":16,"tokens":9,"nll":9.0,"ppl":2.7},)"
      R"({"begin":16,"end":32,"tokens":9,"nll":8.0,"ppl":2.4}]})");
  const std::vector<fs::path> paths = {folder / "run", folder / "ppl.json"};
  const TaskReport report = ReportOfPaths("Both", paths);
  EXPECT_NE(Picture(report, "passkey_landmark-1").csv.find("4/10"), std::string::npos);  // the newest
  EXPECT_NE(Picture(report, "ppl").svg.find("<svg"), std::string::npos);
  const std::string line = ReadFile(folder / "ppl.json") + "\n";
  WriteFileAtomically(folder / "both.jsonl", line + line);
  EXPECT_NE(
      Picture(ReportOfPaths("Lines", std::vector<fs::path>{folder / "both.jsonl"}), "ppl").csv.find("series,x,y\n"),
      std::string::npos);
  WriteTaskReport(folder / "page.html", report);
  EXPECT_EQ(ReadFile(folder / "page-passkey_landmark-1.csv"), Picture(report, "passkey_landmark-1").csv);
  EXPECT_EQ(ReadFile(folder / "page.html"), report.html);

  // As the harness wrote results before 0.4.
  WriteFileAtomically(folder / "old.json",
                      R"({"results":{"piqa":{"acc":0.5,"acc_stderr":0.01}},"n-samples":{"piqa":{"effective":120}}})");
  const TaskReport old = ReportOfPaths("Old", std::vector<fs::path>{folder / "old.json"});
  EXPECT_EQ(Picture(old, "tasks").csv, "group,series,value\npiqa,,50\n");
  EXPECT_NE(old.html.find("0.5 \u00b1 0.01"), std::string::npos);
  EXPECT_NE(old.html.find("<td>120</td>"), std::string::npos);

  // RULER as the harness writes it, with what Python writes for a perplexity that is none.
  WriteFileAtomically(
      folder / "lengths.json",
      R"({"results":{"niah_single_1":{"alias":"n","4096,none":0.9,"4096_stderr,none":"N/A","8192,none":-1},)"
      R"("lambada_openai":{"perplexity,none":Infinity,"acc,none":NaN,"alias":"NaN"},)"
      R"("ruler":{"4096,none":0.9,"8192,none":-1}},"n-samples":{}})");
  const TaskReport lengths = ReportOfPaths("Lengths", std::vector<fs::path>{folder / "lengths.json"});
  EXPECT_NE(Picture(lengths, "ruler-1").csv.find("90"), std::string::npos) << Picture(lengths, "ruler-1").csv;
  EXPECT_NE(lengths.html.find("<td>perplexity</td>"), std::string::npos);
  EXPECT_EQ(lengths.html.find("8192"), std::string::npos) << "was not run";

  MakeDirectories(folder / "empty");
  const auto refused = [&](const fs::path& path, ErrorKind kind) {
    try {
      ReportOfPaths("x", std::vector<fs::path>{path});
      ADD_FAILURE() << path;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      EXPECT_NE(std::string(error.what()).find(path.filename().string()), std::string::npos) << error.what();
    }
  };
  refused(folder / "empty", ErrorKind::kUsage);
  refused(folder / "absent.json", ErrorKind::kIo);
  const auto with = [](std::string_view results, std::string_view more = "") {
    return fmt::format(R"({{"results":{}{}}})", results, more);
  };
  const char* good = R"({"a":{"acc,none":0.5,"acc_stderr,none":"N/A","alias":"a"},"b":{"alias":"b","ppl,none":null}})";
  for (const std::string& wrong : {std::string("[]"),
                                   std::string("{}"),
                                   std::string("{"),
                                   with("[]"),
                                   with("{}"),
                                   with(R"({"a":3})"),
                                   with(R"({"a":{"acc,none":"x"}})"),
                                   with(R"({"a":{"acc,none":true}})"),
                                   with(R"({"a":{"acc,none":-5}})"),
                                   with(R"({"a":{"acc_norm,none":1e308}})"),
                                   with(R"({"a":{"acc,none":1,"acc_stderr,none":-1}})"),
                                   with(R"({"a":{"acc,none":1,"acc_stderr,none":5}})"),
                                   with(good, R"(,"cells":5)"),
                                   with(good, R"(,"cells":{"a":3})"),
                                   with(good, R"(,"cells":{"a":[3]})"),
                                   with(good, R"(,"cells":{"a":[{"length":"x"}]})"),
                                   with(good, R"(,"cells":{"a":[{"length":9,"acc,none":2}]})"),
                                   with(good, R"(,"groups":3)"),
                                   with(good, R"(,"figures":[])"),
                                   with(good, R"(,"figures":{"a":{"k_max":-1e300}})"),
                                   with(good, R"(,"figures":{"a":{"k_max":"x"}})")}) {
    WriteFileAtomically(folder / "wrong.json", wrong);
    refused(folder / "wrong.json", ErrorKind::kFormat);
  }
  // Odd members that say nothing of scores are passed over.
  WriteFileAtomically(folder / "odd.json", with(good, R"(,"cells":{"a":[{"depth":1}]},"engine":{"cache":3})"));
  EXPECT_NE(ReportOfPaths("x", std::vector<fs::path>{folder / "odd.json"}).html.find("All results"), std::string::npos);
  try {
    ReportOfPaths("x", std::vector<fs::path>{folder / "odd.json", folder / "empty" / ".." / "odd.json"});
    ADD_FAILURE();
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("given twice"), std::string::npos) << error.what();
  }
}

// Names of tasks come from any program's results.
TEST(TaskReport, NamesOfPicturesStayInTheFolder) {
  const fs::path folder = FreshPath("task_report_names");
  MakeDirectories(folder / "page-a");
  TaskReport report;
  report.pictures = {{"a/../../b", "1", "1"}, {"a_.._.._b", "2", "2"}, {std::string(500, 'x'), "3", "3"}};
  WriteTaskReport(folder / "page.html", report);
  EXPECT_EQ(ReadFile(folder / "page-a_.._.._b.svg"), "1");
  EXPECT_EQ(ReadFile(folder / "page-a_.._.._b-2.svg"), "2");
  EXPECT_EQ(ReadFile(folder / ("page-" + std::string(100, 'x') + ".csv")), "3");
}

TEST(HeatMap, BlanksAndNarrowCells) {
  HeatMap map{.title = "<b>", .x_label = "x", .y_label = "y", .columns = {"1K", "2K"}, .rows = {"0 %"}};
  map.cells = {{{.share = 0.5, .label = "5/10", .tooltip = "half", .known = true}, {}}};
  const std::string svg = RenderSvg(map);
  EXPECT_NE(svg.find("&lt;b&gt;"), std::string::npos);
  EXPECT_NE(svg.find(">5/10</text>"), std::string::npos);
  EXPECT_NE(svg.find("2K, 0 %: not measured"), std::string::npos);
  map.columns.assign(60, "16K");
  map.cells = {std::vector<HeatCell>(60, {.share = 1, .label = "10/10", .tooltip = "all", .known = true})};
  map.width = 356;
  EXPECT_EQ(RenderSvg(map).find(">10/10</text>"), std::string::npos);  // no room; the tooltip says it
  map.columns.clear();
  map.cells = {{}};
  EXPECT_NE(RenderSvg(map).find("no data"), std::string::npos);
}

TEST(Passkey, LargestDistanceStopsAtTheFirstGap) {
  EXPECT_EQ(LargestDistance({{300, 1}, {100, 0.2}, {200, 0.1}}), 100);
  EXPECT_EQ(LargestDistance({{100, 1}, {200, 0}, {200, 0.4}, {300, 0.3}}), 300);
  EXPECT_EQ(LargestDistance({{100, 0.19}, {200, 1}}), 0);
  EXPECT_EQ(LargestDistance({}), 0);
}

}  // namespace
}  // namespace hawser
