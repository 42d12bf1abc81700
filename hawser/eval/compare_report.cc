#include "hawser/eval/compare_report.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/eval/page.h"
#include "hawser/eval/plot.h"
#include "hawser/eval/report.h"
#include "hawser/io/json.h"

namespace hawser {
namespace {

std::string Shown(const NatsSum& sum) { return sum.tokens > 0 ? HumanNumber(sum.ppl()) : "-"; }

/// "1.043 (1.031-1.056)".
std::string Shown(const PairedRatio& ratio) {
  if (std::isnan(ratio.ratio)) return "-";
  const std::string value = fmt::format("{:.4g}", ratio.ratio);
  return ratio.low == ratio.high ? value : fmt::format("{} ({:.4g}-{:.4g})", value, ratio.low, ratio.high);
}

/// The first row is the header.
std::vector<std::vector<std::string>> MethodRows(const Comparison& c) {
  const std::string base = c.methods[0].name;
  std::vector<std::vector<std::string>> rows = {{"method", "kept keys", "memory", "ppl", "times " + base}};
  const bool indexed = std::ranges::any_of(c.methods, [](const MethodRun& run) { return run.prefix_read.has_value(); });
  if (indexed) rows[0].insert(rows[0].begin() + 3, "read of prefix");
  if (c.judged()) rows[0].insert(rows[0].end(), {"longppl", "times " + base});
  rows[0].push_back("time");
  for (size_t m = 0; m < c.methods.size(); ++m) {
    const MethodRun& run = c.methods[m];
    const std::string bytes = run.bytes ? HumanBytes(std::llround(*run.bytes)) : "-";
    rows.push_back({run.name, fmt::format("{:.1f}", run.kept), bytes, Shown(run.all()), Shown(c.all[m])});
    if (indexed) {
      rows.back().insert(rows.back().begin() + 3,
                         run.prefix_read ? fmt::format("{:.1f} %", 100 * *run.prefix_read) : "-");
    }
    if (c.judged()) rows.back().insert(rows.back().end(), {Shown(run.key()), Shown(c.key[m])});
    rows.back().push_back(HumanSeconds(run.seconds));
  }
  return rows;
}

/// Nothing but the header where no methods keep as many keys.
std::vector<std::vector<std::string>> EqualRows(const Comparison& c) {
  std::vector<std::vector<std::string>> rows = {{"keeps as many keys as", "method", "kept keys", "ppl, times"}};
  if (c.judged()) rows[0].push_back("longppl, times");
  for (const EqualMemory& pair : c.equal) {
    const MethodRun &first = c.methods[pair.first], &second = c.methods[pair.second];
    rows.push_back({first.name, second.name, fmt::format("{:.1f}, {:.1f}", first.kept, second.kept), Shown(pair.all)});
    if (c.judged()) rows.back().push_back(Shown(pair.key));
  }
  return rows;
}

std::string TableText(const std::vector<std::vector<std::string>>& rows) {
  TextTable table(rows[0]);
  for (size_t r = 1; r < rows.size(); ++r) table.Row(rows[r]);
  return table.ToString();
}

std::string Basis(const Comparison& c) {
  std::string text = fmt::format("{} tokens of {}", HumanCount(c.tokens),
                                 c.texts.size() == 1 ? "one text" : fmt::format("{} texts", c.texts.size()));
  if (c.judged()) text += fmt::format(", {} of them key", HumanCount(c.key_tokens));
  if (c.draws > 0) {
    text += fmt::format("; in brackets what 95 of 100 draws of stretches of {} tokens give, {} draws", c.stretch,
                        HumanCount(c.draws));
  }
  return text;
}

nlohmann::json RatioJson(const PairedRatio& r) { return {{"ratio", r.ratio}, {"low", r.low}, {"high", r.high}}; }

PairedRatio ParseRatio(const nlohmann::json& json, const char* name) {
  const JsonObject object(json, name);
  if (object.Find("ratio") == nullptr) return {NAN, NAN, NAN};  // no tokens
  return {object.Number("ratio"), object.Number("low"), object.Number("high")};
}

std::string CsvOf(const LinePlot& plot, const char* x, const char* y) {
  std::string csv = fmt::format("method,{},{}\n", x, y);
  for (const PlotSeries& series : plot.series) {
    for (size_t i = 0; i < series.x.size(); ++i) {
      csv += fmt::format("{},{},{}\n", CsvField(series.name), series.x[i], series.y[i]);
    }
  }
  return csv;
}

LinePlot KeptPlot(const Comparison& c, bool key) {
  LinePlot plot{.title = key ? "LongPPL by keys kept" : "Perplexity by keys kept",
                .subtitle = "lower is better; mean over tokens and layers",
                .x = {.label = "keys kept", .scale = AxisScale::kLog2},
                .y = {.label = key ? "longppl" : "perplexity", .scale = AxisScale::kLog10},
                .series = {},
                .marks = {}};
  for (const MethodRun& run : c.methods) {
    const NatsSum sum = key ? run.key() : run.all();
    plot.series.push_back({.name = run.name, .x = {run.kept}, .y = {sum.ppl()}, .low = {}, .high = {}});
  }
  return plot;
}

LinePlot PositionPlot(const Comparison& c) {
  LinePlot plot{.title = "Perplexity by position",
                .subtitle = "",
                .x = {.label = "position (tokens)", .scale = AxisScale::kLog2},
                .y = {.label = "perplexity", .scale = AxisScale::kLog10},
                .series = {},
                .marks = {}};
  for (const MethodRun& run : c.methods) {
    PlotSeries series{.name = run.name, .x = {}, .y = {}, .low = {}, .high = {}};
    for (const PplBucket& bucket : run.buckets) {
      if (bucket.begin < 16) continue;  // too few tokens to be a curve
      series.x.push_back(static_cast<double>(bucket.begin));
      series.y.push_back(bucket.ppl());
    }
    plot.series.push_back(std::move(series));
  }
  return plot;
}

}  // namespace

nlohmann::json ToJson(const Comparison& c) {
  nlohmann::json json = {{"task", "compare"},
                         {"model", c.model},
                         {"identity", c.judged() ? nlohmann::json(c.identity) : nlohmann::json()},
                         {"tokens", c.tokens},
                         {"key_tokens", c.key_tokens},
                         {"stretch", c.stretch},
                         {"draws", c.draws}};
  json["texts"] = nlohmann::json::array();
  for (const CompareText& text : c.texts) json["texts"].push_back(text.name);
  json["methods"] = nlohmann::json::array();
  for (size_t m = 0; m < c.methods.size(); ++m) {
    nlohmann::json method = ToJson(c.methods[m]);
    method["ppl_times_first"] = RatioJson(c.all[m]);
    method["longppl_times_first"] = RatioJson(c.key[m]);
    json["methods"].push_back(std::move(method));
  }
  json["equal_memory"] = nlohmann::json::array();
  for (const EqualMemory& pair : c.equal) {
    json["equal_memory"].push_back({{"first", pair.first},
                                    {"second", pair.second},
                                    {"ppl_times", RatioJson(pair.all)},
                                    {"longppl_times", RatioJson(pair.key)}});
  }
  return json;
}

Comparison ParseComparison(const nlohmann::json& json) {
  constexpr int64_t kMost = int64_t{1} << 53;
  const JsonObject object(json, "comparison");
  Comparison c{.model = object.StringOr("model", ""),
               .identity = object.StringOr("identity", ""),
               .texts = {},
               .tokens = object.Int("tokens", 0, kMost),
               .key_tokens = object.Int("key_tokens", 0, kMost),
               .stretch = object.Int("stretch", 1, kMost),
               .draws = object.Int("draws", 0, kMost),
               .methods = {},
               .all = {},
               .key = {},
               .equal = {}};
  const auto list = [&](const char* key) -> const nlohmann::json& {
    const nlohmann::json* found = object.Find(key);
    if (found == nullptr || !found->is_array()) Fail(ErrorKind::kFormat, "\"{}\": wanted a list", key);
    return *found;
  };
  const auto member = [](const nlohmann::json& of, const char* key) -> const nlohmann::json& {
    const auto found = of.find(key);
    if (found == of.end()) Fail(ErrorKind::kFormat, "\"{}\": wanted an object, found nothing", key);
    return *found;
  };
  for (const nlohmann::json& text : list("texts")) {
    c.texts.push_back({.name = text.is_string() ? text.get<std::string>() : ShownJson(text), .ids = {}});
  }
  for (const nlohmann::json& method : list("methods")) {
    c.methods.push_back(ParseMethodRun(method));
    c.all.push_back(ParseRatio(member(method, "ppl_times_first"), "ppl_times_first"));
    c.key.push_back(ParseRatio(member(method, "longppl_times_first"), "longppl_times_first"));
  }
  if (c.methods.empty()) Fail(ErrorKind::kFormat, "\"methods\" is empty");
  const auto last = static_cast<int64_t>(c.methods.size()) - 1;
  for (const nlohmann::json& pair : list("equal_memory")) {
    const JsonObject of(pair, "equal_memory");
    c.equal.push_back({.first = static_cast<size_t>(of.Int("first", 0, last)),
                       .second = static_cast<size_t>(of.Int("second", 0, last)),
                       .all = ParseRatio(member(pair, "ppl_times"), "ppl_times"),
                       .key = ParseRatio(member(pair, "longppl_times"), "longppl_times")});
  }
  return c;
}

std::string ToText(const Comparison& c) {
  std::string text = TableText(MethodRows(c));
  if (!c.equal.empty()) text += "\n" + TableText(EqualRows(c));
  text += "\n" + Basis(c) + "\n";
  if (c.judged()) text += c.identity + "\n";
  return text;
}

TaskReport CompareSections(const Comparison& c, const std::string& prefix) {
  TaskReport sections;
  std::vector<std::string> beside;
  const auto add = [&](const LinePlot& plot, const char* name, const char* x, const char* y) {
    beside.push_back(HtmlPlot(plot));
    sections.pictures.push_back({prefix + name, RenderSvg(plot), CsvOf(plot, x, y)});
  };
  add(KeptPlot(c, /*key=*/false), "kept", "keys", "ppl");
  if (c.judged()) add(KeptPlot(c, /*key=*/true), "kept-longppl", "keys", "longppl");
  add(PositionPlot(c), "position", "position", "ppl");
  sections.html = "<h2>Methods</h2>\n" + HtmlTable(MethodRows(c)) +
                  fmt::format("<p class=\"note\">{}.</p>\n", EscapeXml(Basis(c))) + HtmlPlots(beside);
  if (!c.equal.empty()) sections.html += "<h2>At equal memory</h2>\n" + HtmlTable(EqualRows(c));
  if (c.judged()) {
    sections.html += fmt::format("<p class=\"note\">Key tokens: <code>{}</code></p>\n", EscapeXml(c.identity));
  }
  return sections;
}

}  // namespace hawser
