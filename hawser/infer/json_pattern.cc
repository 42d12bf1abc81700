// Regular expressions as grammars of JSON strings.
#include <algorithm>
#include <cctype>

#include "hawser/base/depth.h"
#include "hawser/base/error.h"
#include "hawser/infer/json_parts.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

using Item = GrammarBuilder::Item;
using Sequence = GrammarBuilder::Sequence;
using Choices = GrammarBuilder::Choices;
using CodePoints = GrammarBuilder::CodePoints;

class PatternReader {
 public:
  PatternReader(std::string_view text, GrammarBuilder* builder, JsonParts* parts)
      : text_(text), b_(*builder), parts_(*parts) {}

  /// What the pattern finds, with anything around it that it does not exclude.
  Item Read() {
    if (!IsUtf8(text_)) Wrong("it is no UTF-8");
    const Item item = ReadChoices(0);
    if (at_ < text_.size()) Wrong("a ) closes nothing");
    return item;
  }

 private:
  template <class... Args>
  [[noreturn]] void Wrong(fmt::format_string<Args...> format, Args&&... args) const {
    Fail(ErrorKind::kFormat, "\"pattern\" \"{}\": {}", text_, fmt::format(format, std::forward<Args>(args)...));
  }
  [[noreturn]] void Unknown(std::string_view what) const {
    Fail(ErrorKind::kUnsupported, "\"pattern\" \"{}\": {} is not supported", text_, what);
  }
  char Here() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  bool Takes(std::string_view what) {
    if (!text_.substr(at_).starts_with(what)) return false;
    at_ += what.size();
    return true;
  }
  Sequence Anything() { return b_.Repeat(parts_.AnyCharacter(), 0, -1); }

  Item ReadChoices(int depth) {
    CheckDepth(depth, "the pattern");
    Choices choices;
    do {
      choices.push_back(ReadSequence(depth));
    } while (Takes("|"));
    return b_.OneOf(std::move(choices));
  }

  Sequence ReadSequence(int depth) {
    Sequence sequence;
    if (depth == 0 && !Takes("^")) sequence = Anything();
    bool open = depth == 0;
    while (at_ < text_.size() && Here() != '|' && Here() != ')') {
      if (Takes("$")) {
        const bool last = depth == 0 && (at_ == text_.size() || Here() == '|');
        if (!last) Unknown("$ that is not at the end");
        open = false;
        break;
      }
      const Sequence part = ReadTimes(ReadAtom(depth));
      if (sequence.size() + part.size() > GrammarBuilder::kMostParts) Wrong("it is too long");
      sequence.insert(sequence.end(), part.begin(), part.end());
    }
    if (open) {
      const Sequence rest = Anything();
      sequence.insert(sequence.end(), rest.begin(), rest.end());
    }
    return sequence;
  }

  Item ReadAtom(int depth) {
    if (Takes("(")) {
      if (Takes("?") && !Takes(":")) Unknown("(? of this kind");
      const Item group = ReadChoices(depth + 1);
      if (!Takes(")")) Wrong("a ( is not closed");
      return group;
    }
    if (Takes("[")) return parts_.Character(ReadClass());
    if (Takes(".")) return parts_.Character(GrammarBuilder::Except({{'\n', '\n'}, {'\r', '\r'}, {0x2028, 0x2029}}));
    if (Takes("^")) Unknown("^ that is not at the beginning");
    if (std::string_view("*+?{").find(Here()) != std::string_view::npos) Wrong("{} repeats nothing", Here());
    return parts_.Character(ReadOne());
  }

  /// A character, or what an escape stands for.
  CodePoints ReadOne() {
    if (!Takes("\\")) {
      const CodePoint c = CodePointAt(text_, at_);
      at_ += c.length;
      return {{c.value, c.value}};
    }
    if (at_ >= text_.size()) Wrong("it ends in a \\");
    const char c = text_[at_++];
    const CodePoints digits = {{'0', '9'}}, word = {{'0', '9'}, {'A', 'Z'}, {'a', 'z'}, {'_', '_'}},
                     blank = {{'\t', '\r'}, {' ', ' '}};
    const auto only = [](uint32_t value) { return CodePoints{{value, value}}; };
    switch (c) {
      case 'd':
        return digits;
      case 'D':
        return GrammarBuilder::Except(digits);
      case 'w':
        return word;
      case 'W':
        return GrammarBuilder::Except(word);
      case 's':
        return blank;
      case 'S':  // other spaces than these are none in some dialects
        return GrammarBuilder::Except({{0x1C, 0x20},
                                       {'\t', '\r'},
                                       {0x85, 0x85},
                                       {0xA0, 0xA0},
                                       {0x1680, 0x1680},
                                       {0x2000, 0x200A},
                                       {0x2028, 0x2029},
                                       {0x202F, 0x202F},
                                       {0x205F, 0x205F},
                                       {0x3000, 0x3000},
                                       {0xFEFF, 0xFEFF}});
      case 'n':
        return only('\n');
      case 'r':
        return only('\r');
      case 't':
        return only('\t');
      case 'f':
        return only('\f');
      case 'v':
        return only('\v');
      case 'x':
        return only(Hex(2));
      case 'u':
        return only(Hex(4));
      default:
        if (std::isalnum(static_cast<unsigned char>(c)) != 0) Unknown(fmt::format("\\{}", c));
        --at_;
        const CodePoint point = CodePointAt(text_, at_);
        at_ += point.length;
        return only(point.value);
    }
  }
  uint32_t Hex(size_t digits) {
    const std::string_view hex = text_.substr(at_, digits);
    const bool good =
        hex.size() == digits && std::ranges::all_of(hex, [](unsigned char c) { return std::isxdigit(c); });
    if (!good) Wrong("wanted {} hexadecimal digits", digits);
    at_ += digits;
    return static_cast<uint32_t>(std::stoul(std::string(hex), nullptr, 16));
  }

  CodePoints ReadClass() {
    const bool others = Takes("^");
    CodePoints ranges;
    while (Here() != ']') {
      if (at_ >= text_.size()) Wrong("a [ is not closed");
      CodePoints one = ReadOne();
      const bool range = Here() == '-' && at_ + 1 < text_.size() && text_[at_ + 1] != ']';
      if (range) {
        ++at_;
        const CodePoints to = ReadOne();
        const bool ends = one.size() == 1 && one[0].first == one[0].second && to.size() == 1 &&
                          to[0].first == to[0].second && one[0].first <= to[0].first;
        if (!ends) Wrong("a range that does not go from one character to a later one");
        one[0].second = to[0].second;
      }
      ranges.insert(ranges.end(), one.begin(), one.end());
    }
    Takes("]");
    return others ? GrammarBuilder::Except(std::move(ranges)) : ranges;
  }

  Sequence ReadTimes(Item item) {
    int64_t least = 0, most = -1;
    if (Takes("?")) {
      most = 1;
    } else if (Takes("+")) {
      least = 1;
    } else if (Takes("{")) {
      least = most = Number();
      if (Takes(",")) most = Here() == '}' ? -1 : Number();
      if (!Takes("}") || (most >= 0 && most < least)) Wrong("a {{ that says no number of times");
    } else if (!Takes("*")) {
      return {item};
    }
    Takes("?");  // the text is the same, however it is found
    if (std::string_view("*+?{").find(Here()) != std::string_view::npos && at_ < text_.size()) {
      Wrong("{} repeats a repetition", Here());
    }
    return b_.Repeat(item, least, most);
  }
  int64_t Number() {
    const size_t begin = at_;
    int64_t number = 0;
    while (std::isdigit(static_cast<unsigned char>(Here())) != 0) {
      number = std::min<int64_t>(number * 10 + (text_[at_++] - '0'), GrammarBuilder::kMostParts + 1);
    }
    if (at_ == begin) Wrong("a {{ without a number");
    return number;
  }

  std::string_view text_;
  size_t at_ = 0;
  GrammarBuilder& b_;
  JsonParts& parts_;
};

}  // namespace

GrammarBuilder::Item JsonParts::StringLike(std::string_view pattern) {
  return b_.OneOf({Quoted({PatternReader(pattern, &b_, this).Read()})});
}

}  // namespace hawser
