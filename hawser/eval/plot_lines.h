// eval/plot_lines.h - the curves of a line plot. Where several coincide each shows: they take turns along the stretch.
#pragma once

#include <string>
#include <vector>

#include "hawser/eval/plot_axis.h"

namespace hawser {

/// True where each point gets a mark: long series are lines alone.
bool HasMarks(const PlotSeries& series);

/// Bands of spread, then curves (dashed ones last), then points with their values as tooltips.
std::string DrawSeries(const std::vector<PlotSeries>& series, const PlotScale& x, const PlotScale& y);

}  // namespace hawser
