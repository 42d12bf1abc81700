#include "hawser/base/svg.h"

#include <fmt/format.h>

#include <array>

namespace hawser {
namespace {

constexpr std::array<SvgColor, 6> kSeries = {{{"sa", "#0072b2", "#56a8e8"},
                                              {"sb", "#d55e00", "#ff8f45"},
                                              {"sc", "#00875f", "#2cc594"},
                                              {"sd", "#b8478b", "#e68fc3"},
                                              {"se", "#a87900", "#f0c244"},
                                              {"sf", "#2f95c8", "#9adcf7"}}};

/// Bytes of the UTF-8 character at the front of `text`; 0 where there is none.
size_t CharacterSize(std::string_view text) {
  const auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char lead = byte(0);
  const size_t size = lead < 0x80                   ? 1
                      : lead >= 0xc2 && lead < 0xe0 ? 2
                      : lead >= 0xe0 && lead < 0xf0 ? 3
                      : lead >= 0xf0 && lead < 0xf5 ? 4
                                                    : 0;
  if (size == 0 || size > text.size()) return 0;
  for (size_t i = 1; i < size; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if (lead == 0xe0 && byte(1) < 0xa0) return 0;                     // overlong
  if (lead == 0xed && byte(1) > 0x9f) return 0;                     // surrogates
  if (lead == 0xef && byte(1) == 0xbf && byte(2) > 0xbd) return 0;  // U+FFFE and U+FFFF are no XML
  if (lead == 0xf0 && byte(1) < 0x90) return 0;                     // overlong
  if (lead == 0xf4 && byte(1) > 0x8f) return 0;                     // above U+10FFFF
  return size;
}

}  // namespace

std::span<const SvgColor> SvgSeriesColors() { return kSeries; }

std::string SvgFill(const SvgColor& color) {
  return fmt::format(" class=\"f-{}\" fill=\"{}\"", color.name, color.light);
}
std::string SvgStroke(const SvgColor& color) {
  return fmt::format(" class=\"s-{}\" stroke=\"{}\"", color.name, color.light);
}
std::string SvgFillAndStroke(const SvgColor& color) {
  return fmt::format(" class=\"f-{0} s-{0}\" fill=\"{1}\" stroke=\"{1}\"", color.name, color.light);
}

std::string SvgDarkStyle() {
  std::string rules;
  const auto add = [&](const SvgColor& color) {
    rules += fmt::format(".f-{0}{{fill:{1}}}.s-{0}{{stroke:{1}}}", color.name, color.dark);
  };
  for (const SvgColor& color : {kSvgPaper, kSvgInk, kSvgSoftInk, kSvgGrid, kSvgRule}) add(color);
  for (const SvgColor& color : kSeries) add(color);
  return "<style>@media (prefers-color-scheme:dark){" + rules + "}</style>\n";
}

std::string EscapeXml(std::string_view text) {
  std::string out;
  while (!text.empty()) {
    const size_t size = CharacterSize(text);
    const auto c = static_cast<unsigned char>(text.front());
    if (size == 0) {
      out += "\xef\xbf\xbd";
    } else if (size > 1) {
      out += text.substr(0, size);
    } else if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else if (c == '>') {
      out += "&gt;";
    } else if (c == '"') {
      out += "&quot;";
    } else if (c == '\'') {
      out += "&#39;";
    } else if (c >= 0x20 && c != 0x7f) {
      out += static_cast<char>(c);
    }
    text.remove_prefix(std::max<size_t>(size, 1));
  }
  return out;
}

}  // namespace hawser
