#include "hawser/infer/json_parts.h"

#include <algorithm>
#include <map>

#include "hawser/base/error.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

using Item = GrammarBuilder::Item;
using Sequence = GrammarBuilder::Sequence;
using Choices = GrammarBuilder::Choices;

void Append(Sequence* to, const Sequence& more) { to->insert(to->end(), more.begin(), more.end()); }

}  // namespace

Item JsonParts::Blank() {
  const std::string name = "json-blank";
  if (b_.Defined(name)) return b_.Rule(name);
  Sequence some = {b_.Class({{'\n', '\n'}, {' ', ' '}})};
  Append(&some, b_.Repeat(b_.Class({{' ', ' '}}), 0, 24));
  b_.Define(name, {std::move(some), {}});
  return b_.Rule(name);
}

Item JsonParts::Value() {
  const std::string name = "json-value";
  const Item value = b_.Rule(name);
  if (b_.Defined(name)) return value;
  b_.Define(name, {{b_.Rule("json-object")},
                   {b_.Rule("json-array")},
                   {String()},
                   {Number({})},
                   b_.Text("true"),
                   b_.Text("false"),
                   b_.Text("null")});
  Object();
  Array();
  return value;
}

namespace {

/// open, inside more times with commas between, close.
Choices Listed(GrammarBuilder* b, char open, char close, const Sequence& one, Item blank) {
  Sequence further = b->Text(",");
  further.push_back(blank);
  Append(&further, one);
  Sequence some = one;
  Append(&some, b->Repeat(b->OneOf({std::move(further)}), 0, -1));
  some.push_back(blank);
  Sequence all = b->Text(std::string_view(&open, 1));
  all.push_back(blank);
  all.push_back(b->OneOf({std::move(some), {}}));
  Append(&all, b->Text(std::string_view(&close, 1)));
  return {std::move(all)};
}

}  // namespace

Item JsonParts::Object() {
  const std::string name = "json-object";
  if (!b_.Defined(name)) {
    Sequence member = {String()};
    Append(&member, b_.Text(":"));
    member.push_back(Blank());
    member.push_back(b_.Rule("json-value"));
    b_.Define(name, Listed(&b_, '{', '}', member, Blank()));
    Value();
  }
  return b_.Rule(name);
}

Item JsonParts::Array() {
  const std::string name = "json-array";
  if (!b_.Defined(name)) {
    b_.Define(name, Listed(&b_, '[', ']', {b_.Rule("json-value")}, Blank()));
    Value();
  }
  return b_.Rule(name);
}

Item JsonParts::AnyCharacter() {
  const std::string name = "json-character";
  if (b_.Defined(name)) return b_.Rule(name);
  const auto hex = [&](std::string_view from, int more) {  // one of these digits, and more of any
    GrammarBuilder::CodePoints first;
    for (const char c : from) first.emplace_back(c, c);
    Sequence digits = {b_.Class(std::move(first))};
    Append(&digits, b_.Repeat(b_.Class({{'0', '9'}, {'a', 'f'}, {'A', 'F'}}), more, more));
    return digits;
  };
  const auto after = [&](std::string_view text, const Sequence& rest) {
    Sequence all = b_.Text(text);
    Append(&all, rest);
    return all;
  };
  const char* kButZero = "123456789abcdefABCDEF";
  // Neither half of a pair, which alone is no character, nor NUL.
  const Item code = b_.OneOf({hex("123456789abcefABCEF", 3),
                              after("0", hex(kButZero, 2)),
                              after("00", hex(kButZero, 1)),
                              after("000", hex(kButZero, 0)),
                              {b_.Class({{'d', 'd'}, {'D', 'D'}}), b_.OneOf({hex("01234567", 2)})}});
  Sequence escaped = b_.Text("\\");
  escaped.push_back(b_.OneOf(
      {{b_.Class({{'"', '"'}, {'\\', '\\'}, {'/', '/'}, {'b', 'b'}, {'f', 'f'}, {'n', 'n'}, {'r', 'r'}, {'t', 't'}})},
       {b_.Text("u")[0], code}}));
  b_.Define(name, {{b_.Class(GrammarBuilder::Except({{0, 0x1F}, {'"', '"'}, {'\\', '\\'}}))}, std::move(escaped)});
  return b_.Rule(name);
}

Item JsonParts::Character(GrammarBuilder::CodePoints ranges) {
  Choices choices;
  GrammarBuilder::CodePoints plain;
  for (const auto& [from, to] : ranges) {
    uint32_t begin = from;
    for (uint32_t c = from; c <= std::min<uint32_t>(to, '\\'); ++c) {
      if (c >= 0x20 && c != '"' && c != '\\') continue;
      if (c > begin) plain.emplace_back(begin, c - 1);
      begin = c + 1;
      constexpr std::string_view kShort = "\b\f\n\r\t", kLetters = "bfnrt";
      const size_t letter = kShort.find(static_cast<char>(c));
      const std::string text = c >= 0x20               ? fmt::format("\\{}", static_cast<char>(c))
                               : letter != kShort.npos ? fmt::format("\\{}", kLetters[letter])
                                                       : fmt::format("\\u{:04x}", c);
      if (c != 0) choices.push_back(b_.Text(text));
    }
    if (begin <= to) plain.emplace_back(begin, to);
  }
  choices.push_back({b_.Class(std::move(plain))});
  return b_.OneOf(std::move(choices));
}

Sequence JsonParts::Quoted(Sequence inside) {
  Sequence all = b_.Text("\"");
  Append(&all, inside);
  Append(&all, b_.Text("\""));
  return all;
}

Item JsonParts::StringOf(int64_t least, int64_t most) {
  return b_.OneOf({Quoted(b_.Repeat(AnyCharacter(), least, most))});
}

Item JsonParts::String() {
  const std::string name = "json-string";
  if (!b_.Defined(name)) b_.Define(name, {{StringOf(0, -1)}});
  return b_.Rule(name);
}

Item JsonParts::StringExcept(std::vector<std::string> names) {
  std::ranges::sort(names);
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return b_.OneOf({Quoted({ExceptFrom(names, 0)})});
}

/// What may follow the `depth` characters that all `names` (sorted) begin with, so that it becomes none of them.
/// Nothing is written by escapes that could be itself, for then it would be of two spellings.
Item JsonParts::ExceptFrom(const std::vector<std::string>& names, size_t depth) {
  const auto plain = [&](GrammarBuilder::CodePoints but) {
    but.insert(but.end(), {{0, 0x1F}, {'"', '"'}, {'\\', '\\'}});
    return b_.Class(GrammarBuilder::Except(std::move(but)));
  };
  const Sequence rest = b_.Repeat(plain({}), 0, -1);
  Choices choices;
  std::map<char32_t, std::vector<std::string>> next;
  bool ends_here = true;
  for (const std::string& name : names) {
    if (name.size() == depth) {
      ends_here = false;
    } else {
      next[CodePointAt(name, depth).value].push_back(name);
    }
  }
  GrammarBuilder::CodePoints known;
  for (const auto& [character, longer] : next) {
    known.emplace_back(character, character);
    if (character < 0x20 || character == '"' || character == '\\') continue;  // never written
    std::string text;
    AppendUtf8(text, character);
    Sequence way = b_.Text(text);
    way.push_back(ExceptFrom(longer, depth + text.size()));
    choices.push_back(std::move(way));
  }
  Sequence other = {plain(std::move(known))};
  Append(&other, rest);
  choices.push_back(std::move(other));
  if (ends_here) choices.emplace_back();
  return b_.OneOf(std::move(choices));
}

}  // namespace hawser
