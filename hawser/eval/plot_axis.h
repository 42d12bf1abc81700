// eval/plot_axis.h - from values to pixels: what one axis of a plot shows.
#pragma once

#include <limits>

#include "hawser/eval/plot.h"

namespace hawser {

/// Maps values of [low, high] to pixels of [from, to].
struct PlotScale {
  AxisScale kind = AxisScale::kLinear;
  double low = 0, high = 1;
  double from = 0, to = 1;

  bool Shows(double value) const;  // finite, and positive on a log axis
  double operator()(double value) const;
};

/// Collects the values of an axis and settles its range.
class PlotRange {
 public:
  explicit PlotRange(const Axis& axis) : axis_(axis) {}
  void Add(double value);
  bool empty() const { return low_ > high_; }

  /// REQUIRES: not empty. `tight` ends at the data; else the range is widened to whole ticks, and a linear one begins
  /// at 0 where that costs less than half of the height.
  PlotScale Settle(bool tight, bool from_zero, int ticks) const;

 private:
  const Axis& axis_;
  double low_ = std::numeric_limits<double>::infinity();
  double high_ = -std::numeric_limits<double>::infinity();
};

}  // namespace hawser
