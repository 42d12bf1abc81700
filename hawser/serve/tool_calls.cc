#include "hawser/serve/tool_calls.h"

#include <fmt/format.h>

#include <optional>

#include "hawser/base/error.h"
#include "hawser/base/hash.h"
#include "hawser/io/json_text.h"
#include "hawser/io/ordered_json.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

std::optional<Json> Parsed(std::string_view text) {
  try {
    return ParseOrderedJson(text);
  } catch (const Error&) {
    return std::nullopt;
  }
}

/// Adds a call where `value` is one.
bool Add(const Json& value, ToolCalls* found) {
  if (!value.is_object() || !value.contains("name") || !value["name"].is_string()) return false;
  const char* key = value.contains("arguments") ? "arguments" : "parameters";
  if (!value.contains(key)) return false;
  const Json& given = value[key];
  if (!given.is_object() && !given.is_string()) return false;
  const std::string arguments = given.is_string() ? given.get<std::string>() : JsonText(given);
  const std::string name = value["name"].get<std::string>();
  const std::string all = fmt::format("{} {} {}", found->calls.size(), name, arguments);
  const uint64_t hash = Hash64(std::as_bytes(std::span(all)));
  found->calls.push_back({{"id", fmt::format("call_{:016x}", hash)},
                          {"type", "function"},
                          {"function", {{"name", name}, {"arguments", arguments}}}});
  return true;
}

std::string_view Trimmed(std::string_view text) {
  constexpr std::string_view kBlank = " \t\r\n";
  const size_t begin = text.find_first_not_of(kBlank);
  if (begin == text.npos) return {};
  return text.substr(begin, text.find_last_not_of(kBlank) + 1 - begin);
}

}  // namespace

ToolCalls FindToolCalls(std::string_view text) {
  ToolCalls found;
  constexpr std::string_view kBegin = "<tool_call>", kEnd = "</tool_call>", kList = "[TOOL_CALLS]";
  const std::string_view whole = Trimmed(text);
  if (whole.starts_with(kList)) {
    const auto list = Parsed(Trimmed(whole.substr(kList.size())));
    if (list && list->is_array()) {
      for (const Json& call : *list) Add(call, &found);
      if (found.calls.size() == list->size() && !list->empty()) return found;
    }
    return {.content = std::string(text)};
  }
  if (whole.starts_with('{')) {
    if (const auto call = Parsed(whole); call && Add(*call, &found)) return found;
  }
  std::string rest;
  for (size_t at = 0;;) {
    const size_t begin = text.find(kBegin, at);
    if (begin == text.npos) {
      rest += text.substr(at);
      break;
    }
    const size_t inside = begin + kBegin.size();
    const size_t end = std::min(text.find(kEnd, inside), text.size());  // the last may be cut
    const auto call = Parsed(Trimmed(text.substr(inside, end - inside)));
    const size_t behind = std::min(end + kEnd.size(), text.size());
    rest += text.substr(at, begin - at);
    if (!call || !Add(*call, &found)) rest += text.substr(begin, behind - begin);
    at = behind;
  }
  found.content = found.calls.empty() ? std::string(text) : std::string(Trimmed(rest));
  return found;
}

}  // namespace hawser
