// Grammars, schemas, and the tokens that they allow.
#include "hawser/infer/constraint.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/infer/json_schema.h"
#include "hawser/io/ordered_json.h"
#include "hawser/testing/byte_tokenizer.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

/// Bytes, then random pieces of JSON and letters.
class PieceTokenizer : public testing::ByteTokenizer {
 public:
  PieceTokenizer() : ByteTokenizer(600) {
    Rng rng{.seed = 5};
    constexpr std::string_view kBytes = "abe\"{}[]:, 01.-\\nu\xC3\xA9";
    for (int i = 0; i < 600; ++i) {
      std::string piece;
      for (uint64_t n = 2 + rng.Below(5); n > 0; --n) piece += kBytes[rng.Below(kBytes.size())];
      pieces_.push_back(piece);
    }
  }
  std::string Piece(int32_t id) const override {
    return id < 256 ? std::string(1, static_cast<char>(id)) : pieces_[static_cast<size_t>(id)];
  }

 private:
  std::vector<std::string> pieces_;
};

std::shared_ptr<const Constraint> Over(Grammar grammar, const Tokenizer& tokenizer) {
  return std::make_shared<Constraint>(std::move(grammar), std::make_shared<TokenTrie>(tokenizer));
}

bool Matches(const std::shared_ptr<const Constraint>& constraint, std::string_view text) {
  ConstraintWalk walk(constraint);
  return walk.Take(text) && walk.may_end();
}

std::vector<int32_t> Ids(const TokenSet& set, int32_t vocab) {
  std::vector<int32_t> ids;
  for (int32_t id = 0; id < vocab; ++id) {
    if (Holds(set, id)) ids.push_back(id);
  }
  return ids;
}

/// A text by random tokens among those that may come; it ends where it may with some luck. Fails where it is stuck.
std::string RandomText(const std::shared_ptr<const Constraint>& constraint, const Tokenizer& tokenizer, Rng& rng) {
  ConstraintWalk walk(constraint);
  std::string text;
  TokenSet allowed;
  for (int step = 0; step < 4000 && !walk.must_end(); ++step) {
    if (walk.may_end() && rng.Below(3) == 0) return text;
    walk.Allowed(false, &allowed);
    std::vector<int32_t> ids = Ids(allowed, tokenizer.vocab_size());
    EXPECT_TRUE(!ids.empty() || walk.may_end()) << "stuck behind " << text;
    if (ids.empty()) return text;
    int32_t id = ids[rng.Below(ids.size())];
    if (step > 60) {  // what closes, so that it comes to an end
      for (const char close : {'"', '}', ']', '0', ':', ',', '\\', 't', 'n', 'r'}) {
        if (Holds(allowed, static_cast<unsigned char>(close))) {
          id = close;
          break;
        }
      }
    }
    const std::string piece = tokenizer.Piece(id);
    EXPECT_TRUE(walk.Take(piece));
    text += piece;
  }
  EXPECT_TRUE(walk.may_end()) << text.substr(0, 300);
  return text;
}

TEST(Grammar, SaysWhichTextsThereAre) {
  struct Row {
    const char* grammar;
    std::vector<std::string> good, bad;
  };
  const Row rows[] = {
      {"root ::= \"yes\" | \"no\"", {"yes", "no"}, {"", "y", "yesno", "maybe"}},
      {"# c\nroot ::= a b? # c\na ::= [a-c]+\n\nb ::= \"-\" \"\\x41\"", {"a", "abc", "abc-A"}, {"", "-A", "abc-", "d"}},
      {"root ::= (\"a\" |\n  \"b\"\n){2,3} \"c\"*", {"ab", "bba", "aac", "bbbcc"}, {"a", "abab", "c"}},
      {"root ::= [^a\\]]{2} .", {"bcd", "\xC3\xA9z\xF0\x9F\x98\x80"}, {"abc", "]bc", "bc", "\xC3\xA9z\xC3"}},
      {"root ::= [\\u00e9-\\u20ac]", {"\xC3\xA9", "\xE2\x82\xAC", "\xE0\xA0\x80"}, {"\xC3\xA8", "\xE2\x82\xAD", "e"}},
      {"root ::= x\nx ::= \"(\" x \")\" | \"\"", {"", "()", "((()))"}, {"(", ")(", "(()"}},
      {"root ::= \"a\"{0} \"b\"{,2}", {}, {}},
      {"root ::= e\ne ::= t (\"+\" t)*\nt ::= [0-9] | \"(\" e \")\"", {"1", "1+2+(3+4)"}, {"", "+", "1+", "(1"}},
      {"root ::= loop | \"b\"\nloop ::= \"x\" loop", {"b"}, {"x", "xx", ""}},  // a way without an end is none
  };
  const testing::ByteTokenizer tokenizer;
  for (const Row& row : rows) {
    SCOPED_TRACE(row.grammar);
    if (row.good.empty()) {
      EXPECT_THROW(ParseGrammar(row.grammar), Error);
      continue;
    }
    const auto constraint = Over(ParseGrammar(row.grammar), tokenizer);
    for (const std::string& text : row.good) EXPECT_TRUE(Matches(constraint, text)) << text;
    for (const std::string& text : row.bad) EXPECT_FALSE(Matches(constraint, text)) << text;
  }
}

TEST(Grammar, RefusesInOneLine) {
  std::string deep = "root ::= ", chain, wide;
  for (int i = 0; i < 5000; ++i) deep += "(";
  for (int i = 0; i < 600; ++i) chain += fmt::format("r{} ::= r{} \"x\"\n", i, i + 1);
  for (int i = 0; i < 30; ++i) wide += fmt::format("r{} ::= r{} \"x\" | r{} \"y\"\n", i, i + 1, i + 1);
  const std::pair<std::string, const char*> rows[] = {
      {"", "\"root\""},
      {"a ::= \"x\"", "\"root\""},
      {"root ::= b", "\"b\" is used and not defined"},
      {"root ::= \"a\"\nroot ::= \"b\"", "line 2 of the grammar: rule \"root\" is defined twice"},
      {"root ::= root \"a\" | \"b\"", "begin with itself"},
      {"root ::= a\na ::= b? c\nb ::= \"x\"\nc ::= a \"y\" | \"z\"", "begin with itself"},
      {"root ::= (\"a\"?)*", "begin with itself"},
      {"root ::= \"a\" root", "ever ends"},
      {"root ::= []", "ever ends"},
      {"root ::= \"a", "no closing"},
      {"root ::= [a", "no closing"},
      {"root ::= [b-a]", "ends before it begins"},
      {"root ::= \"\\q\"", "escape"},
      {"root ::= \"\\ud800\"", "no character"},
      {"root ::= \"\xFF\"", "UTF-8"},
      {"root ::= (\"a\"", "wanted )"},
      {"root ::= \"a\")", "wanted the end of rule"},
      {"root = \"a\"", "::="},
      {"root ::= \"a\"{3,2}", "3 to 2"},
      {"root ::= \"a\"{999999999}", "parts"},
      {"root ::= (\"a\"{60000}){60000}", "parts"},
      {deep, "nested"},
      {chain + "r600 ::= \"y\"\nroot ::= r0", "inside each other"},
      {wide + "r30 ::= \"z\"\nroot ::= r0", "at once"},
      {std::string(2 << 20, ' '), "bytes"},
  };
  const testing::ByteTokenizer tokenizer;
  for (const auto& [text, wanted] : rows) {
    SCOPED_TRACE(text.substr(0, 80));
    try {
      Over(ParseGrammar(text), tokenizer);
      ADD_FAILURE() << "not refused";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(wanted), std::string::npos) << error.what();
    }
  }
}

TEST(Constraint, AllowsJustTheTokensWhoseBytesMayCome) {
  const PieceTokenizer tokenizer;
  for (const Grammar& grammar : {JsonObjectGrammar(), ParseGrammar("root ::= ([a-b]{2} | \"a\" [^\\x00-\\x20] .*)?"),
                                 ParseGrammar("root ::= p\np ::= \"(\" p \")\" | \"[\" p \"]\" p | \"e\"*")}) {
    const auto constraint = Over(grammar, tokenizer);
    Rng rng{.seed = 2};
    for (int round = 0; round < 12; ++round) {
      ConstraintWalk walk(constraint);
      TokenSet allowed;
      for (int step = 0; step < 25 && !walk.must_end(); ++step) {
        const bool cut = step == 0 && round % 2 == 0;
        walk.Allowed(cut, &allowed);
        for (int32_t id = 0; id < tokenizer.vocab_size(); ++id) {
          std::string piece = tokenizer.Piece(id);
          if (cut && piece.starts_with(' ')) piece.erase(0, 1);
          ConstraintWalk other = walk;
          ASSERT_EQ(Holds(allowed, id), other.Take(piece)) << piece;
        }
        const std::vector<int32_t> ids = Ids(allowed, tokenizer.vocab_size());
        ASSERT_TRUE(!ids.empty() || walk.may_end());
        if (ids.empty()) break;
        std::string piece = tokenizer.Piece(ids[rng.Below(ids.size())]);
        if (cut && piece.starts_with(' ')) piece.erase(0, 1);
        ASSERT_TRUE(walk.Take(piece));
      }
    }
  }
}

TEST(Constraint, GoesOnWhenWhatItKeepsBecomesTooMuch) {
  const testing::ByteTokenizer tokenizer;
  const auto constraint = Over(ParseGrammar("root ::= ([a-z] | \"(\" [a-z] \")\"){14000}"), tokenizer);
  ConstraintWalk walk(constraint);
  TokenSet allowed;
  for (int i = 0; i < 14000; ++i) {
    ASSERT_FALSE(walk.may_end());
    walk.Allowed(false, &allowed);
    ASSERT_EQ(Ids(allowed, 256).size(), 27u) << i;
    ASSERT_TRUE(walk.Take(i % 50 == 0 ? "(a)" : "a"));
  }
  EXPECT_TRUE(walk.must_end());
}

TEST(Constraint, StaysWithinItsLevelsAndCanAlwaysEnd) {
  const testing::ByteTokenizer tokenizer;
  const auto constraint = Over(JsonObjectGrammar(), tokenizer);
  ConstraintWalk walk(constraint);
  ASSERT_TRUE(walk.Take("{\"a\":"));
  TokenSet allowed;
  int opened = 0;
  for (; opened < 2000; ++opened) {
    walk.Allowed(false, &allowed);
    if (!Holds(allowed, '[')) break;
    ASSERT_TRUE(walk.Take("["));
  }
  EXPECT_GT(opened, 64);
  EXPECT_LT(opened, Grammar::kMostLevels);
  for (int i = 0; i < opened; ++i) ASSERT_TRUE(walk.Take("]")) << i;
  ASSERT_TRUE(walk.Take("}"));
  EXPECT_TRUE(walk.must_end());
}

/// Whether `value` is valid under `schema`, of what SchemaGrammar supports.
bool Valid(const Json& value, const Json& schema, const Json& root) {
  if (schema.is_boolean()) return schema.get<bool>();
  if (schema.contains("$ref")) {
    return Valid(value, root.at(Json::json_pointer(schema["$ref"].get<std::string>().substr(1))), root);
  }
  const auto any = [&](const Json& list) {
    return std::ranges::any_of(list, [&](const Json& s) { return Valid(value, s, root); });
  };
  if (schema.contains("anyOf")) return any(schema["anyOf"]);
  if (schema.contains("oneOf")) {
    return std::ranges::count_if(schema["oneOf"], [&](const Json& s) { return Valid(value, s, root); }) == 1;
  }
  if (schema.contains("allOf")) return Valid(value, schema["allOf"][0], root);
  if (schema.contains("enum") && std::ranges::find(schema["enum"], value) == schema["enum"].end()) return false;
  if (schema.contains("const") && value != schema["const"]) return false;
  if (schema.contains("type")) {
    const Json types = schema["type"].is_array() ? schema["type"] : Json::array({schema["type"]});
    const bool whole = value.is_number() && std::floor(value.get<double>()) == value.get<double>();
    const auto is = [&](const Json& type) {
      return type == (value.is_number() ? "number" : value.type_name()) || (type == "integer" && whole);
    };
    if (std::ranges::none_of(types, is)) return false;
  }
  const auto number = [&](const char* key, double fallback) { return schema.value(key, Json(fallback)).get<double>(); };
  if (value.is_number()) {
    const auto x = value.get<double>();
    if (x < number("minimum", -INFINITY) || x > number("maximum", INFINITY)) return false;
    if (x <= number("exclusiveMinimum", -INFINITY) || x >= number("exclusiveMaximum", INFINITY)) return false;
    const double steps = schema.contains("multipleOf") ? x / number("multipleOf", 1) : 0;
    return std::abs(steps - std::round(steps)) <= 1e-9 * std::max(1.0, std::abs(steps));
  }
  if (value.is_string()) {
    const auto text = value.get<std::string>();
    const auto length = static_cast<double>(
        std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
    if (length < number("minLength", 0) || length > number("maxLength", INFINITY)) return false;
    return !schema.contains("pattern") || std::regex_search(text, std::regex(schema["pattern"].get<std::string>()));
  }
  if (value.is_array()) {
    const auto size = static_cast<double>(value.size());
    if (size < number("minItems", 0) || size > number("maxItems", INFINITY)) return false;
    const Json first = schema.value("prefixItems", Json::array());
    for (size_t i = 0; i < value.size(); ++i) {
      if (!Valid(value[i], i < first.size() ? first[i] : schema.value("items", Json(true)), root)) return false;
    }
  }
  if (value.is_object()) {
    for (const Json& name : schema.value("required", Json::array())) {
      if (!value.contains(name.get<std::string>())) return false;
    }
    const Json properties = schema.value("properties", Json::object());
    for (const auto& [name, member] : value.items()) {
      const Json of = properties.contains(name) ? properties[name] : schema.value("additionalProperties", Json(true));
      if (!Valid(member, of, root)) return false;
    }
  }
  return true;
}

const char* const kSchemas[] = {
    R"({"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
        "required": ["name", "age"], "additionalProperties": false})",
    R"({"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"type": "null"}, "c": {"enum": [1, "x", [2]]}},
        "required": ["b"]})",
    R"({"type": "object", "properties": {"a": {"type": "boolean"}, "ab": {"const": 4}},
        "additionalProperties": {"type": "string", "maxLength": 3}, "required": ["e"]})",
    R"({"type": "array", "items": {"type": ["integer", "null"], "minimum": -12, "maximum": 105}, "minItems": 2,
        "maxItems": 4})",
    R"({"type": "number", "exclusiveMinimum": -1.25, "maximum": 30.5})",
    R"({"type": "number", "minimum": 0.05, "exclusiveMaximum": 0.1})",
    R"({"type": "integer", "exclusiveMinimum": -200, "maximum": -7})",
    R"({"type": "integer", "minimum": 3.5, "maximum": 1234567})",
    R"({"type": "integer", "multipleOf": 60})",
    R"({"type": "integer", "multipleOf": 7, "minimum": 1, "maximum": 100})",
    R"({"type": "number", "multipleOf": 0.01, "minimum": 0})",
    R"({"type": "string", "pattern": "^[a-c]{2,3}-(x|\\d+)\\s?$"})",
    R"({"type": "string", "pattern": "^z?a\"b|^\\\\n"})",
    R"({"type": "string", "minLength": 2, "maxLength": 4})",
    R"({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"},
        "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}}, "required": ["v", "next"],
        "additionalProperties": false}}})",
    R"({"type": "array", "prefixItems": [{"type": "string"}, {"type": "boolean"}], "items": false, "minItems": 1})",
    R"({"type": "array", "prefixItems": [{"type": "null"}], "items": {"const": "\u00e9\"\n"}, "minItems": 3})",
    R"({"properties": {"x": true}, "required": ["x"], "additionalProperties": false, "x-note": 1, "title": "T"})",
    R"({"allOf": [{"type": "object", "additionalProperties": {"type": "array", "items": {"type": "number"}}}]})",
    R"({"enum": [1, "a", null], "type": ["string", "null"]})",
    R"({"oneOf": [{"$ref": "#/$defs/cat"}, {"$ref": "#/$defs/dog"}, {"type": "null"}, {"type": ["integer", "string"]}],
        "discriminator": {"propertyName": "kind"}, "$defs": {
        "cat": {"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
                "required": ["kind"]},
        "dog": {"type": "object", "properties": {"kind": {"enum": ["dog", "wolf"]}, "lives": {"type": "null"}},
                "required": ["lives", "kind"]}}})"};

TEST(JsonSchema, WhatItAllowsIsValid) {
  const PieceTokenizer tokenizer;
  for (const char* text : kSchemas) {
    SCOPED_TRACE(text);
    const Json schema = ParseOrderedJson(text);
    const auto constraint = Over(SchemaGrammar(schema), tokenizer);
    Rng rng{.seed = 9};
    std::vector<std::string> seen;
    for (int round = 0; round < 60; ++round) {
      const std::string answer = RandomText(constraint, tokenizer, rng);
      const Json value = Json::parse(answer, nullptr, /*allow_exceptions=*/false);
      ASSERT_FALSE(value.is_discarded()) << answer;
      ASSERT_TRUE(Valid(value, schema, schema)) << answer;
      seen.push_back(answer);
    }
    std::ranges::sort(seen);
    EXPECT_GT(std::unique(seen.begin(), seen.end()) - seen.begin(), 1) << "one text alone";
  }
}

TEST(JsonSchema, TakesWhatIsValidAsModelsWriteIt) {
  const testing::ByteTokenizer tokenizer;
  struct Row {
    const char* schema;
    std::vector<std::string> good, bad;
  };
  const Row rows[] = {
      {kSchemas[0],
       {R"({"name": "A\u00e9\n", "age": 30})", "{\n  \"name\": \"\",\n  \"age\": 0\n}", R"({"name":"x","age":7})"},
       {R"({"age": 3, "name": "x"})", R"({"name": "x"})", R"({"name": "x", "age": -1})", R"({"name": 1, "age": 1})",
        R"({"name": "x", "age": 1, "b": 2})", R"({"name": "x", "age": 01})"}},
      {kSchemas[1], {R"({"b": null})", R"({"a": true, "b": null, "c": [2]})"}, {R"({"a": true})", R"({"b": null,})"}},
      {kSchemas[2], {R"({"ab": 4, "e": "x", "abc": "y", "b": ""})"}, {R"({"e": "x", "a": "y"})", R"({"e": 1})"}},
      {kSchemas[4], {"-1.24", "-1", "0", "0.5", "30.5", "30.50", "-0.001", "7"}, {"-1.25", "30.51", "31", "-2", "00"}},
      {kSchemas[5], {"0.05", "0.0999", "0.06"}, {"0.1", "0.0499", "0", "0.10"}},
      {kSchemas[6], {"-7", "-199", "-10"}, {"-200", "-6", "7", "0", "-07"}},
      {kSchemas[7], {"4", "10", "1234567", "999999"}, {"3", "1234568", "4.0", "10000000"}},
      {kSchemas[8], {"0", "60", "-120", "123600"}, {"30", "61", "6"}},
      {kSchemas[9], {"7", "98"}, {"0", "105", "8"}},
      {kSchemas[11], {"\"ab-x\"", "\"abc-42 \""}, {"\"a-x\"", "\"ab-x  \"", "\"ab-\""}},
      {kSchemas[12], {R"("za\"bz")", R"("\\nq")"}, {R"("ab")", R"("q\\n")"}},
      {kSchemas[14], {R"({"v": 1, "next": {"v": 2, "next": null}})"}, {R"({"v": 1, "next": {"v": 2}})"}},
      {R"({"type": "string", "format": "date"})",
       {"\"2024-02-28\"", "\"1999-12-31\""},
       {"\"2024-02-30\"", "\"2024-13-01\""}},
      {R"({"type": "string", "format": "ipv4"})",
       {"\"127.0.0.1\"", "\"255.255.255.255\""},
       {"\"256.0.0.1\"", "\"1.2.3\""}},
      {R"({"type": "object", "properties": {}})", {"{}"}, {R"({"a": 1})"}},
      {R"({"type": "object"})", {"{}", R"({"a": 1})"}, {"[]"}},
      {"true", {"[1, {\"a\": [null]}]", "-1.5e-3", "\"x\""}, {"", "nul", "{a}", "[1,]"}}};
  for (const Row& row : rows) {
    SCOPED_TRACE(row.schema);
    const auto constraint = Over(SchemaGrammar(ParseOrderedJson(row.schema)), tokenizer);
    for (const std::string& text : row.good) EXPECT_TRUE(Matches(constraint, text)) << text;
    for (const std::string& text : row.bad) EXPECT_FALSE(Matches(constraint, text)) << text;
  }
}

TEST(JsonSchema, RefusesByName) {
  const std::pair<const char*, const char*> rows[] = {
      {R"({"not": {}})", "at #: \"not\""},
      {R"({"properties": {"a": {"oneOf": []}}})", "at #/properties/a: \"oneOf\""},
      {R"({"oneOf": [{"type": "null"}, {"type": "number"}, {"type": "integer"}]})", "fit both 1 and 2"},
      {R"({"oneOf": [{"type": "object"}, {"type": "object", "required": ["a"]}]})", "fit both 0 and 1"},
      {R"({"oneOf": [{"const": 1}, {"enum": [2, 1]}]})", "anyOf"},
      {R"({"oneOf": [true, {"type": "null"}]})", "fit both"},
      {R"({"oneOf": [{"$ref": "#"}, {"type": "null"}]})", "fit both"},
      {R"({"type": "array", "uniqueItems": true})", "\"uniqueItems\""},
      {R"({"patternProperties": {}})", "\"patternProperties\""},
      {R"({"allOf": [{}, {}]})", "one schema can say"},
      {R"({"$ref": "#/x"})", "leads nowhere"},
      {R"({"$ref": "http://a/b"})", "\"$ref\""},
      {R"({"$ref": "#"})", "no value is valid"},
      {R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})", "no value is valid"},
      {R"({"anyOf": [{}], "type": "string"})", "beside"},
      {R"({"type": "strange"})", "\"type\""},
      {R"({"type": 3})", "\"type\""},
      {R"({"enum": []})", "\"enum\""},
      {R"({"type": "string", "format": "uri"})", "\"uri\""},
      {R"x({"type": "string", "pattern": "(?=a)"})x", "(?"},
      {R"({"type": "string", "pattern": "\\bx"})", "\\b is"},
      {R"({"type": "string", "pattern": "(a"})", "not closed"},
      {R"({"type": "string", "pattern": "a**"})", "repeats"},
      {R"({"type": "string", "pattern": "a", "minLength": 2})", "more than one"},
      {R"({"type": "array", "minItems": 99999999})", "parts"},
      {R"({"type": "array", "minItems": 3, "maxItems": 2})", "maxItems"},
      {R"({"type": "integer", "multipleOf": 2.5})", "multipleOf"},
      {R"({"type": "integer", "multipleOf": 0})", "multipleOf"},
      {R"({"type": "integer", "multipleOf": 3, "minimum": 1e300, "maximum": 1e300})", "2^53"},
      {R"({"type": "integer", "minimum": 5, "maximum": 4})", "no value is valid"},
      {R"({"minimum": "x"})", "\"minimum\""},
      {R"({"required": ["a"], "additionalProperties": false})", "\"required\""},
      {R"({"required": "a"})", "\"required\""},
      {R"({"properties": [1]})", "\"properties\""},
      {"false", "schema"},
      {"[]", "schema"}};
  for (const auto& [text, wanted] : rows) {
    SCOPED_TRACE(text);
    try {
      SchemaGrammar(ParseOrderedJson(text));
      ADD_FAILURE() << "not refused";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(wanted), std::string::npos) << error.what();
    }
  }
}

}  // namespace
}  // namespace hawser
