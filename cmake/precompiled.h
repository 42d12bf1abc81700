// Read once for all files of a kind where there is no ccache (HAWSER_PCH). The parts of JSON that most files use are
// compiled in hawser/base/json_instances.cc alone.
#pragma once

#include "cmake/json_lean.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#ifndef HAWSER_JSON_TEMPLATE
#define HAWSER_JSON_TEMPLATE extern template class
#endif

NLOHMANN_JSON_NAMESPACE_BEGIN
HAWSER_JSON_TEMPLATE basic_json<>;
namespace detail {
HAWSER_JSON_TEMPLATE serializer<json>;
HAWSER_JSON_TEMPLATE lexer<json, iterator_input_adapter<const char*>>;
HAWSER_JSON_TEMPLATE lexer<json, iterator_input_adapter<std::string::const_iterator>>;
HAWSER_JSON_TEMPLATE parser<json, iterator_input_adapter<const char*>>;
HAWSER_JSON_TEMPLATE parser<json, iterator_input_adapter<std::string::const_iterator>>;
HAWSER_JSON_TEMPLATE json_sax_dom_parser<json>;
HAWSER_JSON_TEMPLATE json_sax_dom_callback_parser<json>;
}  // namespace detail
NLOHMANN_JSON_NAMESPACE_END
