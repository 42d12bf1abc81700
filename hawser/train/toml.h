// train/toml.h - the one way from text to TOML.
#pragma once

#include <toml++/toml.h>
#include <string_view>

namespace hawser {

/// Parses a document. Errors: kFormat with `origin`, line and column for bad syntax; kFormat for tables, arrays and
/// dotted keys nested deeper than kMaxDepth.
toml::table ParseToml(std::string_view text, std::string_view origin);

}  // namespace hawser
