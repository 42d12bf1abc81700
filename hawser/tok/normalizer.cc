#include "hawser/tok/normalizer.h"

#include <algorithm>
#include <cstdlib>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "hawser/base/depth.h"
#include "hawser/base/error.h"
#include "hawser/tok/byte_level.h"
#include "hawser/tok/regex.h"
#include "hawser/tok/replace.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

constexpr size_t kMaxSteps = 1024;  // in all

std::string Compose(std::string_view text, int options) {
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &mapped, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(mapped, std::free);
  if (size < 0) Fail(ErrorKind::kInternal, "Unicode normalization failed: {}", utf8proc_errmsg(size));
  return {reinterpret_cast<const char*>(mapped), static_cast<size_t>(size)};
}

/// Blocks of characters that canonical composition leaves as they are, whatever stands before them.
struct Range {
  char32_t first, last;
};
constexpr Range kComposed[] = {
    {0x0000, 0x02FF},    // Latin
    {0x0391, 0x03CE},    // Greek
    {0x0400, 0x0482},    // Cyrillic
    {0x05D0, 0x05EA},    // Hebrew
    {0x0620, 0x064A},    // Arabic
    {0x2010, 0x205E},    // punctuation
    {0x20A0, 0x20BF},    // currencies
    {0x2190, 0x2328},    // arrows, operators
    {0x2460, 0x2ADB},    // boxes, symbols
    {0x3001, 0x3029},    // CJK punctuation
    {0x3041, 0x3096},    // Hiragana
    {0x30A1, 0x30FA},    // Katakana
    {0x4E00, 0x9FFF},    // Han
    {0xAC00, 0xD7A3},    // Hangul syllables
    {0xFF01, 0xFF5E},    // wide Latin
    {0x1F300, 0x1FAFF},  // emoji
};

bool IsComposed(char32_t c) {
  const auto* range = std::ranges::lower_bound(kComposed, c, {}, &Range::last);
  return range != std::end(kComposed) && c >= range->first;
}

/// NFC. Only what may change is looked at closely: characters outside these blocks, each with the one before it.
std::string ComposeCanonically(std::string text) {
  constexpr int kOptions = UTF8PROC_STABLE | UTF8PROC_COMPOSE;
  std::string out;
  size_t done = 0, before = 0;  // copied so far; where the last character begins
  for (size_t at = 0; at < text.size();) {
    CodePoint point = CodePointAt(text, at);
    if (IsComposed(point.value)) {
      before = at;
      at += point.length;
      continue;
    }
    const size_t begin = std::max(before, done);
    while (at < text.size() && !IsComposed((point = CodePointAt(text, at)).value)) at += point.length;
    out.append(text, done, begin - done).append(Compose(std::string_view(text).substr(begin, at - begin), kOptions));
    done = before = at;
  }
  if (done == 0) return text;
  return out.append(text, done);
}

bool IsAscii(std::string_view text) {
  for (const char c : text) {
    if (static_cast<unsigned char>(c) >= 0x80) return false;
  }
  return true;
}

template <class Map>
std::string MapCodePoints(std::string_view text, Map&& map) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = CodePointAt(text, at);
    map(out, point.value);
    at += point.length;
  }
  return out;
}

std::string ReplaceMatches(const std::string& text, const Regex& pattern, std::string_view content, size_t most) {
  std::string out;
  size_t done = 0;
  pattern.ForEachMatch(text, [&](size_t begin, size_t end) {
    out.append(text, done, begin - done).append(content);
    CheckGrown(out.size(), most);
    done = end;
  });
  return out.append(text, done);
}

std::string Stripped(std::string_view text, bool left, bool right) {
  while (left && !text.empty() && IsBlank(CodePointAt(text, 0).value)) text.remove_prefix(CodePointAt(text, 0).length);
  while (right && !text.empty()) {
    const size_t last = StartOfLast(text, text.size());
    if (!IsBlank(CodePointAt(text, last).value)) break;
    text = text.substr(0, last);
  }
  return std::string(text);
}

}  // namespace

Regex PatternOf(const nlohmann::json& json) {
  const nlohmann::json& pattern = json.at("pattern");
  if (pattern.is_object() && pattern.contains("Regex")) return Regex(pattern["Regex"].get<std::string>());
  return Regex(QuoteRegex((pattern.is_object() ? pattern.at("String") : pattern).get<std::string>()));
}

Normalizer::Normalizer(const nlohmann::json& json) { Add(json, 0); }

void Normalizer::Add(const nlohmann::json& json, int depth) {
  if (json.is_null()) return;
  CheckDepth(depth, "normalizer");
  if (steps_.size() == kMaxSteps) Fail(ErrorKind::kFormat, "normalizer: more than {} steps", kMaxSteps);
  const auto type = json.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const auto& part : json.at("normalizers")) Add(part, depth + 1);
  } else if (type == "NFC") {
    steps_.emplace_back([](std::string text, TextPlace, size_t) { return ComposeCanonically(std::move(text)); });
  } else if (type == "NFD" || type == "NFKC" || type == "NFKD") {
    const int options = UTF8PROC_STABLE | (type == "NFKC" ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                        (type.size() == 4 ? UTF8PROC_COMPAT : 0);
    steps_.emplace_back([options](std::string text, TextPlace, size_t) {
      return IsAscii(text) ? std::move(text) : Compose(text, options);
    });
  } else if (type == "Replace") {
    auto content = json.at("content").get<std::string>();
    const auto& pattern = json.at("pattern");
    if (pattern.is_object() && pattern.contains("String")) {
      auto from = pattern["String"].get<std::string>();
      if (from.empty()) Fail(ErrorKind::kUnsupported, "normalizer Replace of an empty string");
      steps_.emplace_back(
          [from = std::move(from), content = std::move(content)](std::string text, TextPlace, size_t most) {
            return ReplaceText(text, from, content, most);
          });
      return;
    }
    steps_.emplace_back(
        [regex = PatternOf(json), content = std::move(content)](std::string text, TextPlace, size_t most) {
          return ReplaceMatches(text, regex, content, most);
        });
  } else if (type == "Prepend") {
    steps_.emplace_back([prefix = json.at("prepend").get<std::string>()](std::string text, TextPlace place, size_t) {
      return text.empty() || place == TextPlace::kGoesOn ? std::move(text) : prefix + text;
    });
  } else if (type == "Lowercase") {
    steps_.emplace_back([](std::string text, TextPlace, size_t) {
      return MapCodePoints(text, [](std::string& out, char32_t c) {
        if (c == 0x130) {
          out += "i\u0307";  // the one character whose lower case is two
        } else {
          AppendUtf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
        }
      });
    });
  } else if (type == "StripAccents") {
    steps_.emplace_back([](std::string text, TextPlace, size_t) {
      return MapCodePoints(text, [](std::string& out, char32_t c) {
        const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
        if (category < UTF8PROC_CATEGORY_MN || category > UTF8PROC_CATEGORY_ME) AppendUtf8(out, c);
      });
    });
  } else if (type == "Strip") {
    const bool left = json.value("strip_left", true), right = json.value("strip_right", true);
    steps_.emplace_back([left, right](std::string text, TextPlace place, size_t) {
      return Stripped(text, left && place != TextPlace::kGoesOn, right);
    });
  } else if (type == "ByteLevel") {
    steps_.emplace_back([](std::string text, TextPlace, size_t) {
      std::string out;
      AppendByteLevel(text, out);
      return out;
    });
  } else {
    Fail(ErrorKind::kUnsupported, "normalizer \"{}\" is not supported", type);
  }
}

std::string Normalizer::Apply(std::string_view text, TextPlace place) const {
  const size_t most = MostGrown(text.size());
  std::string out(text);
  for (const Step& step : steps_) {
    out = step(std::move(out), place, most);
    CheckGrown(out.size(), most);
  }
  return out;
}

}  // namespace hawser
