#define PCRE2_CODE_UNIT_WIDTH 8
#include "hawser/tok/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <iterator>

#include "hawser/base/error.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

// The insides of a class. Oniguruma's \s is the White_Space property (PCRE2 adds U+180E), its \w has marks (PCRE2's
// has none) and all that is alphabetic, outside of classes six numbers of Latin-1 more; its \h is a hexadecimal digit
// (PCRE2: horizontal blanks).
constexpr std::string_view kSpaces =
    R"(\x{09}-\x{0d}\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})";
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc})";
constexpr std::string_view kWordNumbers = R"(\x{b2}\x{b3}\x{b9}\x{bc}-\x{be})";
constexpr std::string_view kHex = "0-9a-fA-F";

/// Oniguruma's [:name:] of Unicode; PCRE2's is by general categories.
struct PosixClass {
  std::string_view name, inside;
};
constexpr PosixClass kPosix[] = {{"alpha", R"(\p{Alphabetic})"},
                                 {"alnum", R"(\p{Alphabetic}\p{Nd})"},
                                 {"word", kWord},
                                 {"upper", R"(\p{Uppercase})"},
                                 {"lower", R"(\p{Lowercase}\x{295})"},
                                 {"punct", R"(\p{P}\p{S})"},
                                 {"space", kSpaces},
                                 {"blank", R"(\p{Zs}\t)"},
                                 {"digit", R"(\p{Nd})"}};

pcre2_code* Compile(std::string_view pattern, int* code, PCRE2_SIZE* offset) {
  return pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), PCRE2_UTF | PCRE2_UCP, code,
                       offset, nullptr);
}

/// The name between braces of \p, as PCRE2 has to be given it: a script is one of Script, where PCRE2 takes
/// Script_Extensions unless it is told.
std::string PropertyName(std::string_view name) {
  const bool negated = name.starts_with('^');
  if (name.size() - negated < 3 && !name.ends_with("Yi")) return std::string(name);  // a general category
  const std::string script = fmt::format("sc:{}", name.substr(negated ? 1 : 0));
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* known = Compile(fmt::format("\\p{{{}}}", script), &code, &offset);
  if (known == nullptr) return std::string(name);
  pcre2_code_free(known);
  return (negated ? "^" : "") + script;
}

std::string Translate(std::string_view pattern) {
  std::string out;
  int depth = 0;  // of character classes
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escape = pattern[++i];
      const std::string_view inside = escape == 's' || escape == 'S'   ? kSpaces
                                      : escape == 'w' || escape == 'W' ? kWord
                                      : escape == 'h' || escape == 'H' ? kHex
                                                                       : std::string_view();
      const bool negated = escape == 'S' || escape == 'W' || escape == 'H';
      const size_t brace =
          (escape == 'p' || escape == 'P') && pattern.substr(i + 1, 1) == "{" ? pattern.find('}', i) : pattern.npos;
      if (brace != pattern.npos) {
        out.append("\\").append(1, escape).append("{");
        out.append(PropertyName(pattern.substr(i + 2, brace - i - 2))).append("}");
        i = brace;
      } else if (inside.empty() || (negated && depth > 0)) {
        // \S and \W inside a class differ from Oniguruma's by a handful of code points only.
        out += c;
        out += escape;
      } else if (depth > 0) {
        out += inside;
      } else {
        out.append(negated ? "[^" : "[").append(inside);
        out.append(escape == 'w' || escape == 'W' ? kWordNumbers : "").append("]");
      }
    } else if (c == '[' && depth == 0) {
      depth = 1;
      out += c;
      for (const char literal : {'^', ']'}) {  // a first ] stands for itself
        if (i + 1 < pattern.size() && pattern[i + 1] == literal) out += pattern[++i];
      }
    } else if (c == '[' && pattern.substr(i, 2) == "[:") {
      const size_t end = pattern.find(":]", i);
      if (end == std::string_view::npos) Fail(ErrorKind::kUnsupported, "regex \"{}\": [: without :]", pattern);
      const auto posix = std::ranges::find(kPosix, pattern.substr(i + 2, end - i - 2), &PosixClass::name);
      out.append(posix != std::end(kPosix) ? posix->inside : pattern.substr(i, end + 2 - i));
      i = end + 1;
    } else if (c == '[') {  // a nested class is a union: its brackets go
      if (pattern.substr(i, 2) == "[^") {
        Fail(ErrorKind::kUnsupported, "regex \"{}\": a negated class inside a class", pattern);
      }
      ++depth;
    } else if (c == ']' && depth > 0) {
      if (--depth == 0) out += c;
    } else {
      out += c;
    }
  }
  return out;
}

/// What one match may cost.
struct Limits {
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  Limits() {
    pcre2_set_match_limit(context, 10'000'000);
    pcre2_set_depth_limit(context, 10'000'000);
    pcre2_set_heap_limit(context, 64 << 10);  // KiB
  }
};

std::string PcreMessage(int code) {
  PCRE2_UCHAR text[160];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

}  // namespace

Regex::Regex(std::string_view pattern) : pattern_(pattern) {
  const std::string translated = Translate(pattern);
  int code = 0;
  PCRE2_SIZE offset = 0;
  pcre2_code* compiled = Compile(translated, &code, &offset);
  if (compiled == nullptr) {
    Fail(ErrorKind::kUnsupported, "regex \"{}\" cannot be used: {} (at byte {})", pattern, PcreMessage(code), offset);
  }
  code_ = std::shared_ptr<const void>(compiled, [compiled](const void*) { pcre2_code_free(compiled); });
  pcre2_jit_compile(compiled, PCRE2_JIT_COMPLETE);  // without it matching is slower, not different
}

void Regex::ForEachMatch(std::string_view text, const std::function<void(size_t, size_t)>& sink) const {
  static const Limits limits;
  const auto* code = static_cast<const pcre2_code*>(code_.get());
  const std::unique_ptr<pcre2_match_data, void (*)(pcre2_match_data*)> data(pcre2_match_data_create(1, nullptr),
                                                                            pcre2_match_data_free);
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  size_t done = std::string_view::npos;  // where the last match ended
  for (size_t at = 0; at <= text.size();) {
    const auto match_from = [&](uint32_t more) {
      return pcre2_match(code, subject, text.size(), at, PCRE2_NO_UTF_CHECK | more, data.get(), limits.context);
    };
    int found = match_from(0);
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = match_from(PCRE2_NO_JIT);
    if (found == PCRE2_ERROR_NOMATCH) return;
    if (found < 0) Fail(ErrorKind::kUnsupported, "regex \"{}\" gave up: {}", pattern_, PcreMessage(found));
    const PCRE2_SIZE* match = pcre2_get_ovector_pointer(data.get());
    // \K and look-behind can put a match's start before `at`, or its end before its start.
    if (match[0] < at || match[1] < match[0]) {
      Fail(ErrorKind::kUnsupported, "regex \"{}\": its matches overlap", pattern_);
    }
    const bool empty = match[1] == match[0];
    if (!empty || match[1] != done) sink(match[0], match[1]);
    at = done = match[1];
    if (empty) at += at < text.size() ? CodePointAt(text, at).length : 1;
  }
}

std::string QuoteRegex(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("\\^$.[]|()?*+{}-/").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

}  // namespace hawser
