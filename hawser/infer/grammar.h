// infer/grammar.h - which texts there may be: rules over bytes, as a pushdown automaton reads them. What is built is
// checked: every rule that is left can end, none begins with itself, and sizes are bounded.
#pragma once

#include <bitset>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace hawser {

/// Rules, each a choice of sequences of parts. Immutable.
class Grammar {
 public:
  enum class Kind : uint8_t { kBytes, kRule, kEnd };
  struct Part {
    Kind kind = Kind::kEnd;
    int32_t value = 0;  // kBytes: a set of bytes; kRule: a rule
    int32_t need = 0;   // levels below this one that the shortest way from here to the end of the sequence takes
  };
  using ByteSet = std::bitset<256>;

  /// The parts of all sequences one behind the other, each closed by kEnd; places in them are indices.
  const std::vector<Part>& parts() const { return parts_; }
  const std::vector<int32_t>& starts(int32_t rule) const { return rules_[static_cast<size_t>(rule)]; }
  const ByteSet& bytes(int32_t set) const { return sets_[static_cast<size_t>(set)]; }
  int32_t root() const { return root_; }

  /// Levels of rules inside each other at most, in any text.
  static constexpr int32_t kMostLevels = 512;

 private:
  friend class GrammarBuilder;
  std::vector<Part> parts_;
  std::vector<std::vector<int32_t>> rules_;  // where the sequences begin
  std::vector<ByteSet> sets_;
  int32_t root_ = 0;
};

/// Puts a grammar together.
class GrammarBuilder {
 public:
  struct Item {
    Grammar::Kind kind = Grammar::Kind::kRule;
    int32_t value = 0;
  };
  using Sequence = std::vector<Item>;
  using Choices = std::vector<Sequence>;
  using CodePoints = std::vector<std::pair<uint32_t, uint32_t>>;  // from, to; in any order

  static constexpr size_t kMostParts = 1 << 17;

  /// A rule by its name, defined by now or later.
  Item Rule(const std::string& name);
  bool Defined(const std::string& name) const;
  /// Errors: kFormat where it is defined already.
  void Define(const std::string& name, Choices choices);

  /// The bytes of a text, one by one.
  Sequence Text(std::string_view text);
  /// One character of these. None: nothing matches.
  Item Class(CodePoints ranges);
  /// All characters but these.
  static CodePoints Except(CodePoints ranges);
  Item OneOf(Choices choices);
  /// `item` from `least` to `most` times; -1: any number.
  Sequence Repeat(Item item, int64_t least, int64_t most);

  /// Errors: kFormat for a rule that is used and not defined, one that begins with itself, one that can not end where
  /// the root needs it (`endless` says so in the words of who wrote the grammar; empty: in those of its rules), and a
  /// grammar that is too large or needs too many levels.
  Grammar Build(Item root, std::string_view endless = "");

 private:
  struct Definition {
    std::string name;  // empty: of no name
    Choices choices;
    bool defined = false;
  };
  int32_t NewRule(std::string name);
  Item Bytes(const Grammar::ByteSet& set);
  void Count(size_t parts);
  void AddUtf8(uint32_t from, uint32_t to, Choices* choices);

  std::string NameOf(int32_t rule) const;
  std::vector<int32_t> Levels(bool empty) const;
  static int32_t LevelsOf(const Sequence& sequence, const std::vector<int32_t>& levels);
  void DropEndless(const std::vector<int32_t>& levels);
  void CheckLeft() const;
  void Flatten(const std::vector<int32_t>& levels, Grammar* grammar) const;

  std::vector<Definition> rules_;
  std::map<std::string, int32_t> names_;
  std::vector<Grammar::ByteSet> sets_;
  std::map<std::string, int32_t> set_ids_;
  std::map<CodePoints, Item> classes_;
  size_t parts_ = 0;
};

/// Errors: kFormat with the line. The notation of llama.cpp, GBNF:
///   root ::= "yes" | "no" tail{1,3}    # texts, choices, rules, how often: * + ? {n} {n,} {n,m}
///   tail ::= [a-z0-9] | [^"\n] | .     # one character of these, none of these, any
/// Groups stand in parentheses. Escapes: \n \r \t \\ \" \[ \] \xHH \uHHHH \UHHHHHHHH. The text is one of `root`.
Grammar ParseGrammar(std::string_view text);

}  // namespace hawser
