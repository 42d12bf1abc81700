// io/ordered_json.h - JSON whose objects keep the order of their members, for what is shown to a model as it came.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "hawser/base/depth.h"

namespace hawser {

/// ParseJson (io/json.h) with the members of objects in the order of the text.
nlohmann::ordered_json ParseOrderedJson(std::string_view text, int max_depth = kMaxDepth);

}  // namespace hawser
