#include "hawser/eval/plot_lines.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "hawser/base/svg.h"
#include "hawser/eval/plot_canvas.h"
#include "hawser/eval/report.h"

namespace hawser {
namespace {

constexpr size_t kMostMarkers = 48;   // points of a series that still get a mark each
constexpr double kTogether = 1.6;     // pixels between curves that count as one
constexpr double kLeastStretch = 14;  // pixels along which they must be together
constexpr double kDash = 8;

struct Point {
  double x = 0, y = 0;
};
using Polyline = std::vector<Point>;

/// A series in pixels, a polyline between gaps each.
struct Curve {
  std::vector<Polyline> parts;
  bool ordered = true;  // x never falls

  /// NaN where there is none.
  double At(double x) const {
    for (const Polyline& part : parts) {
      if (part.empty() || x < part.front().x || x > part.back().x) continue;
      const auto right = std::ranges::lower_bound(part, x, {}, &Point::x);
      if (right == part.begin() || right->x == x) return right->y;
      const Point &a = *(right - 1), &b = *right;
      return a.y + (b.y - a.y) * (x - a.x) / (b.x - a.x);
    }
    return std::numeric_limits<double>::quiet_NaN();
  }
};

Point ToPixels(const PlotScale& x, const PlotScale& y, double vx, double vy) {
  // Far outside the plot is as good as just outside, and keeps numbers sane.
  return {std::clamp(x(vx), -1e4, 1e5), std::clamp(y(vy), -1e4, 1e5)};
}

Curve MakeCurve(const PlotSeries& series, const PlotScale& x, const PlotScale& y) {
  Curve curve;
  bool pen = false;
  for (size_t i = 0; i < series.x.size(); ++i) {
    if (!x.Shows(series.x[i]) || !y.Shows(series.y[i])) {
      pen = false;
      continue;
    }
    const Point point = ToPixels(x, y, series.x[i], series.y[i]);
    if (!curve.parts.empty() && point.x < curve.parts.back().back().x) curve.ordered = false;
    if (!pen) curve.parts.emplace_back();
    curve.parts.back().push_back(point);
    pen = true;
  }
  return curve;
}

/// A stretch along which `count` curves are one, this one being number `rank` of them.
struct Stretch {
  double begin = 0, end = 0;
  int rank = 0, count = 1;
};

/// Stretches of curve `self` that it shares with others of its kind, ascending.
std::vector<Stretch> SharedStretches(const std::vector<Curve>& curves, const std::vector<PlotSeries>& series,
                                     size_t self, double left, double right) {
  std::vector<Stretch> stretches;
  if (!curves[self].ordered) return stretches;
  std::vector<size_t> kin;
  for (size_t i = 0; i < curves.size(); ++i) {
    if (curves[i].ordered && series[i].dashed == series[self].dashed) kin.push_back(i);
  }
  if (kin.size() < 2) return stretches;
  Stretch open;
  const auto close = [&] {
    if (open.count > 1 && open.end - open.begin >= kLeastStretch) stretches.push_back(open);
  };
  for (double at = left; at <= right; ++at) {
    Stretch here{.begin = at, .end = at};
    const double own = curves[self].At(at);
    for (const size_t i : kin) {
      if (i == self || !(std::abs(curves[i].At(at) - own) < kTogether)) continue;
      ++here.count;
      here.rank += i < self ? 1 : 0;
    }
    if (here.rank == open.rank && here.count == open.count) {
      open.end = at;
      continue;
    }
    close();
    open = here;
  }
  close();
  return stretches;
}

/// Path data of what lies in [begin, end].
std::string PathOf(const Curve& curve, double begin, double end) {
  std::string path;
  for (const Polyline& part : curve.parts) {
    bool pen = false;
    const auto add = [&](const Point& p) {
      path += fmt::format("{}{:.1f} {:.1f}", pen ? "L" : "M", p.x, p.y);
      pen = true;
    };
    const auto cut = [](const Point& a, const Point& b, double x) {
      return Point{x, a.y + (b.y - a.y) * (x - a.x) / (b.x - a.x)};
    };
    for (size_t i = 0; i < part.size(); ++i) {
      const Point* before = i > 0 ? &part[i - 1] : nullptr;
      const Point& here = part[i];
      if (before != nullptr && before->x < begin && here.x > begin) add(cut(*before, here, begin));
      if (here.x >= begin && here.x <= end) add(here);
      if (before != nullptr && before->x < end && here.x > end) add(cut(*before, here, end));
    }
  }
  return path;
}

std::string Path(const SvgColor& color, const std::string& data, std::string_view dashes) {
  if (data.empty()) return "";
  return fmt::format("<path{} d=\"{}\" fill=\"none\" stroke-width=\"2\" stroke-linejoin=\"round\"{}/>\n",
                     SvgStroke(color), data, dashes.empty() ? " stroke-linecap=\"round\"" : dashes);
}

std::string DrawCurve(const std::vector<Curve>& curves, const std::vector<PlotSeries>& series, size_t self, double left,
                      double right) {
  constexpr double kAll = std::numeric_limits<double>::infinity();
  const Curve& curve = curves[self];
  const bool dashed = series[self].dashed;
  const std::string_view own = dashed ? " stroke-dasharray=\"5 4\"" : "";
  std::string alone, turns;
  double from = -kAll;
  for (const Stretch& stretch : SharedStretches(curves, series, self, left, right)) {
    if (stretch.rank == 0 && !dashed) continue;  // solid under the turns of the others
    alone += PathOf(curve, from, stretch.begin);
    from = stretch.end;
    const double period = kDash * stretch.count, on = dashed ? 5 : kDash;
    turns += Path(SeriesColor(self), PathOf(curve, stretch.begin, stretch.end),
                  fmt::format(" stroke-dasharray=\"{} {}\" stroke-dashoffset=\"{}\"", on, period - on,
                              period - kDash * stretch.rank));
  }
  return Path(SeriesColor(self), alone + PathOf(curve, from, kAll), own) + turns;
}

/// The area between low and high, one polygon between gaps each.
std::string DrawBand(const PlotSeries& series, const SvgColor& color, const PlotScale& x, const PlotScale& y) {
  std::string svg, there, back;
  const auto flush = [&] {
    if (!there.empty()) {
      svg += fmt::format("<polygon{} fill-opacity=\"0.18\" points=\"{}{}\"/>\n", SvgFill(color), there, back);
    }
    there.clear(), back.clear();
  };
  for (size_t i = 0; i < series.low.size(); ++i) {
    const double low = y.kind == AxisScale::kLinear ? series.low[i] : std::max(series.low[i], y.low);
    if (!x.Shows(series.x[i]) || !y.Shows(low) || !y.Shows(series.high[i])) {
      flush();
      continue;
    }
    const Point a = ToPixels(x, y, series.x[i], series.high[i]), b = ToPixels(x, y, series.x[i], low);
    there += fmt::format("{:.1f},{:.1f} ", a.x, a.y);
    back = fmt::format("{:.1f},{:.1f} ", b.x, b.y) + back;
  }
  flush();
  return svg;
}

}  // namespace

bool HasMarks(const PlotSeries& series) { return series.x.size() <= kMostMarkers; }

std::string DrawSeries(const std::vector<PlotSeries>& series, const PlotScale& x, const PlotScale& y) {
  std::string svg;
  std::vector<Curve> curves;
  for (size_t i = 0; i < series.size(); ++i) {
    svg += DrawBand(series[i], SeriesColor(i), x, y);
    curves.push_back(MakeCurve(series[i], x, y));
  }
  for (const bool dashed : {false, true}) {
    for (size_t i = 0; i < series.size(); ++i) {
      if (series[i].dashed == dashed) svg += DrawCurve(curves, series, i, x.from, x.to);
    }
  }
  std::vector<Point> taken;
  for (size_t i = 0; i < series.size(); ++i) {
    if (!HasMarks(series[i])) continue;
    const size_t before = taken.size();
    for (size_t k = 0; k < series[i].x.size(); ++k) {
      const double vx = series[i].x[k], vy = series[i].y[k];
      if (!x.Shows(vx) || !y.Shows(vy)) continue;
      const Point point = ToPixels(x, y, vx, vy);
      // A point on another is drawn smaller, so that both show.
      const auto under = std::count_if(taken.begin(), taken.begin() + static_cast<std::ptrdiff_t>(before),
                                       [&](const Point& p) { return std::hypot(p.x - point.x, p.y - point.y) < 2.5; });
      std::string value = HumanNumber(vy);
      if (!series[i].low.empty() && std::isfinite(series[i].low[k]) && std::isfinite(series[i].high[k])) {
        value += fmt::format(" ({} to {})", HumanNumber(series[i].low[k]), HumanNumber(series[i].high[k]));
      }
      svg += SeriesMarker(
          i, point.x, point.y, std::pow(0.62, static_cast<double>(under)),
          fmt::format("<title>{}{}: {}</title>", series[i].name.empty() ? "" : EscapeXml(series[i].name) + ", ",
                      TickLabel(x.kind, vx), value));
      taken.push_back(point);
    }
  }
  return svg;
}

}  // namespace hawser
