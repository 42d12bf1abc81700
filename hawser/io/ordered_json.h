// io/ordered_json.h - JSON whose objects keep the order of their members, for what is shown to a model as it came.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "hawser/base/depth.h"

namespace hawser {

/// ParseJson (io/json.h) with the members of objects in the order of the text.
nlohmann::ordered_json ParseOrderedJson(std::string_view text, int max_depth = kMaxDepth);

/// As files of settings are written: indented by two, with a line end.
inline std::string IndentedJson(const nlohmann::ordered_json& json) { return json.dump(2) + "\n"; }

}  // namespace hawser
