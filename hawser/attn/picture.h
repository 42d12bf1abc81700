// attn/picture.h - a schedule drawn for people: queries down, keys across, each pair as the piece that holds it.
#pragma once

#include <string>
#include <string_view>

#include "hawser/attn/schedule.h"

namespace hawser {

/// Largest schedules worth drawing, in keys.
inline constexpr int32_t kMaxTextPicture = 128;
inline constexpr int32_t kMaxSvgPicture = 1024;

/// One line per query, one character per key: A anchor, o pinned, # band, . invisible; later keys are left blank.
/// Columns stand two apart up to 64 keys. The line starts with the key number, then ',' for a separator and '-' for
/// padding. Ends with the legend. Errors: kUsage above kMaxTextPicture keys.
std::string DrawPattern(const AttnSchedule& schedule, const TokenLayout& layout);

/// The same as a self-contained SVG element with legend, one path per piece; light and dark as its viewer is. `title`
/// is any text. Errors: kUsage above kMaxSvgPicture keys.
std::string DrawPatternSvg(const AttnSchedule& schedule, const TokenLayout& layout, std::string_view title);

}  // namespace hawser
