#include "hawser/serve/api_doc.h"

#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "hawser/io/ordered_json.h"
#include "hawser/serve/openai.h"
#include "hawser/serve/page.h"

namespace hawser {
namespace {

nlohmann::ordered_json SchemaOf(const MemberRow& row, const CallLimits& limits) {
  nlohmann::ordered_json schema;
  switch (row.kind) {
    case MemberRow::Kind::kNumber:
    case MemberRow::Kind::kWhole: {
      const bool whole = row.kind == MemberRow::Kind::kWhole;
      const double high = row.Highest(limits);
      schema = {{"type", {whole ? "integer" : "number", "null"}}, {"minimum", row.low}, {"maximum", high}};
      if (!whole) break;
      schema["minimum"] = static_cast<int64_t>(row.low);
      schema["maximum"] = high >= 0x1p63 ? INT64_MAX : static_cast<int64_t>(high);
      break;
    }
    case MemberRow::Kind::kFlag:
      schema = {{"type", {"boolean", "null"}}};
      break;
    case MemberRow::Kind::kText:
      schema = {{"type", {"string", "null"}}};
      break;
  }
  if (!row.form.empty()) schema["format"] = row.form;
  if (!row.says.empty()) schema["description"] = row.says;
  return schema;
}

/// The decimal numbers from 0 to `high`, as a regular expression.
std::string WholeUpTo(int32_t high) {
  const std::string most = std::to_string(high);
  std::string pattern = "^(0";
  for (size_t digits = 1; digits < most.size(); ++digits) pattern += fmt::format("|[1-9][0-9]{{{}}}", digits - 1);
  for (size_t at = 0; at < most.size(); ++at) {  // the same as `most` before `at`, lower there
    const char low = at == 0 ? '1' : '0';
    if (most[at] == low || high == 0) continue;
    pattern += fmt::format("|{}[{}-{}][0-9]{{{}}}", most.substr(0, at), low, most[at] - 1 - '0', most.size() - at - 1);
  }
  return pattern + (high == 0 ? ")$" : "|" + most + ")$");
}

}  // namespace

std::string ApiDocument(const CallLimits& limits, int32_t vocab, bool indexed) {
  nlohmann::ordered_json api = ParseOrderedJson(ApiFrame());
  nlohmann::ordered_json& schemas = api["components"]["schemas"];
  schemas["TokenId"]["maximum"] = vocab - 1;
  schemas["TokenName"]["pattern"] = WholeUpTo(vocab - 1);
  for (nlohmann::ordered_json& prompt : schemas["CompletionRequest"]["properties"]["prompt"]["oneOf"]) {
    if (prompt["type"] == "array" && !prompt["items"].contains("$ref")) prompt["maxItems"] = limits.prompts;
  }
  if (!indexed) {
    nlohmann::ordered_json& session = api["paths"]["/v1/sessions"]["post"]["requestBody"]["content"];
    session["application/json"]["schema"]["properties"].erase("index");
  }
  for (const MemberRow& row : MemberRows()) {
    if (row.name == "hawser.keep" && !indexed) continue;
    const size_t dot = row.name.find('.');
    for (const char* request : {"CompletionRequest", "ChatRequest"}) {
      const bool chat = std::string_view(request) == "ChatRequest";
      if (row.of == (chat ? MemberRow::Of::kCompletions : MemberRow::Of::kChat)) continue;
      nlohmann::ordered_json* members = &schemas[request]["properties"];
      if (dot != std::string_view::npos) members = &(*members)[row.name.substr(0, dot)]["properties"];
      nlohmann::ordered_json& member = (*members)[row.name.substr(dot == std::string_view::npos ? 0 : dot + 1)];
      nlohmann::ordered_json schema = SchemaOf(row, limits);
      if (!member.is_null()) {  // of another row of this name: either will do
        schema["type"].insert(schema["type"].begin(), member["type"].begin(), member["type"].end() - 1);
        schema["description"] = fmt::format("{}; {}", member["description"].get_ref<const std::string&>(), row.says);
      }
      member.update(schema);
    }
  }
  return Dump(api);
}

}  // namespace hawser
