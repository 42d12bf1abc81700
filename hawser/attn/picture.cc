#include "hawser/attn/picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "hawser/base/error.h"
#include "hawser/base/svg.h"

namespace hawser {
namespace {

struct Piece {
  char mark;
  SvgColor color;
  const char* text;
};
enum PieceIndex { kAnchor, kPinned, kBand, kInvisible };
constexpr Piece kPieces[] = {{'A', {"pa", "#d55e00", "#ff8f45"}, "anchor"},
                             {'o', {"po", "#f0b323", "#f5d76e"}, "pinned (sinks, separators)"},
                             {'#', {"pb", "#0072b2", "#3d95d6"}, "band"},
                             {'.', {"pi", "#dee2e6", "#2f3640"}, "invisible"}};

void CheckSize(const AttnSchedule& schedule, int32_t most) {
  if (schedule.num_keys > most) {
    Fail(ErrorKind::kUsage, "a picture of {} keys; at most {} can be drawn", schedule.num_keys, most);
  }
}

// The piece of each key up to the row's query.
std::vector<uint8_t> RowPieces(const AttnSchedule& s, int32_t row) {
  std::vector<uint8_t> pieces(s.QueryKey(row) + 1, kInvisible);
  for (int32_t slot = 0; slot < s.AnchorCount(row); ++slot) pieces[s.compact[slot]] = kAnchor;
  if (!s.pinned_begin.empty()) {
    for (int32_t slot = s.pinned_begin[row]; slot < s.pinned_end[row]; ++slot) pieces[s.compact[slot]] = kPinned;
  }
  for (int32_t k = s.band_begin[row]; k <= s.QueryKey(row); ++k) pieces[k] = kBand;
  return pieces;
}

}  // namespace

std::string DrawPattern(const AttnSchedule& schedule, const TokenLayout& layout) {
  CheckSize(schedule, kMaxTextPicture);
  const bool wide = schedule.num_keys <= 64;
  std::string text;
  for (int32_t row = 0; row < schedule.num_queries; ++row) {
    const int32_t q = schedule.QueryKey(row);
    text += fmt::format("{:>4}{} ", q, layout.IsPadding(q) ? '-' : layout.IsSeparator(q) ? ',' : ' ');
    for (uint8_t piece : RowPieces(schedule, row)) {
      text += kPieces[piece].mark;
      if (wide) text += ' ';
    }
    if (wide) text.pop_back();
    text += '\n';
  }
  text += "     ";
  for (const Piece& piece : kPieces) text += fmt::format(" {} {} ", piece.mark, piece.text);
  text.back() = '\n';
  return text;
}

std::string DrawPatternSvg(const AttnSchedule& schedule, const TokenLayout& layout, std::string_view title) {
  CheckSize(schedule, kMaxSvgPicture);
  const int32_t cell = std::clamp(320 / std::max(schedule.num_keys, 1), 1, 16);
  const int32_t gap = cell >= 5 ? 1 : 0;
  std::string paths[std::size(kPieces)];
  std::string edges;  // where documents begin
  for (int32_t row = 0; row < schedule.num_queries; ++row) {
    const std::vector<uint8_t> pieces = RowPieces(schedule, row);
    const int32_t y = row * cell;
    for (size_t k = 0; k < pieces.size();) {
      size_t end = k + 1;
      while (end < pieces.size() && pieces[end] == pieces[k] && gap == 0) ++end;
      const int32_t width = static_cast<int32_t>(end - k) * cell - gap;
      paths[pieces[k]] += fmt::format("M{} {}h{}v{}h-{}z", k * cell, y, width, cell - gap, width);
      k = end;
    }
    const int32_t q = schedule.QueryKey(row);
    if (q > 0 && layout.DocBegin(q) == q) edges += fmt::format("M0 {}h{}", y, (q + 1) * cell);
  }
  const int32_t width =
      std::max({schedule.num_keys * cell, 400, 7 * static_cast<int32_t>(std::min<size_t>(title.size(), 200))});
  const int32_t height = schedule.num_queries * cell;
  std::string style;
  for (const Piece& piece : kPieces) style += fmt::format(".f-{}{{fill:{}}}", piece.color.name, piece.color.dark);
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-8 -28 {0} {1}\" width=\"{0}\" height=\"{1}\" role=\"img\" "
      "font-family=\"system-ui, sans-serif\" font-size=\"12\">\n<title>{2}</title>\n"
      "{3}<style>@media (prefers-color-scheme:dark){{{4}}}</style>\n"
      "<rect x=\"-8\" y=\"-28\" width=\"{0}\" height=\"{1}\" rx=\"8\"{5}/>\n<text y=\"-9\"{6}>{2}</text>\n",
      width + 16, height + 60, EscapeXml(title), SvgDarkStyle(), style, SvgFill(kSvgPaper), SvgFill(kSvgInk));
  for (size_t i = 0; i < std::size(kPieces); ++i) {
    if (!paths[i].empty()) svg += fmt::format("<path{} d=\"{}\"/>\n", SvgFill(kPieces[i].color), paths[i]);
  }
  if (!edges.empty())
    svg += fmt::format("<path fill=\"none\"{} stroke-width=\".6\" d=\"{}\"/>\n", SvgStroke(kSvgInk), edges);
  int32_t x = 0;
  for (const Piece& piece : kPieces) {
    svg += fmt::format("<rect x=\"{}\" y=\"{}\" width=\"10\" height=\"10\"{}/><text x=\"{}\" y=\"{}\"{}>{}</text>\n", x,
                       height + 8, SvgFill(piece.color), x + 14, height + 17, SvgFill(kSvgInk), piece.text);
    x += 28 + 6 * static_cast<int32_t>(std::string_view(piece.text).size());
  }
  return svg + "</svg>\n";
}

}  // namespace hawser
