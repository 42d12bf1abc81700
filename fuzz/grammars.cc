// Grammars and schemas of requests: what is followed always goes on or ends.
#include <nlohmann/json.hpp>

#include "fuzz/mutate.h"
#include "fuzz/target.h"
#include "hawser/base/error.h"
#include "hawser/infer/constraint.h"
#include "hawser/infer/json_schema.h"
#include "hawser/io/ordered_json.h"
#include "hawser/testing/byte_tokenizer.h"

namespace hawser::fuzz {
namespace {

std::vector<std::string> GrammarSeeds() {
  return {"root ::= \"a\" | b{2,3} # c\nb ::= [a-z^\\n]+ (\"x\" | .)?",
          "root ::= v\nv ::= \"(\" v \")\" | \"[\" (v (\",\" v)*)? \"]\" | [^\\u00e9-\\u20ac]{1,3}",
          "root ::= (\"yes\" |\n \"no\")* \"\\x41\""};
}

std::vector<std::string> SchemaSeeds() {
  return {
      R"({"type": "object", "properties": {"a": {"type": "string", "pattern": "^x[0-9]{2,3}$"},
              "b": {"enum": [1, "x"]}}, "required": ["a"], "additionalProperties": {"type": "number", "minimum": -1.5}})",
      R"({"$ref": "#/$defs/n", "$defs": {"n": {"type": ["array", "null"], "items": {"$ref": "#/$defs/n"},
              "minItems": 1, "maxItems": 3}}})",
      R"({"anyOf": [{"type": "string", "format": "date"}, {"const": [null]}, {"type": "integer", "multipleOf": 5}]})"};
}

/// Goes some way at random: never stuck, and what is allowed is taken.
void Follow(Grammar grammar) {
  static const testing::ByteTokenizer tokenizer;
  static const auto trie = std::make_shared<TokenTrie>(tokenizer);
  const auto constraint = std::make_shared<Constraint>(std::move(grammar), trie);
  ConstraintWalk walk(constraint);
  TokenSet allowed;
  Rng rng{.seed = 7};
  for (int step = 0; step < 40 && !walk.must_end(); ++step) {
    walk.Allowed(false, &allowed);
    std::string ways;
    for (int32_t id = 0; id < 256; ++id) {
      if (Holds(allowed, id)) ways += static_cast<char>(id);
    }
    if (ways.empty()) {
      if (!walk.may_end()) Finding("a text that can neither go on nor end");
      return;
    }
    const char way = ways[rng.Below(ways.size())];
    if (!walk.Take({&way, 1})) Finding("a byte that is allowed and not taken");
  }
}

void RunGrammar(std::string_view input) { Follow(ParseGrammar(input)); }
void RunSchema(std::string_view input) { Follow(SchemaGrammar(ParseOrderedJson(input))); }

}  // namespace

std::vector<Target> GrammarTargets() {
  return {{.name = "grammar",
           .seeds = GrammarSeeds,
           .run = RunGrammar,
           .mutate = WordMutator({"root", "v", "::=", "|", "(", ")", "*", "+", "?", "{2,}", "{,3}", "[^a-b]", ".",
                                  "\"a\"", "\\x00", "\\uD800", "#"},
                                 " \n|()\"[]{},")},
          {.name = "schema",
           .seeds = SchemaSeeds,
           .run = RunSchema,
           .mutate = JsonMutator({"type",
                                  "object",
                                  "array",
                                  "string",
                                  "number",
                                  "integer",
                                  "boolean",
                                  "null",
                                  "properties",
                                  "required",
                                  "additionalProperties",
                                  "items",
                                  "prefixItems",
                                  "minItems",
                                  "maxItems",
                                  "enum",
                                  "const",
                                  "anyOf",
                                  "allOf",
                                  "$ref",
                                  "#",
                                  "#/$defs/n",
                                  "minLength",
                                  "maxLength",
                                  "pattern",
                                  "format",
                                  "date",
                                  "uuid",
                                  "minimum",
                                  "maximum",
                                  "exclusiveMinimum",
                                  "exclusiveMaximum",
                                  "multipleOf",
                                  "title",
                                  "^(a|b)*$"})}};
}

}  // namespace hawser::fuzz
