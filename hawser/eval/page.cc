#include "hawser/eval/page.h"

#include <fmt/format.h>

#include <algorithm>

#include "hawser/base/origin.h"

namespace hawser {
namespace {

constexpr std::string_view kStyle = R"(
:root { color-scheme: light dark; --ink: #1b2733; --soft: #55636f; --paper: #fbfbf9; --card: #ffffff; --line: #dde2e6; --code: #eef1f3; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e9ef; --soft: #a3aebb; --paper: #0f1216; --card: #171b21; --line: #303741; --code: #232a33; }
}
body { font: 16px/1.55 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1420px; margin: 2rem auto; padding: 0 1.5rem; overflow-wrap: anywhere; }
h1 { font-size: 1.8rem; margin-bottom: .4rem; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid var(--line); padding-bottom: .2rem; }
p, blockquote, footer { max-width: 56rem; }
blockquote { color: var(--soft); font-style: italic; border-left: 3px solid var(--line); margin-left: 0; padding-left: 1rem; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 35rem), 1fr)); gap: 1.5rem; margin: 1rem 0; }
.plots > div { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: .5rem; min-width: 0; box-sizing: border-box; }
.plots svg { display: block; max-width: 100%; height: auto; }
.narrow { display: none; }
.table { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .93rem; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; color: var(--soft); }
th:first-child, td:first-child { text-align: left; }
.note, footer { color: var(--soft); font-size: .93rem; }
footer { margin-top: 3rem; border-top: 1px solid var(--line); padding-top: .5rem; }
code { background: var(--code); padding: 0 .25rem; border-radius: 3px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 6px; padding: 1rem; overflow-x: auto; font-size: .88rem; overflow-wrap: normal; }
@media (max-width: 700px) {
  body { margin: 1rem auto; padding: 0 1rem; }
  .plots { gap: 1rem; }
  th, td { padding: .3rem .4rem; }
  .plots > div { padding: 0; }
  .wide { display: none; }
  .narrow { display: block; }
}
)";

std::string Foot() {
  const Origin origin = ThisRun();
  std::string html = fmt::format("<footer>Written {} by hawser {}", origin.date, EscapeXml(origin.version));
  if (!origin.command.empty()) html += fmt::format(" as <code>{}</code>", EscapeXml(origin.command));
  return html + fmt::format(" on {}.</footer>", EscapeXml(origin.machine));
}

template <class Plot>
std::string WideAndNarrow(const Plot& plot, int height) {
  Plot narrow = plot;
  narrow.width = 356;
  narrow.height = height;
  return fmt::format("<div class=\"wide\">{}</div><div class=\"narrow\">{}</div>", RenderSvg(plot), RenderSvg(narrow));
}

}  // namespace

std::string HtmlPage(std::string_view title, std::string_view body) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width, initial-scale=1\"><title>{0}</title><style>{1}</style></head>\n<body>\n"
      "<h1>{0}</h1>\n{2}\n{3}\n</body></html>\n",
      EscapeXml(title), kStyle, body, Foot());
}

std::string HtmlPlots(const std::vector<std::string>& pictures) {
  std::string html = "<div class=\"plots\">\n";
  for (const std::string& picture : pictures) html += "<div>" + picture + "</div>\n";
  return html + "</div>\n";
}

std::string HtmlPlot(const LinePlot& plot) { return WideAndNarrow(plot, 300); }
std::string HtmlPlot(const BarPlot& plot) { return WideAndNarrow(plot, 320); }

std::string HtmlTable(const std::vector<std::vector<std::string>>& rows) {
  std::string html = "<div class=\"table\"><table>";
  for (size_t i = 0; i < rows.size(); ++i) {
    html += "<tr>";
    for (const std::string& cell : rows[i])
      html += fmt::format("<{0}>{1}</{0}>", i == 0 ? "th" : "td", EscapeXml(cell));
    html += "</tr>";
  }
  return html + "</table></div>\n";
}

std::string EscapeLines(std::string_view text) {
  std::string html;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    html += EscapeXml(text.substr(begin, end - begin)) + "\n";
    begin = end + 1;
  }
  return html;
}

}  // namespace hawser
