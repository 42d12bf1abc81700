#include "hawser/serve/talk_template.h"

#include <gtest/gtest.h>

#include <string>

#include "hawser/testing/byte_tokenizer.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

/// A call of f as a client sends it, with nothing for its content.
std::string Rendered(const std::string& source, const Json& arguments = R"({"b": 1, "a": "x"})") {
  testing::ByteTokenizer tokenizer;
  tokenizer.set_chat_template(source);
  const Json call = {{"id", "c"}, {"type", "function"}, {"function", {{"name", "f"}, {"arguments", arguments}}}};
  const Json messages = {{{"role", "user"}, {"content", "hi"}},
                         {{"role", "assistant"}, {"content", nullptr}, {"tool_calls", Json::array({call})}}};
  return TalkTemplate(tokenizer).Render(messages, false, Json::object()).bytes();
}

std::string OfCalls(const std::string& body) {
  return "{% for m in messages %}{% if m.tool_calls %}{% for c in m.tool_calls %}" + body +
         "{% endfor %}{% endif %}{% endfor %}";
}

TEST(TalkTemplate, ArgumentsAreWhatTheTemplateWrites) {
  EXPECT_EQ(Rendered(OfCalls("{{ c.function.arguments | tojson }}")), R"({"b": 1, "a": "x"})");
  EXPECT_EQ(Rendered(OfCalls("{{ c.function | tojson }}")), R"({"name": "f", "arguments": {"b": 1, "a": "x"}})");
  EXPECT_EQ(Rendered(OfCalls("{% for k, v in c.function.arguments | items %}{{ k }}={{ v }};{% endfor %}")),
            "b=1;a=x;");
  EXPECT_EQ(Rendered(OfCalls("<{{ c.function.arguments }}>")), R"(<{"b": 1, "a": "x"}>)");
  EXPECT_EQ(Rendered(OfCalls("{{ '<' + c['function']['arguments'] + '>' }}")), R"(<{"b": 1, "a": "x"}>)");
  // An object from the client, and what is none.
  EXPECT_EQ(Rendered(OfCalls("{{ c.function.arguments | tojson }}"), {{"b", 2}}), R"({"b": 2})");
  EXPECT_EQ(Rendered(OfCalls("{{ c.function.arguments | tojson }}"), "b=2"), R"("b=2")");
}

TEST(TalkTemplate, NothingIsNoneForThoseWhoAsk) {
  const std::string plain = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}";
  EXPECT_EQ(Rendered(plain), "[user:hi][assistant:]");
  EXPECT_EQ(Rendered("{% for m in messages %}{% if m['content'] is none %}{{ m.tool_calls[0].function.name }}{% else %}"
                     "{{ '<' + m['content'] + '>' }}{% endif %}{% endfor %}"),
            "<hi>f");
}

}  // namespace
}  // namespace hawser
