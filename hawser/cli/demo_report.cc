#include "hawser/cli/demo_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "hawser/attn/picture.h"
#include "hawser/attn/schedule.h"
#include "hawser/eval/heat_map.h"
#include "hawser/eval/page.h"
#include "hawser/eval/plot.h"
#include "hawser/eval/report.h"

namespace hawser {
namespace {

double StepSeconds(const DemoModel& m) {
  return m.training.steps > 0 ? m.training.seconds / static_cast<double>(m.training.steps) : 0.0;
}

/// Perplexity over positions [begin, end) of the windows.
double PplOver(const PplReport& report, int64_t begin, int64_t end) {
  PplBucket sum;
  for (const PplBucket& bucket : report.buckets) {
    if (bucket.begin < begin || bucket.end > end) continue;
    sum.tokens += bucket.tokens;
    sum.nll += bucket.nll;
  }
  return sum.ppl();
}

std::string PositionPlot(const DemoResult& r) {
  LinePlot plot{.title = "Perplexity by position",
                .subtitle = "held-out documents, lower is better",
                .x = {.label = "position in the document (tokens)", .scale = AxisScale::kLog2, .min = 16.0},
                .y = {.label = "perplexity", .scale = AxisScale::kLog10},
                .marks = {{static_cast<double>(r.short_context), fmt::format("trained to {}", r.short_context)}}};
  for (const DemoModel& m : r.models) {
    PlotSeries series{.name = m.name, .dashed = m.context == r.short_context};
    for (const PplBucket& bucket : m.ppl.buckets) {
      if (bucket.begin < 16 || bucket.tokens == 0) continue;
      series.x.push_back(std::sqrt(static_cast<double>(bucket.begin) * static_cast<double>(bucket.end)));
      series.y.push_back(bucket.ppl());
    }
    plot.series.push_back(std::move(series));
  }
  return HtmlPlot(plot);
}

std::string RetrievalPlot(const DemoResult& r) {
  LinePlot plot{
      .title = "Retrieval by distance",
      .subtitle = fmt::format("share of questions answered right, band: one standard error; guessing gives {:.0f} %",
                              100.0 / kSyntheticNames),
      .x = {.label = "tokens between fact and question", .scale = AxisScale::kLog2},
      .y = {.label = "correct (%)", .min = 0.0, .max = 100.0},
      .marks = {{static_cast<double>(r.short_context), fmt::format("trained to {}", r.short_context)}}};
  for (const DemoModel& m : r.models) {
    PlotSeries series{.name = m.name, .dashed = m.context == r.short_context};
    for (const RetrievalBucket& bucket : m.retrieval) {
      series.x.push_back(std::sqrt(static_cast<double>(bucket.begin) * static_cast<double>(bucket.end)));
      series.y.push_back(100 * bucket.accuracy());
      const auto [low, high] = bucket.interval();
      series.low.push_back(100 * low);
      series.high.push_back(100 * high);
    }
    plot.series.push_back(std::move(series));
  }
  return HtmlPlot(plot);
}

std::string StreamPlot(const DemoResult& r, bool memory) {
  LinePlot plot{.title = memory ? "Memory of keys and values over a stream" : "Perplexity over a stream",
                .subtitle = memory ? "f32, all layers" : "each point: the tokens since the point before",
                .x = {.label = "tokens read"},
                .y = {.label = memory ? "memory (MiB)" : "perplexity", .min = 0.0}};
  for (const DemoStream& s : r.streams) {
    PlotSeries series{.name = s.policy};
    for (const PplStretch& stretch : s.ppl.stretches) {
      series.x.push_back(static_cast<double>(stretch.range.end));
      series.y.push_back(memory ? static_cast<double>(stretch.kv_bytes) / (1 << 20) : stretch.range.ppl());
    }
    plot.series.push_back(std::move(series));
  }
  return HtmlPlot(plot);
}

std::string Picture(std::string_view pattern, const std::string& title) {
  TokenLayout layout = MakeLayout(1, {9, 14, 8});
  layout.is_separator.assign(static_cast<size_t>(layout.size), 0);
  for (const int32_t k : {4, 9, 13, 18, 23, 27, 31}) layout.is_separator[static_cast<size_t>(k)] = 1;
  return DrawPatternSvg(CompileSchedule(ParsePattern(pattern), layout), layout, title);
}

std::vector<std::vector<std::string>> TrainingRows(const DemoResult& r) {
  std::vector<std::vector<std::string>> rows = {{"model", "trained with", "context", "steps", "tokens", "time a step",
                                                 "tokens/s", "visible pairs",
                                                 fmt::format("ppl {}-{}", r.short_context / 2, r.short_context),
                                                 fmt::format("ppl {}-{}", r.long_context / 2, r.long_context)}};
  for (const DemoModel& m : r.models) {
    rows.push_back({m.name, m.pattern, HumanCount(m.context), HumanCount(m.training.steps),
                    HumanCount(m.training.tokens), HumanSeconds(StepSeconds(m)),
                    HumanCount(std::llround(m.training.tokens_per_second())),
                    fmt::format("{:.0f} %", 100 * m.training.density),
                    HumanNumber(PplOver(m.ppl, r.short_context / 2, r.short_context)),
                    HumanNumber(PplOver(m.ppl, r.long_context / 2, r.long_context))});
  }
  return rows;
}

std::vector<std::vector<std::string>> BuiltinRows(const DemoBuiltin& b) {
  std::vector<std::vector<std::string>> rows = {{"distance (tokens)", "found", "questions"}};
  for (const RetrievalBucket& bucket : b.retrieval) {
    rows.push_back({fmt::format("{}-{}", bucket.begin, bucket.end - 1),
                    fmt::format("{:.0f} %", 100 * bucket.accuracy()), HumanCount(bucket.questions)});
  }
  return rows;
}

std::vector<std::vector<std::string>> RetrievalRows(const DemoResult& r) {
  std::vector<std::vector<std::string>> rows = {{"distance (tokens)"}};
  std::set<std::pair<int64_t, int64_t>> ranges;
  for (const DemoModel& m : r.models) {
    rows[0].push_back(m.name);
    for (const RetrievalBucket& bucket : m.retrieval) ranges.insert({bucket.begin, bucket.end});
  }
  rows[0].push_back("questions");
  for (const auto& [begin, end] : ranges) {
    std::vector<std::string> row = {fmt::format("{}-{}", begin, end - 1)};
    int64_t questions = 0;
    for (const DemoModel& m : r.models) {
      for (const RetrievalBucket& bucket : m.retrieval) {
        if (bucket.begin != begin) continue;
        row.push_back(fmt::format("{:.0f} %", 100 * bucket.accuracy()));
        questions = bucket.questions;
      }
    }
    row.push_back(HumanCount(questions));
    rows.push_back(std::move(row));
  }
  return rows;
}

std::vector<std::vector<std::string>> StreamRows(const DemoResult& r) {
  std::vector<std::vector<std::string>> rows = {{"cache", "tokens", "perplexity", "mean slots", "(a+s+w+c)/2",
                                                 "peak slots", "memory at the end", "time a token"}};
  for (const DemoStream& s : r.streams) {
    const int64_t bytes = s.ppl.stretches.empty() ? 0 : s.ppl.stretches.back().kv_bytes;
    rows.push_back(
        {s.policy, HumanCount(s.ppl.tokens), HumanNumber(s.ppl.ppl()), fmt::format("{:.1f}", s.ppl.kv.mean),
         s.mean_formula > 0 ? fmt::format("{:.1f}", s.mean_formula) : "-", HumanCount(s.ppl.kv.peak), HumanBytes(bytes),
         fmt::format("{:.0f} us", 1e6 * s.ppl.seconds / static_cast<double>(std::max<int64_t>(1, s.ppl.tokens)))});
  }
  return rows;
}

std::string Terminal(const std::vector<std::vector<std::string>>& rows) {
  TextTable table(rows[0]);
  for (size_t i = 1; i < rows.size(); ++i) table.Row(rows[i]);
  return table.ToString();
}

// Texts of the page, with the places of fmt.

constexpr std::string_view kHead =
    R"(<p class="note">Seed {}; {}; {} in all. Raw figures: <code>results.json</code>.</p>
)";

constexpr std::string_view kBuiltin = R"(<h2>The model in the box</h2>
<p>hawser brings a small model of its own, <code>builtin</code>: {} parameters, trained on public-domain books and generated
harbour logs, extended to {} tokens. It goes on after <i>{}</i> so (the same random numbers under each cache):</p>
)";

constexpr std::string_view kScratch = R"(<h2>From scratch to a longer context</h2>
<p>A tiny Llama ({} parameters, {} layers of width {}, {} query and {} key heads) was trained from scratch with {} tokens of
context, then its training went on at {} tokens (RoPE base raised by NTK-aware scaling) in two ways from the same weights, on
the same documents, for the same number of tokens: with AnchorAttention (packed documents do not see each other but share
one first token) and with full attention. The corpus is generated: harbour logs that state facts early (<i>note captain
Marla</i>) and ask for them late (<i>ask captain Marla</i>), amid filler.</p>
<blockquote>{}</blockquote>
<p class="note">A model of this size shows mechanics, not quality, and one seed shows no spread: read no ranking of methods
into these figures.</p>
)";

constexpr std::string_view kStreaming = R"(<h2>Streaming a long text</h2>
<p>The extended model reads one long text token after token. <code>full</code> keeps every key;
<code>sep-stream:a,s,w,c</code> keeps the first a tokens, the last s separators and the last w tokens, and lets the cache
grow to c before it compresses (SepLLM).</p>
)";

constexpr std::string_view kPatterns = R"(<h2>What a token sees</h2>
<p>Three packed documents behind one first token. Rows are queries, columns are keys.</p>
)";

HeatMap NeedleMap(const DemoBuiltin& b) {
  HeatMap map{.title = "Needles by length and depth",
              .subtitle = "one fact in a harbour log; the question comes at its end",
              .x_label = "length (tokens)",
              .y_label = "depth of the fact (0 %: the beginning)",
              .columns = {},
              .rows = {},
              .cells = {}};
  for (const DemoNeedle& needle : b.needles) {
    const std::string column = TickLabel(AxisScale::kLog2, static_cast<double>(needle.length));
    const std::string row = fmt::format("{:.0f} %", 100 * needle.depth);
    if (map.columns.empty() || map.columns.back() != column) map.columns.push_back(column);
    const auto at = std::ranges::find(map.rows, row) - map.rows.begin();
    if (at == std::ssize(map.rows)) {
      map.rows.push_back(row);
      map.cells.emplace_back();
    }
    map.cells[static_cast<size_t>(at)].push_back(
        {.share = static_cast<double>(needle.correct) / static_cast<double>(std::max<int64_t>(1, needle.questions)),
         .label = fmt::format("{}/{}", needle.correct, needle.questions),
         .tooltip = fmt::format("{} of {} answered right", needle.correct, needle.questions),
         .known = needle.questions > 0});
  }
  return map;
}

std::string BuiltinSection(const DemoBuiltin& b) {
  std::string html =
      fmt::format(kBuiltin, HumanCount(NumParameters(b.spec)), HumanCount(b.spec.context), EscapeXml(b.prompt));
  for (const auto& [policy, text] : b.texts) {
    std::string flowing = text;
    std::ranges::replace(flowing, '\n', ' ');
    html += fmt::format("<p class=\"note\"><code>--kv {}</code></p><blockquote>{}</blockquote>\n", policy,
                        EscapeXml(flowing));
  }
  html += fmt::format("<p>Facts that it finds again in unseen harbour logs of {} tokens:</p>\n",
                      HumanCount(b.spec.context));
  return html + HtmlTable(BuiltinRows(b)) + HtmlPlots({HtmlHeatMap(NeedleMap(b))});
}

}  // namespace

std::string EndAtWord(std::string_view text) {
  const size_t blank = text.find_last_of(" \t\r\n");
  std::string_view whole = text.substr(0, blank == text.npos ? 0 : blank);
  whole = whole.substr(0, whole.find_last_not_of(" \t\r\n") + 1);
  return std::string(whole.empty() ? text : whole) + " \u2026";
}

nlohmann::json ToJson(const DemoResult& r) {
  nlohmann::json models = nlohmann::json::array(), streams = nlohmann::json::array();
  for (const DemoModel& m : r.models) {
    models.push_back({{"name", m.name},
                      {"attention", m.pattern},
                      {"context", m.context},
                      {"step_seconds", StepSeconds(m)},
                      {"training", m.training.ToJson()},
                      {"ppl", ToJson(m.ppl)},
                      {"retrieval", ToJson(m.retrieval)}});
  }
  for (const DemoStream& s : r.streams) {
    streams.push_back({{"kv", s.policy}, {"mean_formula", s.mean_formula}, {"ppl", ToJson(s.ppl)}});
  }
  nlohmann::json texts = nlohmann::json::array();
  for (const auto& [policy, text] : r.builtin.texts) texts.push_back({{"kv", policy}, {"text", text}});
  nlohmann::json needles = nlohmann::json::array();
  for (const DemoNeedle& n : r.builtin.needles) {
    needles.push_back({{"length", n.length}, {"depth", n.depth}, {"questions", n.questions}, {"correct", n.correct}});
  }
  const nlohmann::json builtin = {{"parameters", NumParameters(r.builtin.spec)},
                                  {"context", r.builtin.spec.context},
                                  {"prompt", r.builtin.prompt},
                                  {"texts", texts},
                                  {"retrieval", ToJson(r.builtin.retrieval)},
                                  {"needles", needles}};
  return {{"parameters", r.parameters},
          {"builtin", builtin},
          {"short_context", r.short_context},
          {"long_context", r.long_context},
          {"seed", r.seed},
          {"machine", r.machine},
          {"models", models},
          {"streams", streams},
          {"seconds", r.seconds}};
}

std::string BuiltinText(const DemoBuiltin& b) {
  std::string text = fmt::format("builtin: {} parameters, {} tokens of context\n\n", HumanCount(NumParameters(b.spec)),
                                 HumanCount(b.spec.context));
  for (const auto& [policy, written] : b.texts) text += fmt::format("[--kv {}] {}{}\n\n", policy, b.prompt, written);
  return text + Terminal(BuiltinRows(b));
}

std::string DemoText(const DemoResult& r) {
  return fmt::format("{}\n{}\n{}", Terminal(TrainingRows(r)), Terminal(RetrievalRows(r)), Terminal(StreamRows(r)));
}

std::string DemoPage(const DemoResult& r) {
  std::string page = fmt::format(kHead, r.seed, EscapeXml(r.machine), HumanSeconds(r.seconds));
  page += BuiltinSection(r.builtin);
  page += fmt::format(kScratch, HumanCount(r.parameters), r.spec.layers, r.spec.width, r.spec.heads, r.spec.kv_heads,
                      r.short_context, r.long_context, EscapeXml(r.sample));
  page += "<h2>Extending the context</h2>\n" + HtmlTable(TrainingRows(r));
  page += HtmlPlots({PositionPlot(r), RetrievalPlot(r)}) + HtmlTable(RetrievalRows(r));
  page += std::string(kStreaming) + HtmlTable(StreamRows(r)) + HtmlPlots({StreamPlot(r, true), StreamPlot(r, false)});
  page += kPatterns;
  page += HtmlPlots({Picture("anchor", "AnchorAttention"), Picture("full", "full attention"),
                     Picture("sinks=2 window=6 sep", "SepLLM: sinks=2 window=6"),
                     Picture("scope=doc anchors=1 window=6 sep", "both in one pattern")});
  return HtmlPage("hawser demo", page);
}

}  // namespace hawser
