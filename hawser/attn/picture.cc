#include "hawser/attn/picture.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>

#include "hawser/base/error.h"

namespace hawser {
namespace {

struct Piece {
  char mark;
  const char* color;
  const char* text;
};
enum PieceIndex { kAnchor, kPinned, kBand, kInvisible };
constexpr Piece kPieces[] = {{'A', "#d9480f", "anchor"},
                             {'o', "#2f9e44", "pinned (sinks, separators)"},
                             {'#', "#1c7ed6", "band"},
                             {'.', "#dee2e6", "invisible"}};

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

std::string Escape(std::string_view text) {
  std::string escaped;
  for (char c : text) {
    switch (c) {
      case '&':
        escaped += "&amp;";
        break;
      case '<':
        escaped += "&lt;";
        break;
      case '>':
        escaped += "&gt;";
        break;
      default:
        escaped += c;
    }
  }
  return escaped;
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
  std::string svg = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"-4 -24 {} {}\" width=\"{}\" role=\"img\" "
      "font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"currentColor\">\n<title>{}</title>\n"
      "<text y=\"-9\">{}</text>\n",
      width + 8, height + 52, width + 8, Escape(title), Escape(title));
  for (size_t i = 0; i < std::size(kPieces); ++i) {
    if (!paths[i].empty()) svg += fmt::format("<path fill=\"{}\" d=\"{}\"/>\n", kPieces[i].color, paths[i]);
  }
  if (!edges.empty())
    svg += fmt::format("<path fill=\"none\" stroke=\"currentColor\" stroke-width=\".6\" d=\"{}\"/>\n", edges);
  int32_t x = 0;
  for (const Piece& piece : kPieces) {
    svg += fmt::format(
        "<rect x=\"{}\" y=\"{}\" width=\"10\" height=\"10\" fill=\"{}\"/><text x=\"{}\" y=\"{}\">{}</text>\n", x,
        height + 8, piece.color, x + 14, height + 17, piece.text);
    x += 28 + 6 * static_cast<int32_t>(std::string_view(piece.text).size());
  }
  return svg + "</svg>\n";
}

}  // namespace hawser
