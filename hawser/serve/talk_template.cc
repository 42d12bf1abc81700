#include "hawser/serve/talk_template.h"

#include <string>
#include <string_view>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/io/ordered_json.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

Json WithTexts(Json messages) {
  for (Json& message : messages) {
    if (message.contains("content") && message["content"].is_null()) message["content"] = "";
  }
  return messages;
}

Json WithObjects(Json messages) {
  for (Json& message : messages) {
    const auto calls = message.find("tool_calls");
    if (calls == message.end() || !calls->is_array()) continue;
    for (Json& call : *calls) {
      if (!call.is_object() || !call.contains("function") || !call["function"].is_object()) continue;
      Json& function = call["function"];
      if (!function.contains("arguments") || !function["arguments"].is_string()) continue;
      try {
        Json arguments = ParseOrderedJson(function["arguments"].get<std::string>());
        if (arguments.is_object()) function["arguments"] = std::move(arguments);
      } catch (const Error&) {  // stays the text that it is
      }
    }
  }
  return messages;
}

}  // namespace

TalkTemplate::TalkTemplate(const Tokenizer& tokenizer) : template_(tokenizer) {
  const std::string_view source = tokenizer.chat_template();
  asks_for_none_ = source.find("none") != source.npos || source.find("None") != source.npos;
  takes_objects_ = WritesObjects();
}

/// Asks it with a call whose name of an argument shows what became of the object: a name in JSON or by itself, or in
/// the single quotes of an object that was put into a text.
bool TalkTemplate::WritesObjects() const {
  constexpr std::string_view kName = "hawser_probe";
  const Json call = {
      {"id", "call00000"}, {"type", "function"}, {"function", {{"name", "f"}, {"arguments", {{kName, 1}}}}}};
  for (const Json& content : {Json(""), Json()}) {
    const Json messages = {{{"role", "user"}, {"content", "x"}},
                           {{"role", "assistant"}, {"content", content}, {"tool_calls", Json::array({call})}},
                           {{"role", "tool"}, {"tool_call_id", "call00000"}, {"name", "f"}, {"content", "1"}}};
    try {
      const std::string text = template_.Render(messages, /*answer=*/true).bytes();
      const size_t at = text.find(kName);
      if (at != text.npos) return at == 0 || text[at - 1] != '\'';
    } catch (const Error&) {  // says nothing
    }
  }
  return false;
}

jinja::Text TalkTemplate::Render(const Json& messages, bool answer, const Json& more) const {
  const Json given = asks_for_none_ ? messages : WithTexts(messages);
  return template_.Render(takes_objects_ ? WithObjects(given) : given, answer, more);
}

}  // namespace hawser
