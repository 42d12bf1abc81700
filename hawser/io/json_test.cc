#include "hawser/io/json.h"

#include "hawser/testing/hostile.h"

namespace hawser {
namespace {

TEST(JsonTest, PythonsFloatsThatAreNone) {
  EXPECT_EQ(NonFiniteAsNull(R"([NaN,-Infinity, Infinity,"NaN\"Infinity", -1, "\\", NaN])"),
            R"([null,null, null,"NaN\"Infinity", -1, "\\", null])");
  for (const char* same : {"", "-", "N", "-Inf", "\"", "\"\\"}) EXPECT_EQ(NonFiniteAsNull(same), same);
}

TEST(JsonTest, RefusesWhatTheParserWouldLetPass) {
  using namespace std::string_view_literals;
  ExpectError(ErrorKind::kFormat, {"\"a\"", "twice"}, [] { ParseJson(R"({"a": 1, "b": 2, "a": 3})"); });
  ExpectError(ErrorKind::kFormat, {"\"x\"", "twice"}, [] { ParseJson(R"({"a": {"x": 1, "x": 1}})"); });
  ExpectError(ErrorKind::kFormat, {"NUL", "8"}, [] { ParseJson("{\"a\":1}\n\0 {"sv); });
  ExpectError(ErrorKind::kFormat, {"not valid JSON"}, [] { ParseJson("{\"a\": \"\xff\"}"); });
  ExpectError(ErrorKind::kFormat, {"not valid JSON"}, [] { ParseJson("{} {}"); });
  ExpectError(ErrorKind::kFormat, {"not valid JSON: parse error at line 1"}, [] { ParseJson(""); });
  ExpectError(ErrorKind::kFormat, {"not valid JSON", "1e999"}, [] { ParseJson("[1e999]"); });
  EXPECT_EQ(ParseJson(R"({"a": {"x": 1}, "b": {"x": 2}})")["b"]["x"], 2);
}

TEST(JsonTest, LimitsDepth) {
  EXPECT_EQ(ParseJson("[[[1]]]", 3).size(), 1u);
  ExpectError(ErrorKind::kFormat, {"deeper than 3"}, [] { ParseJson("[[[[1]]]]", 3); });
  ExpectError(ErrorKind::kFormat, {"deeper"}, [] { ParseJson(std::string(1 << 20, '['), 64); });
}

TEST(JsonTest, DeepValuesAreRefusedBeforeTheyAreBuilt) {
  for (const std::string open : {"[", "{\"a\":", "[{\"a\":[", "[[],"}) {
    std::string text;
    for (int i = 0; i < 200'000; ++i) text += open;
    ExpectError(ErrorKind::kFormat, {"deeper than 64"}, [&] { ParseJson(text); });
  }
  std::string allowed(kMaxDepth, '[');
  allowed.append(kMaxDepth, ']');
  EXPECT_EQ(ParseJson(allowed).dump(), allowed);
}

// A parser that looks through an array whenever one of its elements ends would take minutes here.
TEST(JsonTest, TakesLongListsAndObjects) {
  constexpr size_t kMany = 200'000;
  std::string objects, members, lists;
  for (size_t i = 0; i < kMany; ++i) {
    objects += i == 0 ? "[{}" : ",{}";
    lists += i == 0 ? "[[]" : ",[]";
    members += fmt::format("{}\"k{}\":[]", i == 0 ? "{" : ",", i);
  }
  EXPECT_EQ(ParseJson(objects + "]").size(), kMany);
  EXPECT_EQ(ParseJson(lists + "]").size(), kMany);
  EXPECT_EQ(ParseJson(members + "}").size(), kMany);
}

TEST(JsonTest, MembersAreNamedWithWhatWasFound) {
  const nlohmann::json json = ParseJson(R"({"n": 5, "x": 2.5, "t": "text", "z": null, "b": true,
                                            "huge": 18446744073709551615, "minus": -1})");
  const JsonObject object(json, "settings");
  EXPECT_EQ(object.Int("n"), 5);
  EXPECT_EQ(object.IntOr("z", 7), 7);
  EXPECT_EQ(object.IntOr("absent", 8), 8);
  EXPECT_EQ(object.Number("n"), 5.0);
  EXPECT_EQ(object.NumberOr("x", 0), 2.5);
  EXPECT_TRUE(object.BoolOr("b", false));
  EXPECT_EQ(object.StringOr("t", ""), "text");
  EXPECT_TRUE(object.Has("z") && !object.Has("absent") && object.Find("z") == nullptr);
  ExpectError(ErrorKind::kFormat, {"settings", "'x'", "2.5"}, [&] { object.Int("x"); });
  ExpectError(ErrorKind::kFormat, {"settings", "'n'", "from 6 to", "5"}, [&] { object.Int("n", 6); });
  ExpectError(ErrorKind::kFormat, {"'minus'", "-1"}, [&] { object.IntOr("minus", 1); });
  ExpectError(ErrorKind::kFormat, {"'huge'"}, [&] { object.Int("huge"); });
  ExpectError(ErrorKind::kFormat, {"settings lacks 'absent'"}, [&] { object.Number("absent"); });
  ExpectError(ErrorKind::kFormat, {"'t'", "\"text\""}, [&] { object.Number("t"); });
  ExpectError(ErrorKind::kFormat, {"'n'", "true or false"}, [&] { object.BoolOr("n", true); });
  ExpectError(ErrorKind::kFormat, {"'b'", "text"}, [&] { object.String("b"); });
  ExpectError(ErrorKind::kFormat, {"object", "[1]"}, [] { JsonObject(nlohmann::json::array({1}), "a list"); });
}

}  // namespace
}  // namespace hawser
