// The notation of grammars (GBNF).
#include <algorithm>
#include <cctype>

#include "hawser/base/depth.h"
#include "hawser/base/error.h"
#include "hawser/infer/grammar.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

bool IsNameChar(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '-' || c == '_'; }

class GrammarReader {
 public:
  explicit GrammarReader(std::string_view text) : text_(text) {}

  Grammar Read() {
    Blank(/*lines=*/true);
    while (at_ < text_.size()) ReadRule();
    if (!builder_.Defined("root")) Fail(ErrorKind::kFormat, "a grammar needs a rule \"root\": what a text is");
    return builder_.Build(builder_.Rule("root"));
  }

 private:
  using Item = GrammarBuilder::Item;
  using Sequence = GrammarBuilder::Sequence;
  using Choices = GrammarBuilder::Choices;

  template <class... Args>
  [[noreturn]] void Wrong(fmt::format_string<Args...> format, Args&&... args) const {
    const auto line = std::count(text_.begin(), text_.begin() + static_cast<ptrdiff_t>(at_), '\n') + 1;
    Fail(ErrorKind::kFormat, "line {} of the grammar: {}", line, fmt::format(format, std::forward<Args>(args)...));
  }
  char Here() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool Takes(std::string_view what) {
    if (!text_.substr(at_).starts_with(what)) return false;
    at_ += what.size();
    return true;
  }
  /// Over blanks and comments, and with `lines` over the ends of lines.
  void Blank(bool lines) {
    for (; at_ < text_.size(); ++at_) {
      const char c = text_[at_];
      if (c == '#') {
        while (at_ < text_.size() && text_[at_] != '\n') ++at_;
        if (at_ == text_.size()) return;
      }
      if (text_[at_] == '\n' && !lines) return;
      if (std::string_view(" \t\r\n").find(text_[at_]) == std::string_view::npos) return;
    }
  }
  std::string Name() {
    const size_t begin = at_;
    while (IsNameChar(Here())) ++at_;
    return std::string(text_.substr(begin, at_ - begin));
  }

  void ReadRule() {
    const std::string name = Name();
    if (name.empty()) Wrong("wanted the name of a rule, found {}", Found());
    Blank(false);
    if (!Takes("::=")) Wrong("wanted ::= behind \"{}\", found {}", name, Found());
    Blank(true);
    Choices choices = ReadChoices(0);
    if (at_ < text_.size() && Here() != '\n') Wrong("wanted the end of rule \"{}\", found {}", name, Found());
    if (builder_.Defined(name)) Wrong("rule \"{}\" is defined twice", name);
    builder_.Define(name, std::move(choices));
    Blank(true);
  }

  std::string Found() const {
    if (at_ >= text_.size()) return "the end";
    return fmt::format("\"{}\"", text_.substr(at_, std::min<size_t>(16, text_.find('\n', at_) - at_)));
  }

  /// Inside of parentheses (`depth` above 0) lines may end anywhere.
  Choices ReadChoices(int depth) {
    CheckDepth(depth, "the grammar");
    Choices choices;
    do {
      Blank(depth > 0 || !choices.empty());
      choices.push_back(ReadSequence(depth));
    } while (Takes("|"));
    return choices;
  }

  Sequence ReadSequence(int depth) {
    Sequence sequence;
    while (at_ < text_.size()) {
      Sequence part;
      if (Here() == '"') {
        part = ReadText();
      } else if (Here() == '[') {
        part = {ReadClass()};
      } else if (Takes(".")) {
        part = {builder_.Class(GrammarBuilder::Except({}))};
      } else if (Takes("(")) {
        part = {builder_.OneOf(ReadChoices(depth + 1))};
        if (!Takes(")")) Wrong("wanted ) , found {}", Found());
      } else if (IsNameChar(Here())) {
        part = {builder_.Rule(Name())};
      } else {
        break;
      }
      part = ReadTimes(std::move(part));
      if (sequence.size() + part.size() > GrammarBuilder::kMostParts) Wrong("a rule is too long");
      sequence.insert(sequence.end(), part.begin(), part.end());
      Blank(depth > 0);
    }
    return sequence;
  }

  /// How often what stands before comes.
  Sequence ReadTimes(Sequence part) {
    for (;;) {
      Blank(false);
      int64_t least = 0, most = -1;
      if (Takes("?")) {
        most = 1;
      } else if (Takes("+")) {
        least = 1;
      } else if (Takes("{")) {
        Blank(false);
        least = Number();
        most = least;
        Blank(false);
        if (Takes(",")) {
          Blank(false);
          most = Here() == '}' ? -1 : Number();
          Blank(false);
        }
        if (!Takes("}")) Wrong("wanted }}, found {}", Found());
        if (most >= 0 && most < least) Wrong("{} to {} times", least, most);
      } else if (!Takes("*")) {
        return part;
      }
      part = builder_.Repeat(builder_.OneOf({std::move(part)}), least, most);
    }
  }
  int64_t Number() {
    const size_t begin = at_;
    int64_t number = 0;
    while (std::isdigit(static_cast<unsigned char>(Here())) != 0) {
      number = std::min<int64_t>(number * 10 + (text_[at_++] - '0'), GrammarBuilder::kMostParts + 1);
    }
    if (at_ == begin) Wrong("wanted a number, found {}", Found());
    return number;
  }

  /// A character of a text or a class, escaped or not.
  uint32_t Character() {
    if (!Takes("\\")) {
      const CodePoint c = CodePointAt(text_, at_);
      if (c.length == 0) Wrong("bytes that are no UTF-8");
      at_ += c.length;
      return c.value;
    }
    const char escape = Here();
    ++at_;
    switch (escape) {
      case 'n':
        return '\n';
      case 'r':
        return '\r';
      case 't':
        return '\t';
      case 'x':
        return Hex(2);
      case 'u':
        return Hex(4);
      case 'U':
        return Hex(8);
      case '\\':
      case '"':
      case '[':
      case ']':
      case '^':
      case '-':
      case '/':
        return static_cast<unsigned char>(escape);
      default:
        --at_;
        Wrong("unknown escape \\{}; there are n r t \\ \" [ ] ^ - x u U", Found());
    }
  }
  uint32_t Hex(int digits) {
    uint32_t value = 0;
    for (int i = 0; i < digits; ++i, ++at_) {
      if (std::isxdigit(static_cast<unsigned char>(Here())) == 0) Wrong("wanted {} hexadecimal digits", digits);
      const int c = std::tolower(static_cast<unsigned char>(Here()));
      value = value * 16 + static_cast<uint32_t>(c <= '9' ? c - '0' : c - 'a' + 10);
    }
    if (value > 0x10FFFF || (value >= 0xD800 && value < 0xE000)) Wrong("{:#x} is no character", value);
    return value;
  }

  Sequence ReadText() {
    std::string text;
    Takes("\"");
    while (Here() != '"') {
      if (at_ >= text_.size() || Here() == '\n') Wrong("a text has no closing \"");
      AppendUtf8(text, Character());
    }
    Takes("\"");
    return builder_.Text(text);
  }

  Item ReadClass() {
    Takes("[");
    const bool others = Takes("^");
    GrammarBuilder::CodePoints ranges;
    while (Here() != ']') {
      if (at_ >= text_.size() || Here() == '\n') Wrong("a class of characters has no closing ]");
      const uint32_t from = Character();
      uint32_t to = from;
      if (Here() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']') {
        ++at_;
        to = Character();
      }
      if (to < from) Wrong("a range of characters that ends before it begins");
      ranges.emplace_back(from, to);
    }
    Takes("]");
    return builder_.Class(others ? GrammarBuilder::Except(std::move(ranges)) : std::move(ranges));
  }

  std::string_view text_;
  size_t at_ = 0;
  GrammarBuilder builder_;
};

}  // namespace

Grammar ParseGrammar(std::string_view text) {
  constexpr size_t kMostBytes = 1 << 20;
  if (text.size() > kMostBytes) {
    Fail(ErrorKind::kFormat, "the grammar has {} bytes, at most {} are taken", text.size(), kMostBytes);
  }
  return GrammarReader(text).Read();
}

}  // namespace hawser
