#include "hawser/jinja/lex.h"

#include <algorithm>
#include <array>

#include "hawser/base/error.h"

namespace hawser::jinja {
namespace {

bool IsSpace(char c) { return c == ' ' || c == '\t' || c == '\n' || c == '\r' || c == '\v' || c == '\f'; }
bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsNameStart(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || static_cast<unsigned char>(c) >= 0x80;
}

constexpr std::array<std::string_view, 6> kTwo = {"==", "!=", "<=", ">=", "//", "**"};
constexpr std::string_view kOne = "+-*/%~<>=()[]{}.,:|";

class Lexer {
 public:
  explicit Lexer(std::string source) : source_(std::move(source)) {}

  std::vector<Token> Run() {
    bool trim = false;   // the newline that begins the next text goes
    bool strip = false;  // all blanks that begin it go
    while (at_ < source_.size()) {
      const size_t begin = at_;
      const size_t open = FindOpening(begin);
      std::string text = source_.substr(begin, open - begin);
      const int line = line_;
      Advance(open);
      TakeBefore(open, text);
      if (strip) {
        text.erase(0, std::min(text.size(), FirstOther(text)));
      } else if (trim) {
        text.erase(0, text.starts_with("\r\n") ? 2 : text.starts_with('\n') ? 1 : 0);
      }
      if (!text.empty()) Put(TokenKind::kText, text, line);
      trim = strip = false;
      if (open == source_.size()) break;
      const char kind = source_[open + 1];
      const bool marked = open + 2 < source_.size() && (source_[open + 2] == '-' || source_[open + 2] == '+');
      Advance(open + 2 + (marked ? 1 : 0));
      if (kind == '#') {
        const size_t end = source_.find("#}", at_);
        if (end == std::string::npos) Wrong("a comment that does not end");
        strip = end > at_ && source_[end - 1] == '-';
        Advance(end + 2);
        trim = true;
        continue;
      }
      LexInside(kind == '{', &strip);
      trim = kind == '%';
      if (kind == '%' && IsRaw()) TakeRaw(&trim, &strip);
    }
    Put(TokenKind::kEnd, "", line_);
    return std::move(tokens_);
  }

 private:
  [[noreturn]] void Wrong(std::string_view what) const { Fail(ErrorKind::kFormat, "line {}: {}", line_, what); }

  void Put(TokenKind kind, std::string text, int line) { tokens_.push_back({kind, line, std::move(text)}); }

  void Advance(size_t to) {
    line_ += static_cast<int>(std::count(source_.begin() + static_cast<std::ptrdiff_t>(at_),
                                         source_.begin() + static_cast<std::ptrdiff_t>(to), '\n'));
    at_ = to;
  }

  size_t FindOpening(size_t from) const {
    for (size_t brace = source_.find('{', from); brace != std::string::npos; brace = source_.find('{', brace + 1)) {
      if (brace + 1 < source_.size() && std::string_view("{%#").find(source_[brace + 1]) != std::string_view::npos) {
        return brace;
      }
    }
    return source_.size();
  }

  static size_t FirstOther(std::string_view text) {
    return static_cast<size_t>(std::find_if_not(text.begin(), text.end(), IsSpace) - text.begin());
  }

  /// What the opening takes from the text before it: {%- all blanks, {% those of its line if there is nothing else.
  void TakeBefore(size_t open, std::string& text) const {
    if (open + 2 >= source_.size()) return;
    const char mark = source_[open + 2];
    if (mark == '-') {
      while (!text.empty() && IsSpace(text.back())) text.pop_back();
    } else if (source_[open + 1] != '{' && mark != '+') {
      size_t end = text.size();
      while (end > 0 && (text[end - 1] == ' ' || text[end - 1] == '\t')) --end;
      const bool begins_line =
          end > 0 ? text[end - 1] == '\n' : (open == text.size() || source_[open - text.size() - 1] == '\n');
      if (begins_line) text.erase(end);
    }
  }

  void LexInside(bool output, bool* strip) {
    Put(output ? TokenKind::kOutputBegin : TokenKind::kStatementBegin, "", line_);
    const char close = output ? '}' : '%';
    int depth = 0;  // of brackets: }} inside a dict is not the end
    for (;;) {
      while (at_ < source_.size() && IsSpace(source_[at_])) Advance(at_ + 1);
      if (at_ >= source_.size()) Wrong(output ? "'{{' that does not end" : "'{%' that does not end");
      const char c = source_[at_];
      const auto closes = [&](size_t at) {
        return at + 1 < source_.size() && source_[at] == close && source_[at + 1] == '}';
      };
      if (depth == 0 && (closes(at_) || ((c == '-' || c == '+') && closes(at_ + 1)))) {
        *strip = c == '-';
        Advance(at_ + (c == '-' || c == '+' ? 3 : 2));
        Put(output ? TokenKind::kOutputEnd : TokenKind::kStatementEnd, "", line_);
        return;
      }
      if (IsNameStart(c)) {
        LexName();
      } else if (IsDigit(c)) {
        LexNumber();
      } else if (c == '\'' || c == '"') {
        LexString(c);
      } else {
        depth += c == '(' || c == '[' || c == '{';
        depth -= c == ')' || c == ']' || c == '}';
        LexOperator();
      }
    }
  }

  void LexName() {
    size_t end = at_;
    while (end < source_.size() && (IsNameStart(source_[end]) || IsDigit(source_[end]))) ++end;
    Put(TokenKind::kName, source_.substr(at_, end - at_), line_);
    Advance(end);
  }

  void LexNumber() {
    size_t end = at_;
    bool real = false;
    std::string digits;
    const auto take = [&] {
      while (end < source_.size() && (IsDigit(source_[end]) || source_[end] == '_')) {
        if (source_[end] != '_') digits += source_[end];
        ++end;
      }
    };
    take();
    if (end + 1 < source_.size() && source_[end] == '.' && IsDigit(source_[end + 1])) {
      real = true;
      digits += source_[end++];
      take();
    }
    if (end + 1 < source_.size() && (source_[end] == 'e' || source_[end] == 'E')) {
      const size_t sign = source_[end + 1] == '+' || source_[end + 1] == '-' ? 1 : 0;
      if (end + 1 + sign < source_.size() && IsDigit(source_[end + 1 + sign])) {
        real = true;
        digits += source_.substr(end, 1 + sign);
        end += 1 + sign;
        take();
      }
    }
    Put(real ? TokenKind::kFloat : TokenKind::kInteger, digits, line_);
    Advance(end);
  }

  void LexString(char quote) {
    std::string text;
    size_t at = at_ + 1;
    for (;; ++at) {
      if (at >= source_.size()) Wrong("a string that does not end");
      const char c = source_[at];
      if (c == quote) break;
      if (c != '\\' || at + 1 >= source_.size()) {
        text += c;
        continue;
      }
      const char next = source_[++at];
      constexpr std::string_view kFrom = "nrtbfv0\\'\"", kTo = "\n\r\t\b\f\v\0\\'\"";
      static_assert(kFrom.size() == 10);
      if (next == 'u' || next == 'x' || next == 'U') {
        AppendEscaped(next == 'x' ? 2 : next == 'u' ? 4 : 8, &at, &text);
      } else if (next == '\n') {
        continue;
      } else if (const size_t found = kFrom.find(next); found != kFrom.npos) {
        text += next == '0' ? '\0' : kTo[found];
      } else {
        text += '\\';
        text += next;
      }
    }
    Put(TokenKind::kString, text, line_);
    Advance(at + 1);
  }

  void AppendEscaped(size_t digits, size_t* at, std::string* text) const {
    uint32_t code = 0;
    for (size_t i = 0; i < digits; ++i) {
      const char c = *at + 1 < source_.size() ? source_[*at + 1] : '\0';
      const int value = IsDigit(c)             ? c - '0'
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                                               : -1;
      if (value < 0) Wrong("an escape that is not hexadecimal");
      code = code * 16 + static_cast<uint32_t>(value);
      ++*at;
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) Wrong("an escape that is no character");
    const auto put = [&](uint32_t byte) { *text += static_cast<char>(byte); };
    if (code < 0x80) {
      put(code);
    } else if (code < 0x800) {
      put(0xC0 | code >> 6);
      put(0x80 | (code & 63));
    } else if (code < 0x10000) {
      put(0xE0 | code >> 12);
      put(0x80 | (code >> 6 & 63));
      put(0x80 | (code & 63));
    } else {
      put(0xF0 | code >> 18);
      put(0x80 | (code >> 12 & 63));
      put(0x80 | (code >> 6 & 63));
      put(0x80 | (code & 63));
    }
  }

  void LexOperator() {
    const std::string_view rest = std::string_view(source_).substr(at_);
    for (const std::string_view two : kTwo) {
      if (rest.starts_with(two)) {
        Put(TokenKind::kOperator, std::string(two), line_);
        Advance(at_ + 2);
        return;
      }
    }
    if (kOne.find(rest[0]) == kOne.npos) Wrong(fmt::format("'{}' begins nothing that a template may hold", rest[0]));
    Put(TokenKind::kOperator, std::string(rest.substr(0, 1)), line_);
    Advance(at_ + 1);
  }

  /// Whether the statement just read is {% raw %}.
  bool IsRaw() const {
    const size_t n = tokens_.size();
    return n >= 3 && tokens_[n - 2].kind == TokenKind::kName && tokens_[n - 2].text == "raw" &&
           tokens_[n - 3].kind == TokenKind::kStatementBegin;
  }

  void TakeRaw(bool* trim, bool* strip) {
    tokens_.resize(tokens_.size() - 3);
    for (size_t open = source_.find("{%", at_); open != std::string::npos; open = source_.find("{%", open + 2)) {
      size_t name = open + 2;
      if (name < source_.size() && source_[name] == '-') ++name;
      while (name < source_.size() && IsSpace(source_[name])) ++name;
      if (source_.compare(name, 6, "endraw") != 0) continue;
      const size_t close = source_.find("%}", name);
      if (close == std::string::npos) break;
      std::string text = source_.substr(at_, open - at_);
      TakeBefore(open, text);
      if (*strip) {
        text.erase(0, FirstOther(text));
      } else if (*trim && text.starts_with('\n')) {
        text.erase(0, 1);
      }
      if (!text.empty()) Put(TokenKind::kText, text, line_);
      *strip = source_[close - 1] == '-';
      *trim = true;
      Advance(close + 2);
      return;
    }
    Wrong("'{% raw %}' that does not end");
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  std::vector<Token> tokens_;
};

}  // namespace

std::vector<Token> Lex(std::string_view source) {
  std::string text;
  text.reserve(source.size());
  for (size_t i = 0; i < source.size(); ++i) {  // newlines of every kind become one
    if (source[i] == '\r') {
      text += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      text += source[i];
    }
  }
  if (text.ends_with('\n')) text.pop_back();
  return Lexer(std::move(text)).Run();
}

}  // namespace hawser::jinja
