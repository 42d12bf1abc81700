// io/json_text.h - JSON as text, whatever bytes its strings hold: names of files are bytes.
#pragma once

#include <string>

namespace hawser {

/// On one line, or indented. Bytes that are not UTF-8 become U+FFFD. Json: nlohmann's, of either order of members.
template <class Json>
std::string JsonText(const Json& json, int indent = -1) {
  return json.dump(indent, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace hawser
