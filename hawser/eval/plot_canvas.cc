#include "hawser/eval/plot_canvas.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

namespace hawser {
namespace {

constexpr double kEdge = 16;
constexpr double kLeastHeight = 150;  // of the plot's rectangle
constexpr double kMarkRow = 14;
constexpr const char* kFont = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";

/// Pixels of one UTF-8 character by its first byte: what has three bytes or more may be as wide as it is high.
double LetterWidth(char lead, double size) {
  const auto byte = static_cast<unsigned char>(lead);
  return (byte & 0xc0) == 0x80 ? 0 : (byte >= 0xe3 ? 1.0 : 0.58) * size;
}

/// Bytes of the longest beginning of `text` that is at most `width` pixels wide; one letter at least.
size_t FittingBytes(std::string_view text, double size, double width) {
  double used = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const double letter = LetterWidth(text[i], size);
    used += letter;
    if (used > width && letter > 0 && i > 0) return i;
  }
  return text.size();
}

struct PlacedMark {
  double at, begin, end;  // of the line; of line and name together
  int level = 0;          // rows above the plot's upper edge
  bool left_side = false;
  std::string name;
};

bool Collide(const PlacedMark& a, const PlacedMark& b) {
  constexpr double kAir = 3;
  const auto crosses = [](double line, const PlacedMark& m) { return line > m.begin - kAir && line < m.end + kAir; };
  if (a.level == b.level) return a.begin < b.end + kAir && b.begin < a.end + kAir;
  return a.level > b.level ? crosses(a.at, b) : crosses(b.at, a);
}

}  // namespace

double TextWidth(std::string_view text, double size) {
  double width = 0;
  for (const char c : text) width += LetterWidth(c, size);
  return width;
}

std::string FitText(std::string_view text, double size, double width) {
  if (TextWidth(text, size) <= width) return std::string(text);
  return std::string(text.substr(0, FittingBytes(text, size, width - size))) + "\u2026";
}

std::vector<std::string> WrapText(std::string_view text, double size, double width) {
  std::vector<std::string> lines;
  std::string line;
  while (!text.empty()) {
    const size_t blank = std::min(text.find(' '), text.size());
    const size_t end = std::min(blank, FittingBytes(text, size, width));
    const std::string word(text.substr(0, end));
    text.remove_prefix(std::min(end == blank ? end + 1 : end, text.size()));
    if (!line.empty() && TextWidth(line + " " + word, size) > width) {
      lines.push_back(std::move(line));
      line.clear();
    }
    line += (line.empty() ? "" : " ") + word;
  }
  if (!line.empty()) lines.push_back(std::move(line));
  return lines;
}

const SvgColor& SeriesColor(size_t series) {
  const auto colors = SvgSeriesColors();
  return colors[series % colors.size()];
}

std::string SeriesMarker(size_t series, double x, double y, double size, std::string_view more) {
  const double r = 3 * size;
  const auto polygon = [&](std::initializer_list<std::pair<double, double>> corners) {
    std::string points;
    for (const auto& [dx, dy] : corners) points += fmt::format("{:.1f},{:.1f} ", x + dx * r, y + dy * r);
    points.pop_back();
    return fmt::format("<polygon{} points=\"{}\">{}</polygon>\n", SvgFill(SeriesColor(series)), points, more);
  };
  switch (series % 5) {
    case 1:
      return polygon({{-.9, -.9}, {.9, -.9}, {.9, .9}, {-.9, .9}});
    case 2:
      return polygon({{0, -1.3}, {1.15, .9}, {-1.15, .9}});
    case 3:
      return polygon({{0, -1.35}, {1.35, 0}, {0, 1.35}, {-1.35, 0}});
    case 4:
      return polygon({{0, 1.3}, {1.15, -.9}, {-1.15, -.9}});
    default:
      return fmt::format("<circle{} cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"{:.1f}\">{}</circle>\n",
                         SvgFill(SeriesColor(series)), x, y, r, more);
  }
}

std::string SeriesBar(size_t series, const PlotBox& box, std::string_view more) {
  const SvgColor& color = SeriesColor(series);
  const size_t turn = series / SvgSeriesColors().size();
  const double edge = turn == 0 ? 0 : std::min({1.5, box.width / 2, box.height / 2});
  std::string paint = SvgFill(color);
  if (turn > 0) {
    paint = fmt::format("{} stroke-width=\"{:.1f}\" fill-opacity=\"{}\"{}", SvgFillAndStroke(color), edge,
                        turn == 1 ? 0.3 : 0, turn > 2 ? " stroke-dasharray=\"3 2\"" : "");
  }
  return fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"1.5\"{}>{}</rect>\n",
                     box.x + edge / 2, box.y + edge / 2, box.width - edge, box.height - edge, paint, more);
}

PlotCanvas::PlotCanvas(int width, int height, const std::string& title, const std::string& subtitle)
    : width_(width), height_(height), title_(title), top_(14) {
  const auto paragraph = [&](const std::string& text, const Style& style) {
    // Bold letters are wider than TextWidth has them.
    for (const std::string& line : WrapText(text, style.size, (width_ - 2 * kEdge) / (style.weight > 500 ? 1.06 : 1))) {
      Text(kEdge, top_ + style.size - 1, line, style);
      top_ += style.size + 5;
    }
  };
  paragraph(title, {.size = 16, .color = &kSvgInk, .weight = 600});
  top_ += title.empty() ? 0 : 3;
  paragraph(subtitle, {});
  top_ += subtitle.empty() ? 0 : 2;
}

void PlotCanvas::Text(double x, double y, std::string_view text, const Style& style) {
  std::string turned;
  if (style.turn != 0) turned = fmt::format(" transform=\"rotate({:.0f} {:.1f} {:.1f})\"", style.turn, x, y);
  svg_ += fmt::format(
      "<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{}\"{} font-weight=\"{}\" text-anchor=\"{}\"{}>{}</text>\n", x, y,
      style.size, SvgFill(*style.color), style.weight, style.anchor, turned, EscapeXml(text));
}

void PlotCanvas::Line(double x1, double y1, double x2, double y2, const SvgColor& color, std::string_view more) {
  svg_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"{}{}/>\n", x1, y1, x2, y2,
                      SvgStroke(color), more);
}

void PlotCanvas::Legend(const std::vector<LegendEntry>& entries, bool lines) {
  double x = kEdge;
  bool any = false;
  for (size_t i = 0; i < entries.size(); ++i) {
    if (entries[i].name.empty()) continue;
    const std::vector<std::string> name = WrapText(entries[i].name, 12, width_ - 2 * kEdge - 30);
    double wide = 0;
    for (const std::string& line : name) wide = std::max(wide, 30 + TextWidth(line, 12));
    if (any && x + wide > width_ - kEdge) {
      x = kEdge;
      top_ += 18;
    }
    any = true;
    if (lines) {
      Line(x, top_ + 8, x + 24, top_ + 8, SeriesColor(i),
           entries[i].dashed ? " stroke-width=\"2.5\" stroke-dasharray=\"5 4\"" : " stroke-width=\"2.5\"");
      if (entries[i].marked) svg_ += SeriesMarker(i, x + 12, top_ + 8, 1.1);
    } else {
      svg_ += SeriesBar(i, {.x = x + 6, .y = top_ + 2, .width = 12, .height = 12});
    }
    for (size_t line = 0; line < name.size(); ++line) {
      if (line > 0) top_ += 15;
      Text(x + 30, top_ + 12, name[line], {.color = &kSvgInk});
    }
    x = name.size() > 1 ? width_ : x + wide + 16;  // nothing stands beside several lines
  }
  if (any) top_ += 22;
}

int PlotCanvas::TickCount() const {
  return std::max(3, static_cast<int>(std::max(kLeastHeight, height_ - top_ - 64) / 42));
}

void PlotCanvas::Frame(const Axis& y_axis, const PlotScale& y, double below) {
  if (!y_axis.label.empty()) {
    Text(kEdge, top_ + 12, FitText(y_axis.label, 12, width_ - 2 * kEdge), {});
    top_ += 18;
  }
  top_ += 8;
  double wide = 0;
  for (const double tick : AxisTicks(y_axis.scale, y.low, y.high, TickCount())) {
    wide = std::max(wide, TextWidth(TickLabel(y_axis.scale, tick), 11));
  }
  left_ = kEdge + wide + 8;
  right_ = width_ - kEdge - 8;
  bottom_ = std::max(height_ - below, top_ + kLeastHeight);
  height_ = bottom_ + below;
}

void PlotCanvas::Marks(const std::vector<PlotMark>& marks, const PlotScale& x) {
  std::vector<PlacedMark> placed;
  std::vector<PlotMark> sorted = marks;
  std::erase_if(sorted, [&](const PlotMark& m) { return !x.Shows(m.x) || m.x < x.low || m.x > x.high; });
  std::ranges::sort(sorted, {}, [](const PlotMark& m) { return -m.x; });
  int levels = 0;
  for (const PlotMark& mark : sorted) {
    PlacedMark one{.at = x(mark.x), .name = FitText(mark.name, 11, (right_ - left_) / 2)};
    const double wide = one.name.empty() ? 0 : 5 + TextWidth(one.name, 11);
    one.left_side = one.at + wide > right_;
    one.begin = one.left_side ? one.at - wide : one.at;
    one.end = one.left_side ? one.at : one.at + wide;
    const auto collides = [&](const PlacedMark& other) { return Collide(one, other); };
    while (one.level < static_cast<int>(placed.size()) && std::ranges::any_of(placed, collides)) ++one.level;
    if (!one.name.empty()) levels = std::max(levels, one.level + 1);
    placed.push_back(std::move(one));
  }
  top_ += levels * kMarkRow;
  if (bottom_ < top_ + kLeastHeight) {
    height_ += top_ + kLeastHeight - bottom_;
    bottom_ = top_ + kLeastHeight;
  }
  for (const PlacedMark& mark : placed) {
    const double row = top_ - 6 - mark.level * kMarkRow;
    Line(mark.at, row - (mark.name.empty() ? 0 : 8), mark.at, bottom_, kSvgRule, " stroke-dasharray=\"2 3\"");
    if (mark.name.empty()) continue;
    Text(mark.at + (mark.left_side ? -5 : 5), row, mark.name, {.size = 11, .anchor = mark.left_side ? "end" : "start"});
  }
}

void PlotCanvas::YAxis(const Axis& axis, PlotScale* y) {
  y->from = bottom_;
  y->to = top_;
  for (const double tick : AxisTicks(axis.scale, y->low, y->high, TickCount())) {
    Line(left_, (*y)(tick), right_, (*y)(tick), kSvgGrid);
    Text(left_ - 8, (*y)(tick) + 4, TickLabel(axis.scale, tick), {.size = 11, .anchor = "end"});
  }
}

void PlotCanvas::XAxis(const Axis& axis, const PlotScale& x) {
  double free_from = left_ - 12;  // labels that would touch the one before are left out
  for (const double tick : AxisTicks(axis.scale, x.low, x.high, width_ / 48)) {
    const std::string label = TickLabel(axis.scale, tick);
    const double half = TextWidth(label, 11) / 2;
    Line(x(tick), bottom_, x(tick), bottom_ + 4, kSvgRule);
    if (x(tick) - half < free_from) continue;
    Text(x(tick), bottom_ + 17, label, {.size = 11, .anchor = "middle"});
    free_from = x(tick) + half + 8;
  }
}

void PlotCanvas::Baseline(std::string_view x_label) {
  Line(left_, bottom_, right_, bottom_, kSvgRule);
  if (x_label.empty()) return;
  Text((left_ + right_) / 2, height_ - 10, FitText(x_label, 12, right_ - left_), {.anchor = "middle"});
}

void PlotCanvas::BeginClip() {
  constexpr double kAir = 5;  // for dots on the border
  svg_ += fmt::format(
      "<svg x=\"{0:.1f}\" y=\"{1:.1f}\" width=\"{2:.1f}\" height=\"{3:.1f}\" "
      "viewBox=\"{0:.1f} {1:.1f} {2:.1f} {3:.1f}\">\n",
      left_ - kAir, top_ - kAir, right_ - left_ + 2 * kAir, bottom_ - top_ + 2 * kAir);
}

std::string PlotCanvas::Finish() const {
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1:.0f}\" viewBox=\"0 0 {0} {1:.0f}\" "
             "role=\"img\" font-family=\"{2}\" font-size=\"12\">\n"
             "<title>{3}</title>\n{4}<rect width=\"{0}\" height=\"{1:.0f}\" rx=\"8\"{5}/>\n",
             width_, height_, kFont, EscapeXml(title_), SvgDarkStyle(), SvgFill(kSvgPaper)) +
         svg_ + "</svg>\n";
}

std::string PlotCanvas::FinishAt(double height) {
  height_ = height;
  return Finish();
}

std::string PlotCanvas::FinishEmpty() {
  height_ = std::max(height_, top_ + 40);
  Text(width_ / 2.0, (top_ + height_) / 2, "no data", {.size = 14, .anchor = "middle"});
  return Finish();
}

}  // namespace hawser
