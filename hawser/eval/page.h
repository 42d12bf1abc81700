// eval/page.h - HTML pages that stand alone: one file, no scripts, nothing fetched.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// A page with `title` (text) in its head and as its heading, above `body` (HTML). Classes: `plots` as of HtmlPlots,
/// `note` for smaller print.
std::string HtmlPage(std::string_view title, std::string_view body);

/// SVG pictures side by side, as many as there is room for.
std::string HtmlPlots(const std::vector<std::string>& pictures);

}  // namespace hawser
