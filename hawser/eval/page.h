// eval/page.h - HTML pages that stand alone: one file, no scripts, nothing fetched; light and dark, wide and narrow.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hawser/eval/plot.h"

namespace hawser {

/// A page with `title` (text) in its head and as its heading, above `body` (HTML). Its foot names date, version,
/// command and machine (base/origin.h). Class `note`: smaller print.
std::string HtmlPage(std::string_view title, std::string_view body);

/// Pictures of HtmlPlot, or SVG, side by side, as many as there is room for.
std::string HtmlPlots(const std::vector<std::string>& pictures);

/// The plot drawn twice, of which a page shows one: for a desk and for a telephone.
std::string HtmlPlot(const LinePlot& plot);
std::string HtmlPlot(const BarPlot& plot);

/// Cells are text, the first row is the header. A table wider than the page scrolls by itself.
std::string HtmlTable(const std::vector<std::vector<std::string>>& rows);

/// Text with its line breaks, for <pre>.
std::string EscapeLines(std::string_view text);

}  // namespace hawser
