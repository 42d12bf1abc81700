// infer/json_parts.h - parts of grammars of JSON texts (RFC 8259): what grammars of schemas are put together from.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/infer/grammar.h"

namespace hawser {

/// A number without a sign, digit by digit: 12.5 is {"12", "5"}. No zeros in front of the first part (but "0" itself)
/// or behind the second.
struct Decimal {
  std::string whole = "0", fraction;
};
/// What a number may be.
struct NumberBounds {
  struct Bound {
    double value = 0;
    bool open = false;  // the value itself is outside
  };
  std::optional<Bound> low, high;
  int fraction = 15;        // digits behind the point at most; 0: whole numbers
  int64_t multiple_of = 1;  // whole numbers that this divides; with fraction 0
};

class JsonParts {
 public:
  using Item = GrammarBuilder::Item;
  using Sequence = GrammarBuilder::Sequence;
  using Choices = GrammarBuilder::Choices;

  /// `builder` outlives it.
  explicit JsonParts(GrammarBuilder* builder) : b_(*builder) {}

  Item Value();   // anything
  Item Object();  // any one
  Item Array();
  Item String();  // in quotes
  Item Blank();   // what may stand between two parts: nothing, a line end, a few blanks
  /// A character inside of a string, of these: as itself where it can be, else by an escape.
  Item Character(GrammarBuilder::CodePoints ranges);
  /// Any character, in every way to write it.
  Item AnyCharacter();
  /// A string in quotes with so many characters; `most` -1: any number.
  Item StringOf(int64_t least, int64_t most);
  /// A string in quotes of which a regular expression (ECMA-262, without what looks ahead or back) finds a part.
  /// Errors: kFormat, kUnsupported naming what it uses.
  Item StringLike(std::string_view pattern);
  /// A string in quotes that is none of these.
  Item StringExcept(std::vector<std::string> names);
  /// A number. Errors: kUnsupported where bounds and multiples together leave too many.
  Item Number(const NumberBounds& bounds);

 private:
  Sequence Quoted(Sequence inside);
  Item Magnitude(const Decimal& low, bool low_open, const std::optional<Decimal>& high, bool high_open, int fraction);
  Item MultipleOf(int64_t number);
  Item ExceptFrom(const std::vector<std::string>& names, size_t depth);

  GrammarBuilder& b_;
};

}  // namespace hawser
