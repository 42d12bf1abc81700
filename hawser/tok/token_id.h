// tok/token_id.h - ids of tokens in files.
#pragma once

#include <cstdint>
#include <limits>
#include <string_view>

#include "hawser/base/error.h"
#include "hawser/io/json.h"

namespace hawser {

/// Errors: kFormat, naming `where`, for what is no whole number of the range.
inline int32_t TokenId(const nlohmann::json& value, std::string_view where) {
  const bool whole = value.is_number_integer() && value >= 0 && value <= std::numeric_limits<int32_t>::max();
  if (!whole) Fail(ErrorKind::kFormat, "{}: {} is no id of a token", where, ShownJson(value));
  return value.get<int32_t>();
}

}  // namespace hawser
