// base/svg.h - what every picture of this program shares: colours for light and dark pages, and text for XML.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>

namespace hawser {

/// A colour by its role. `light` is written into the picture, so that any viewer shows it; a viewer that prefers dark
/// takes `dark` from the style of SvgDarkStyle. `name` is the class: letters only.
struct SvgColor {
  const char* name;
  const char* light;
  const char* dark;
};

inline constexpr SvgColor kSvgPaper{"paper", "#ffffff", "#171b21"};
inline constexpr SvgColor kSvgInk{"ink", "#1f2937", "#e5e9ef"};
inline constexpr SvgColor kSvgSoftInk{"soft", "#5b6675", "#a3aebb"};
inline constexpr SvgColor kSvgGrid{"grid", "#e5e7eb", "#303741"};
inline constexpr SvgColor kSvgRule{"rule", "#94a3b8", "#6b7785"};

/// Colours of series, in order. They are told apart with any of the common kinds of colour blindness (after Okabe and
/// Ito), and each has a contrast of 3 or more with the paper.
std::span<const SvgColor> SvgSeriesColors();

/// ` class=".." fill=".."`, and the same for a stroke and for both.
std::string SvgFill(const SvgColor& color);
std::string SvgStroke(const SvgColor& color);
std::string SvgFillAndStroke(const SvgColor& color);

/// A <style> element with the dark colours, once a picture.
std::string SvgDarkStyle();

/// Text for XML: & < > " ' escaped; control characters left out, and bytes that are no UTF-8 replaced.
std::string EscapeXml(std::string_view text);

}  // namespace hawser
