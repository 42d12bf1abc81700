// Templates against Jinja2 (scripts/goldens/jinja.py), marks of text from outside, and templates that mean harm.
#include "hawser/jinja/template.h"

#include <nlohmann/json.hpp>

#include "hawser/jinja/chat_golden.h"
#include "hawser/jinja/template_golden.h"
#include "hawser/testing/hostile.h"

namespace hawser::jinja {
namespace {

using Json = nlohmann::ordered_json;

Text Rendered(const std::string& source, const Json& context = Json::object(), const RenderLimits& limits = {}) {
  return Template(source).Render(Value::FromJson(context, true), limits);
}

TEST(TemplateTest, MakesWhatJinja2Makes) {
  int errors = 0;
  for (const char* row : kTemplateGoldens) {
    const Json golden = Json::parse(row);
    const auto source = golden["template"].get<std::string>();
    try {
      const Text text = Rendered(source, golden["context"]);
      if (golden.contains("error")) {
        ADD_FAILURE() << source << "\nmade: " << text.bytes();
      } else {
        EXPECT_EQ(text.bytes(), golden["text"].get<std::string>()) << source << "\n" << golden["context"].dump();
      }
      EXPECT_EQ(text.marks().size(), text.bytes().size());
    } catch (const Error& error) {
      ++errors;
      EXPECT_TRUE(golden.contains("error")) << source << "\nwants " << golden["text"] << "\nfound " << error.what();
      EXPECT_NE(error.kind(), ErrorKind::kInternal) << error.what();
    }
  }
  EXPECT_GT(errors, 20);
}

uint64_t Fnv(std::string_view text) {
  uint64_t hash = 0xCBF29CE484222325;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3;
  return hash != 0 ? hash : 1;
}

TEST(TemplateTest, TemplatesOfFamiliesMakeWhatJinja2Makes) {
  std::vector<std::pair<std::string, Value>> contexts;
  for (const char* text : kChatContexts) {
    const Json context = Json::parse(text);
    contexts.emplace_back(context[0], Value::FromJson(context[1], true));
  }
  const RenderLimits limits{.now = 1741348800};  // noon of 7 March 2025, UTC
  for (const ChatGolden& golden : kChatGoldens) {
    const Template source(Json::parse(golden.source).get<std::string>());
    for (size_t i = 0; i < contexts.size(); ++i) {
      std::string made;
      try {
        made = source.Render(contexts[i].second, limits).bytes();
        EXPECT_EQ(Fnv(made), golden.texts[i]) << golden.name << ", " << contexts[i].first << ":\n" << made;
      } catch (const Error& error) {
        EXPECT_EQ(golden.texts[i], 0u) << golden.name << ", " << contexts[i].first << ": " << error.what();
      }
    }
  }
}

TEST(TemplateTest, KnowsWhichTextCameFromOutside) {
  const Text text =
      Rendered("<{{ role | upper }}>{{ content.strip()[1:] ~ '!' }}{% set x %}[{{ content }}]{% endset %}{{ x }}",
               {{"role", "u"}, {"content", " abc "}});
  EXPECT_EQ(text.bytes(), "<U>bc![ abc ]");
  std::string marks;
  for (const char mark : text.marks()) marks += mark != '\0' ? '1' : '0';
  EXPECT_EQ(marks, "0101100111110");
  const Text json = Rendered("{{ m | tojson }}", {{"m", {{"k", "v\n"}}}});
  EXPECT_EQ(json.bytes(), R"({"k": "v\n"})");
  marks.clear();
  for (const char mark : json.marks()) marks += mark != '\0' ? '1' : '0';
  EXPECT_EQ(marks, "001000011100");
}

TEST(TemplateTest, ErrorsNameTheLine) {
  ExpectError(ErrorKind::kFormat, {"line 3", "'zzz' is undefined"}, [] { Rendered("a\nb\n{{ zzz.y }}"); });
  ExpectError(ErrorKind::kFormat, {"line 2", "'endif' wanted"}, [] { Rendered("\n{% if 1 %}"); });
  ExpectError(ErrorKind::kUnsupported, {"filter 'frobnicate'", "tojson"}, [] { Rendered("{{ 1 | frobnicate }}"); });
  ExpectError(ErrorKind::kUnsupported, {"test 'strange'"}, [] { Rendered("{{ 1 is strange }}"); });
  ExpectError(ErrorKind::kUnsupported, {"line 1", "'include'"}, [] { Rendered("{% include 'x' %}"); });
  ExpectError(ErrorKind::kUsage, {"roles must alternate"},
              [] { Rendered("{{ raise_exception('roles must alternate') }}"); });
}

TEST(TemplateTest, EndsWhateverItIsGiven) {
  const auto fails = [](const std::string& source, const RenderLimits& limits = {}) {
    ExpectError(ErrorKind::kFormat, {}, [&] { Rendered(source, Json::object(), limits); });
  };
  const auto times = [](const std::string& part, int count) {
    std::string all;
    for (int i = 0; i < count; ++i) all += part;
    return all;
  };
  for (const char* open : {"(", "[", "{1:", "-", "not ", "[1,", "f("}) fails("{{ " + times(open, 100000) + " }}");
  fails("{{ 1" + times(" + 1", 100000) + " }}");
  fails("{{ 1" + times(" ~ (1", 100000) + " }}");
  fails("{{ x" + times(".a", 100000) + " }}");
  fails("{{ x" + times(" | trim", 100000) + " }}");
  fails("{{ x" + times("[0]", 100000) + " }}");
  fails("{{ x" + times(" if 1 else x", 100000) + " }}");
  fails("{{ x" + times(" and x", 100000) + " }}");
  fails(times("{% if 1 %}", 100000));
  fails(times("{% for i in x %}", 100000));
  fails("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
  fails("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}", {.steps = 100000});
  fails("{{ 'a' * 1000000000000 }}");
  fails("{{ range(1000000000000) }}");
  fails("{% set ns = namespace(x='aaaaaaaaaa') %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}");
  fails("{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}");
  fails("{% set l = [] %}{{ l.append(l) }}{{ l }}");
  fails("{% set l = [] %}{{ l.append(l) }}{{ l == l.append and l | tojson }}{{ l | tojson }}");
  EXPECT_EQ(
      Rendered("{% set l = [] %}{{ l.append(l.append) or '' }}{% set ns = namespace() %}{% set ns.x = [ns] %}").bytes(),
      "");
  EXPECT_EQ(
      Rendered("{% set ns = namespace(x=0) %}{% for i in range(60000) %}{% set ns.x = [ns.x] %}{% endfor %}").bytes(),
      "");
  fails("{{ 9223372036854775807 + 1 }}");
  fails("{{ 3 ** 1000 }}");
  fails("{{ 99999999999999999999 }}");
  fails("{{ (-9223372036854775807 - 1) // -1 }}");
}

TEST(TemplateTest, NoCutAndNoFlippedBitDoesHarm) {
  const std::string source = Json::parse(kTemplateGoldens[30])["template"].get<std::string>();
  const Json context = Json::parse(kTemplateGoldens[30])["context"];
  const auto attempt = [&](const std::string& text) {
    try {
      Rendered(text, context, {.steps = 10000, .bytes = 100000});
    } catch (const Error& error) {
      EXPECT_NE(error.kind(), ErrorKind::kInternal) << text << error.what();
    }
  };
  for (size_t size = 0; size < source.size(); ++size) attempt(source.substr(0, size));
  for (size_t bit = 0; bit < 8 * source.size(); ++bit) {
    std::string flipped = source;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
    attempt(flipped);
  }
}

}  // namespace
}  // namespace hawser::jinja
