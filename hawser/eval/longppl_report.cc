#include "hawser/eval/longppl_report.h"

#include <fmt/format.h>

#include <set>

#include "hawser/base/error.h"
#include "hawser/eval/page.h"
#include "hawser/eval/plot.h"
#include "hawser/eval/report.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

/// What sets a run apart: its model, and what it sees.
std::vector<std::string> LongPplLabels(std::span<const ReportRun> runs) {
  std::vector<std::string> labels(runs.size());
  for (const char* key : {"model", "kv_policy", "attention", "rope", "dtype"}) {
    std::set<std::string> texts;
    const auto text_of = [&](const ReportRun& run) { return JsonObject(run.results, run.name).StringOr(key, ""); };
    for (const ReportRun& run : runs) texts.insert(text_of(run));
    if (texts.size() < 2) continue;
    for (size_t r = 0; r < runs.size(); ++r) {
      std::string text = text_of(runs[r]);
      if (std::string_view(key) == "model") text = std::filesystem::path(text).filename().string();
      if (!text.empty()) labels[r].append(labels[r].empty() ? "" : ", ").append(text);
    }
  }
  std::set<std::string> seen;
  for (size_t r = 0; r < runs.size(); ++r) {
    if (labels[r].empty()) labels[r] = runs[r].name;
    if (!seen.insert(labels[r]).second) labels[r] += fmt::format(" ({})", runs[r].name);
  }
  return labels;
}

}  // namespace

TaskReport LongPplSections(std::span<const ReportRun> runs) {
  const std::vector<std::string> labels = LongPplLabels(runs);
  std::vector<std::vector<std::string>> rows = {{"run", "longppl", "ppl", "key tokens", "tokens", "keys kept"}};
  BarPlot plot{.title = "LongPPL and perplexity",
               .subtitle = "over the tokens that hang on far text, and over all",
               .y = {.label = "perplexity"},
               .groups = {"longppl", "ppl"},
               .series = {}};
  std::string csv = "run,longppl,longppl_stderr,ppl,ppl_stderr,key_tokens,tokens,kept\n", identity;
  for (size_t r = 0; r < runs.size(); ++r) {
    const JsonObject run(runs[r].results, runs[r].name);
    if (r == 0) identity = run.String("identity");
    if (run.String("identity") != identity) {
      Fail(ErrorKind::kUsage, "{} and {} are over different key tokens and cannot be compared: {} and {}", runs[0].name,
           runs[r].name, identity, run.String("identity"));
    }
    const double longppl = run.Number("longppl"), ppl = run.Number("ppl");
    const int64_t keys = run.Int("key_tokens", 0, int64_t{1} << 53), tokens = run.Int("tokens", 0, int64_t{1} << 53);
    const auto with_error = [&](double value, const char* error) {
      return run.Find(error) == nullptr ? HumanNumber(value)
                                        : fmt::format("{} \u00b1 {:.2g}", HumanNumber(value), run.Number(error));
    };
    rows.push_back({labels[r], with_error(longppl, "longppl_stderr"), with_error(ppl, "ppl_stderr"), HumanCount(keys),
                    HumanCount(tokens), HumanNumber(run.Number("kept"))});
    plot.series.push_back({.name = labels[r], .values = {longppl, ppl}});
    csv += fmt::format("{},{},{},{},{},{},{},{}\n", CsvField(labels[r]), longppl, run.NumberOr("longppl_stderr", 0),
                       ppl, run.NumberOr("ppl_stderr", 0), keys, tokens, run.Number("kept"));
  }
  TaskReport sections;
  sections.html = "<h2>LongPPL</h2>\n" + HtmlTable(rows) +
                  fmt::format("<p class=\"note\">Key tokens: <code>{}</code></p>\n", EscapeXml(identity)) +
                  HtmlPlots({HtmlPlot(plot)});
  sections.pictures.push_back({"longppl", RenderSvg(plot), csv});
  return sections;
}

}  // namespace hawser
