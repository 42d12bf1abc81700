// eval/heat_map.h - shares over two axes as coloured cells with their counts: needles by length and depth.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hawser {

struct HeatCell {
  double share = 0;     // of 1, by which it is coloured
  std::string label;    // in the cell, where there is room: "9/10"
  std::string tooltip;  // behind its place
  bool known = false;   // else the cell is blank
};

/// Colours run from orange (nothing) over pale to blue (all): apart with any of the common kinds of colour blindness,
/// in light and in dark. `height` grows with the rows.
struct HeatMap {
  std::string title, subtitle;
  std::string x_label, y_label;
  std::vector<std::string> columns, rows;
  std::vector<std::vector<HeatCell>> cells;  // [rows][columns]
  int width = 640;
};

std::string RenderSvg(const HeatMap& map);

/// The map drawn twice, of which a page shows one: for a desk and for a telephone.
std::string HtmlHeatMap(const HeatMap& map);

/// x_label,y_label,share,label a line, with a header.
std::string HeatMapCsv(const HeatMap& map);

}  // namespace hawser
