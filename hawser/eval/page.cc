#include "hawser/eval/page.h"

#include <fmt/format.h>

#include "hawser/eval/plot.h"

namespace hawser {
namespace {

constexpr std::string_view kStyle = R"(
body { font: 16px/1.55 system-ui, sans-serif; color: #1b2733; background: #fbfbf9; max-width: 1420px; margin: 2rem auto; padding: 0 1.5rem; }
h1 { font-size: 1.8rem; margin-bottom: .4rem; overflow-wrap: anywhere; }
h2 { margin-top: 2.2rem; border-bottom: 1px solid #d9dee3; padding-bottom: .2rem; }
p, blockquote { max-width: 56rem; }
blockquote { color: #43525f; font-style: italic; border-left: 3px solid #c7d0d8; margin-left: 0; padding-left: 1rem; }
.plots { display: flex; flex-wrap: wrap; gap: 1.5rem; }
.plots > div { background: #fff; border: 1px solid #e3e7ea; border-radius: 6px; padding: .5rem; max-width: 100%; box-sizing: border-box; }
.plots svg { max-width: 100%; height: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-size: .93rem; }
th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #e3e7ea; }
th { font-weight: 500; color: #5b6b78; }
th:first-child, td:first-child { text-align: left; }
.note { color: #5b6b78; font-size: .93rem; }
code { background: #eef1f3; padding: 0 .25rem; border-radius: 3px; }
pre { background: #fff; border: 1px solid #e3e7ea; border-radius: 6px; padding: 1rem; overflow-x: auto; font-size: .88rem; }
)";

}  // namespace

std::string HtmlPage(std::string_view title, std::string_view body) {
  return fmt::format(
      "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" "
      "content=\"width=device-width\"><title>{0}</title><style>{1}</style></head>\n<body>\n<h1>{0}</h1>\n{2}\n"
      "</body></html>\n",
      EscapeXml(title), kStyle, body);
}

std::string HtmlPlots(const std::vector<std::string>& pictures) {
  std::string html = "<div class=\"plots\">\n";
  for (const std::string& picture : pictures) html += "<div>" + picture + "</div>\n";
  return html + "</div>\n";
}

}  // namespace hawser
