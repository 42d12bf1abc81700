// base/depth.h - what bounds every parser that recurses, and all that is made from what it parsed.
#pragma once

#include <string_view>

#include "hawser/base/error.h"

namespace hawser {

/// Levels of anything inside itself: values in JSON and TOML, steps after steps of a tokenizer, groups of a regex.
inline constexpr int kMaxDepth = 64;

/// Before going down to the level after `depth` others. Errors: kFormat naming `what`.
inline void CheckDepth(int depth, std::string_view what, int most = kMaxDepth) {
  if (depth >= most) Fail(ErrorKind::kFormat, "{} is nested deeper than {} levels", what, most);
}

}  // namespace hawser
