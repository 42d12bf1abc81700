#include "hawser/eval/plot.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "hawser/base/error.h"
#include "hawser/eval/report.h"

namespace hawser {
namespace {

constexpr const char* kColors[] = {"#2563eb", "#d97706", "#059669", "#db2777", "#7c3aed", "#64748b"};
constexpr const char* kInk = "#1f2937";
constexpr const char* kSoftInk = "#64748b";
constexpr const char* kGrid = "#e5e7eb";
constexpr const char* kFont = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif";
constexpr size_t kMostMarkers = 48;  // points of a series that still get a dot each

const char* Color(size_t i) { return kColors[i % std::size(kColors)]; }

/// Pixels of a text, generously: exact widths are the viewer's.
double TextWidth(std::string_view text, double size) {
  const auto letters = std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xc0) != 0x80; });
  return 0.58 * size * static_cast<double>(letters);
}

/// Maps values to pixels.
struct Scale {
  AxisScale kind = AxisScale::kLinear;
  double low = 0, high = 1;
  double from = 0, to = 1;

  static double Warp(AxisScale kind, double v) { return kind == AxisScale::kLinear ? v : std::log2(v); }
  bool Shows(double v) const { return std::isfinite(v) && (kind == AxisScale::kLinear || v > 0); }
  double operator()(double v) const {
    const double a = Warp(kind, low), b = Warp(kind, high);
    return from + (Warp(kind, v) - a) / (b - a) * (to - from);
  }
};

/// Collects values and settles the range of an axis.
class Range {
 public:
  explicit Range(const Axis& axis) : axis_(axis) {}
  void Add(double v) {
    if (!Scale{.kind = axis_.scale}.Shows(v)) return;
    low_ = std::min(low_, v);
    high_ = std::max(high_, v);
  }
  bool empty() const { return low_ > high_; }

  /// REQUIRES: not empty. `tight` ends at the data; else the range is widened to whole ticks, and a linear one begins
  /// at 0 where that costs less than half of the height.
  Scale Settle(bool tight, bool from_zero, int ticks) const {
    Scale s{.kind = axis_.scale, .low = low_, .high = high_};
    const bool log = axis_.scale != AxisScale::kLinear;
    if (!log && (from_zero || (!tight && s.low > 0 && s.low < 0.5 * s.high))) s.low = std::min(0.0, s.low);
    if (s.low == s.high) {
      const double pad = s.high == 0 ? 1 : std::abs(s.high) * 0.5;
      s.low = log ? s.low / 2 : s.low - pad;
      s.high = log ? s.high * 2 : s.high + pad;
    }
    if (!tight) Widen(&s, from_zero, ticks);
    if (axis_.min && s.Shows(*axis_.min)) s.low = *axis_.min;
    if (axis_.max && s.Shows(*axis_.max)) s.high = *axis_.max;
    if (!(s.low < s.high)) s.high = log ? s.low * 2 : s.low + 1;
    return s;
  }

 private:
  static void Widen(Scale* s, bool from_zero, int ticks) {
    if (s->kind == AxisScale::kLinear) {
      const double high = s->high;
      const std::vector<double> at = AxisTicks(s->kind, s->low, s->high, ticks);
      const double step = at.size() > 1 ? at[1] - at[0] : s->high - s->low;
      s->low = std::floor(s->low / step + 1e-9) * step;
      s->high = std::ceil(s->high / step - 1e-9) * step;
      if (from_zero && high > s->high - 0.3 * step) s->high += 0.5 * step;  // room for the value on top
      return;
    }
    // Bars need some length below the least value; lines a little air.
    const double air = std::pow(s->high / s->low, 0.06);
    s->low /= from_zero ? std::max(2.0, air) : air;
    s->high *= air;
  }

  const Axis& axis_;
  double low_ = std::numeric_limits<double>::infinity();
  double high_ = -std::numeric_limits<double>::infinity();
};

/// The parts that both kinds share: page, title, legend, y axis, frame.
class Canvas {
 public:
  Canvas(int width, int height, const std::string& title, const std::string& subtitle)
      : width_(width), height_(height) {
    svg_ = fmt::format(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0}\" height=\"{1}\" viewBox=\"0 0 {0} {1}\" role=\"img\" "
        "font-family=\"{2}\" font-size=\"12\" style=\"max-width:100%;height:auto\">\n"
        "<title>{3}</title>\n<rect width=\"{0}\" height=\"{1}\" rx=\"8\" fill=\"#ffffff\"/>\n",
        width, height, kFont, EscapeXml(title));
    top_ = 14;
    if (!title.empty()) {
      Text(kEdge, top_ + 14, title, {.size = 16, .color = kInk, .weight = 600});
      top_ += 24;
    }
    if (!subtitle.empty()) {
      Text(kEdge, top_ + 11, subtitle, {.size = 12});
      top_ += 19;
    }
  }

  struct Style {
    double size = 12;
    const char* color = kSoftInk;
    int weight = 400;
    const char* anchor = "start";
  };
  void Text(double x, double y, std::string_view text, const Style& style) {
    svg_ += fmt::format(
        "<text x=\"{:.1f}\" y=\"{:.1f}\" font-size=\"{}\" fill=\"{}\" font-weight=\"{}\" "
        "text-anchor=\"{}\">{}</text>\n",
        x, y, style.size, style.color, style.weight, style.anchor, EscapeXml(text));
  }
  void Line(double x1, double y1, double x2, double y2, const char* color, std::string_view more = {}) {
    svg_ += fmt::format("<line x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\" stroke=\"{}\"{}/>\n", x1, y1, x2,
                        y2, color, more);
  }

  struct LegendEntry {
    std::string_view name;
    bool dashed;
  };
  /// Swatches in rows under the title; one nameless series needs none.
  void Legend(const std::vector<LegendEntry>& entries, bool lines) {
    double x = kEdge;
    bool any = false;
    for (size_t i = 0; i < entries.size(); ++i) {
      if (entries[i].name.empty()) continue;
      const double wide = 28 + TextWidth(entries[i].name, 12);
      if (any && x + wide > width_ - kEdge) {
        x = kEdge;
        top_ += 18;
      }
      any = true;
      if (lines) {
        Line(x, top_ + 8, x + 20, top_ + 8, Color(i),
             entries[i].dashed ? " stroke-width=\"2.5\" stroke-dasharray=\"5 4\"" : " stroke-width=\"2.5\"");
      } else {
        svg_ += fmt::format("<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"12\" height=\"12\" rx=\"2\" fill=\"{}\"/>\n",
                            x + 4, top_ + 2, Color(i));
      }
      Text(x + 26, top_ + 12, entries[i].name, {.color = kInk});
      x += wide + 16;
    }
    if (any) top_ += 22;
  }

  /// Settles the plot's rectangle, draws the y axis; `y` gets its pixels.
  void YAxis(const Axis& axis, Scale* y, bool x_label) {
    if (!axis.label.empty()) {
      Text(kEdge, top_ + 12, axis.label, {});
      top_ += 18;
    }
    top_ += 8;
    bottom_ = height_ - (x_label ? 46 : 30);
    y->from = bottom_;
    y->to = top_;
    double wide = 0;
    const std::vector<double> ticks = AxisTicks(axis.scale, y->low, y->high, TickCount());
    for (const double tick : ticks) wide = std::max(wide, TextWidth(TickLabel(axis.scale, tick), 11));
    left_ = kEdge + wide + 8;
    right_ = width_ - kEdge - 8;
    for (const double tick : ticks) {
      Line(left_, (*y)(tick), right_, (*y)(tick), kGrid);
      Text(left_ - 8, (*y)(tick) + 4, TickLabel(axis.scale, tick), {.size = 11, .anchor = "end"});
    }
  }
  void Baseline(std::string_view x_label) {
    Line(left_, bottom_, right_, bottom_, "#94a3b8");
    if (!x_label.empty()) Text((left_ + right_) / 2, height_ - 10, x_label, {.anchor = "middle"});
  }

  int TickCount() const { return std::max(3, (height_ - 120) / 42); }
  double left() const { return left_; }
  double right() const { return right_; }
  double top() const { return top_; }
  double bottom() const { return bottom_; }
  std::string& svg() { return svg_; }
  /// What is drawn between the two is cut off at the plot's rectangle.
  void BeginClip() {
    constexpr double kAir = 5;  // for dots on the border
    svg_ += fmt::format(
        "<svg x=\"{0:.1f}\" y=\"{1:.1f}\" width=\"{2:.1f}\" height=\"{3:.1f}\" "
        "viewBox=\"{0:.1f} {1:.1f} {2:.1f} {3:.1f}\">\n",
        left_ - kAir, top_ - kAir, right_ - left_ + 2 * kAir, bottom_ - top_ + 2 * kAir);
  }
  void EndClip() { svg_ += "</svg>\n"; }
  std::string Finish() { return svg_ + "</svg>\n"; }
  std::string FinishEmpty() {
    Text(width_ / 2.0, height_ / 2.0, "no data", {.size = 14, .anchor = "middle"});
    return Finish();
  }

 private:
  static constexpr double kEdge = 16;
  int width_, height_;
  double left_ = 0, right_ = 0, top_ = 0, bottom_ = 0;
  std::string svg_;
};

void DrawSeries(const PlotSeries& series, const char* color, const Scale& x, const Scale& y, std::string* svg) {
  std::string path, dots;
  bool pen = false;
  for (size_t i = 0; i < series.x.size(); ++i) {
    const double vx = series.x[i], vy = series.y[i];
    if (!x.Shows(vx) || !y.Shows(vy)) {
      pen = false;
      continue;
    }
    // Far outside the plot is as good as just outside, and keeps numbers sane.
    const double px = std::clamp(x(vx), -1e4, 1e5), py = std::clamp(y(vy), -1e4, 1e5);
    path += fmt::format("{}{:.1f} {:.1f}", pen ? "L" : "M", px, py);
    pen = true;
    if (series.x.size() <= kMostMarkers) {
      dots += fmt::format(
          "<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.8\" fill=\"{}\"><title>{}{}: {}</title></circle>\n", px, py, color,
          series.name.empty() ? "" : EscapeXml(series.name) + ", ", TickLabel(x.kind, vx), HumanNumber(vy));
    }
  }
  if (path.empty()) return;
  *svg += fmt::format(
      "<path d=\"{}\" fill=\"none\" stroke=\"{}\" stroke-width=\"2\" stroke-linejoin=\"round\" "
      "stroke-linecap=\"round\"{}/>\n{}",
      path, color, series.dashed ? " stroke-dasharray=\"5 4\"" : "", dots);
}

}  // namespace

std::string EscapeXml(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&quot;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        if (static_cast<unsigned char>(c) >= 0x20) out += c;
    }
  }
  return out;
}

std::vector<double> AxisTicks(AxisScale scale, double low, double high, int count) {
  std::vector<double> ticks;
  if (!(low < high) || !std::isfinite(high - low) || count < 1) return ticks;
  constexpr double kSlack = 1e-9;
  if (scale == AxisScale::kLinear) {
    const double raw = (high - low) / count;
    const double power = std::pow(10.0, std::floor(std::log10(raw)));
    double step = 10 * power;
    for (const double factor : {5.0, 2.0, 1.0}) {
      if (factor * power >= raw * (1 - kSlack)) step = factor * power;
    }
    for (double k = std::ceil(low / step - kSlack); k <= high / step + kSlack; ++k) ticks.push_back(k * step);
    return ticks;
  }
  if (low <= 0) return ticks;
  const double base = scale == AxisScale::kLog2 ? 2 : 10;
  const double first = std::ceil(std::log(low) / std::log(base) - kSlack);
  const double last = std::floor(std::log(high) / std::log(base) + kSlack);
  const double skip = std::max(1.0, std::ceil((last - first) / count));
  if (scale == AxisScale::kLog10 && last - first < 2) {
    // Few decades: finer and finer until there are enough, and plain steps inside one.
    const std::vector<double> factors = {1, 2, 5};
    for (double decade = first - 1; decade <= last; ++decade) {
      for (const double factor : factors) {
        const double v = factor * std::pow(10.0, decade);
        if (v >= low * (1 - kSlack) && v <= high * (1 + kSlack)) ticks.push_back(v);
      }
    }
    if (ticks.size() < 3) return AxisTicks(AxisScale::kLinear, low, high, count);
    return ticks;
  }
  for (double k = std::ceil(first / skip) * skip; k <= last; k += skip) ticks.push_back(std::pow(base, k));
  if (ticks.size() < 2) return AxisTicks(AxisScale::kLinear, low, high, count);
  return ticks;
}

std::string TickLabel(AxisScale scale, double value) {
  const auto trimmed = [](double v) {
    std::string text = fmt::format("{:.6f}", v);
    text.erase(text.find_last_not_of('0') + 1);
    if (text.back() == '.') text.pop_back();
    return text == "-0" ? "0" : text;
  };
  const double size = std::abs(value);
  if (scale == AxisScale::kLog2) {
    constexpr struct {
      double unit;
      const char* name;
    } kBinary[] = {{0x1p30, "G"}, {0x1p20, "M"}, {0x1p10, "K"}};
    for (const auto& [unit, name] : kBinary) {
      if (size >= unit && std::fmod(size * 4, unit) == 0) return trimmed(value / unit) + name;
    }
    return trimmed(value);
  }
  if (size >= 1e12 || (size > 0 && size < 1e-4)) return fmt::format("{:.2g}", value);
  if (size >= 1e9) return trimmed(value / 1e9) + "G";
  if (size >= 1e6) return trimmed(value / 1e6) + "M";
  if (size >= 1e4) return trimmed(value / 1e3) + "k";
  return trimmed(value);
}

std::string RenderSvg(const LinePlot& plot) {
  Canvas canvas(plot.width, plot.height, plot.title, plot.subtitle);
  Range x_range(plot.x), y_range(plot.y);
  std::vector<Canvas::LegendEntry> legend;
  for (const PlotSeries& series : plot.series) {
    HAWSER_CHECK(series.x.size() == series.y.size());
    legend.push_back({series.name, series.dashed});
    for (size_t i = 0; i < series.x.size(); ++i) {
      if (!Scale{.kind = plot.x.scale}.Shows(series.x[i]) || !Scale{.kind = plot.y.scale}.Shows(series.y[i])) continue;
      x_range.Add(series.x[i]);
      y_range.Add(series.y[i]);
    }
  }
  if (y_range.empty()) return canvas.FinishEmpty();
  canvas.Legend(legend, /*lines=*/true);
  Scale y = y_range.Settle(/*tight=*/false, /*from_zero=*/false, canvas.TickCount());
  canvas.YAxis(plot.y, &y, !plot.x.label.empty());
  Scale x = x_range.Settle(/*tight=*/true, /*from_zero=*/false, 0);
  x.from = canvas.left() + 6;
  x.to = canvas.right();
  canvas.Baseline(plot.x.label);
  double free_from = canvas.left();  // labels that would touch the one before are left out
  for (const double tick : AxisTicks(plot.x.scale, x.low, x.high, plot.width / 48)) {
    const std::string label = TickLabel(plot.x.scale, tick);
    const double half = TextWidth(label, 11) / 2;
    canvas.Line(x(tick), canvas.bottom(), x(tick), canvas.bottom() + 4, "#94a3b8");
    if (x(tick) - half < free_from - 12) continue;
    canvas.Text(x(tick), canvas.bottom() + 17, label, {.size = 11, .anchor = "middle"});
    free_from = x(tick) + half + 8;
  }
  for (const PlotMark& mark : plot.marks) {
    if (!x.Shows(mark.x) || mark.x < x.low || mark.x > x.high) continue;
    const double at = x(mark.x);
    const bool left_side = at + 6 + TextWidth(mark.name, 11) > canvas.right();
    canvas.Line(at, canvas.top() - 4, at, canvas.bottom(), "#94a3b8", " stroke-dasharray=\"2 3\"");
    canvas.Text(left_side ? at - 5 : at + 5, canvas.top() + 6, mark.name,
                {.size = 11, .anchor = left_side ? "end" : "start"});
  }
  canvas.BeginClip();
  for (size_t i = 0; i < plot.series.size(); ++i) DrawSeries(plot.series[i], Color(i), x, y, &canvas.svg());
  canvas.EndClip();
  return canvas.Finish();
}

std::string RenderSvg(const BarPlot& plot) {
  Canvas canvas(plot.width, plot.height, plot.title, plot.subtitle);
  Range range(plot.y);
  std::vector<Canvas::LegendEntry> legend;
  for (const BarSeries& series : plot.series) {
    HAWSER_CHECK(series.values.size() == plot.groups.size());
    legend.push_back({series.name, false});
    for (const double value : series.values) range.Add(value);
  }
  if (range.empty()) return canvas.FinishEmpty();
  canvas.Legend(legend, /*lines=*/false);
  Scale y = range.Settle(/*tight=*/false, /*from_zero=*/true, canvas.TickCount());
  canvas.YAxis(plot.y, &y, false);
  const auto groups = static_cast<double>(std::max<size_t>(1, plot.groups.size()));
  const auto bars = static_cast<double>(std::max<size_t>(1, plot.series.size()));
  const double group_width = (canvas.right() - canvas.left()) / groups;
  const double bar_width = std::min(64.0, 0.76 * group_width / bars);
  const double zero = std::clamp(y.kind == AxisScale::kLinear ? y(0) : y.from, canvas.top(), canvas.bottom());
  for (size_t g = 0; g < plot.groups.size(); ++g) {
    const double middle = canvas.left() + (static_cast<double>(g) + 0.5) * group_width;
    for (size_t s = 0; s < plot.series.size(); ++s) {
      const double value = plot.series[s].values[g];
      if (!y.Shows(value)) continue;
      const double left = middle + (static_cast<double>(s) - bars / 2) * bar_width;
      const double end = std::clamp(y(value), canvas.top(), canvas.bottom());
      canvas.svg() += fmt::format(
          "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"1.5\" fill=\"{}\"><title>{}{}: "
          "{}</title></rect>\n",
          left + 1, std::min(zero, end), std::max(1.0, bar_width - 2), std::abs(zero - end), Color(s),
          EscapeXml(plot.groups[g]), plot.series[s].name.empty() ? "" : ", " + EscapeXml(plot.series[s].name),
          HumanNumber(value));
      const std::string label = std::abs(value) < 1000 ? fmt::format("{:.3g}", value) : TickLabel(y.kind, value);
      if (TextWidth(label, 10) <= bar_width + 6) {
        canvas.Text(left + bar_width / 2, value < 0 ? end + 12 : end - 4, label,
                    {.size = 10, .color = kInk, .anchor = "middle"});
      }
    }
    canvas.Text(middle, canvas.bottom() + 18, plot.groups[g], {.color = kInk, .anchor = "middle"});
  }
  canvas.Baseline("");
  return canvas.Finish();
}

}  // namespace hawser
