// eval/plot.h - line and bar plots as self-contained SVG: no scripts, nothing from outside, light and dark. Names and
// labels are laid out around the curves, never on them; points carry their values as tooltips.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/base/svg.h"

namespace hawser {

/// kLog2 has its ticks at powers of two (contexts, bytes), kLog10 at decades. Values that are not positive are left out
/// of a log axis.
enum class AxisScale : uint8_t { kLinear, kLog10, kLog2 };

struct Axis {
  std::string label;  // with its unit: "memory (MiB)"
  AxisScale scale = AxisScale::kLinear;
  std::optional<double> min, max;  // else from the data; what lies outside is cut off
};

/// NaN and infinities leave a gap in the line.
struct PlotSeries {
  std::string name;
  std::vector<double> x, y;       // same length
  std::vector<double> low, high;  // spread, drawn as a band: as long as x, or both empty
  bool dashed = false;
};

/// A thin line across the plot with its name above it: "trained to 512".
struct PlotMark {
  double x = 0;
  std::string name;
};

/// `height` grows where title, legend and marks would leave too little for the curves.
struct LinePlot {
  std::string title, subtitle;
  Axis x, y;
  std::vector<PlotSeries> series;
  std::vector<PlotMark> marks;
  int width = 640, height = 360;
};

struct BarSeries {
  std::string name;
  std::vector<double> values;  // one a group
};

/// Groups of bars side by side, each with its value on top where there is room. y begins at 0 (log scale: below the
/// least value).
struct BarPlot {
  std::string title, subtitle;
  Axis y;
  std::vector<std::string> groups;
  std::vector<BarSeries> series;
  int width = 640, height = 360;
};

std::string RenderSvg(const LinePlot& plot);
std::string RenderSvg(const BarPlot& plot);
/// One below the other, in one picture. REQUIRES: as wide as each other.
std::string RenderSvg(std::span<const LinePlot> plots);

/// Tick values of an axis over [low, high], ascending, about `count` of them: multiples of 1, 2 or 5 times a power of
/// ten; on log axes powers (with 2 and 5 between decades where few decades are seen).
std::vector<double> AxisTicks(AxisScale scale, double low, double high, int count);

/// "0.05", "250", "12k", "3.5M"; on a binary axis "512", "4K", "2M" for multiples of 1024.
std::string TickLabel(AxisScale scale, double value);

}  // namespace hawser
