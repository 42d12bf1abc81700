#include "hawser/tok/normalizer.h"

#include <cstdlib>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "hawser/base/depth.h"
#include "hawser/base/error.h"
#include "hawser/tok/byte_level.h"
#include "hawser/tok/regex.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

std::string Compose(std::string_view text, int options) {
  utf8proc_uint8_t* mapped = nullptr;
  const utf8proc_ssize_t size =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()), static_cast<utf8proc_ssize_t>(text.size()),
                   &mapped, static_cast<utf8proc_option_t>(options));
  const std::unique_ptr<utf8proc_uint8_t, void (*)(void*)> owner(mapped, std::free);
  if (size < 0) Fail(ErrorKind::kInternal, "Unicode normalization failed: {}", utf8proc_errmsg(size));
  return {reinterpret_cast<const char*>(mapped), static_cast<size_t>(size)};
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

std::string ReplaceAll(const std::string& text, const Regex& pattern, std::string_view content) {
  std::string out;
  size_t done = 0;
  pattern.ForEachMatch(text, [&](size_t begin, size_t end) {
    out.append(text, done, begin - done).append(content);
    done = end;
  });
  return out.append(text, done);
}

std::string ReplaceLiteral(const std::string& text, std::string_view from, std::string_view to) {
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  for (size_t at = text.find(from); at != std::string::npos; at = text.find(from, done)) {
    out.append(text, done, at - done).append(to);
    done = at + from.size();
  }
  return out.append(text, done);
}

}  // namespace

Regex PatternOf(const nlohmann::json& json) {
  const nlohmann::json& pattern = json.at("pattern");
  if (pattern.is_object() && pattern.contains("Regex")) return Regex(pattern["Regex"].get<std::string>());
  return Regex(QuoteRegex((pattern.is_object() ? pattern.at("String") : pattern).get<std::string>()));
}

Normalizer::Normalizer(const nlohmann::json& json, bool prepend_once) { Add(json, prepend_once, 0); }

void Normalizer::Add(const nlohmann::json& json, bool prepend_once, int depth) {
  if (json.is_null()) return;
  CheckDepth(depth, "normalizer");
  const auto type = json.at("type").get<std::string>();
  if (type == "Sequence") {
    for (const auto& part : json.at("normalizers")) Add(part, prepend_once, depth + 1);
  } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
    const int options = UTF8PROC_STABLE | (type.back() == 'C' ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE) |
                        (type.size() == 4 ? UTF8PROC_COMPAT : 0);
    steps_.emplace_back(
        [options](std::string text, bool) { return IsAscii(text) ? std::move(text) : Compose(text, options); });
  } else if (type == "Replace") {
    auto content = json.at("content").get<std::string>();
    const auto& pattern = json.at("pattern");
    if (pattern.is_object() && pattern.contains("String")) {
      auto from = pattern["String"].get<std::string>();
      if (from.empty()) Fail(ErrorKind::kUnsupported, "normalizer Replace of an empty string");
      steps_.emplace_back([from = std::move(from), content = std::move(content)](std::string text, bool) {
        return ReplaceLiteral(text, from, content);
      });
      return;
    }
    steps_.emplace_back([regex = PatternOf(json), content = std::move(content)](std::string text, bool) {
      return ReplaceAll(text, regex, content);
    });
  } else if (type == "Prepend") {
    steps_.emplace_back([prefix = json.at("prepend").get<std::string>(), prepend_once](std::string text, bool start) {
      return text.empty() || (prepend_once && !start) ? std::move(text) : prefix + text;
    });
  } else if (type == "Lowercase") {
    steps_.emplace_back([](std::string text, bool) {
      return MapCodePoints(text, [](std::string& out, char32_t c) {
        if (c == 0x130) {
          out += "i\u0307";  // the one character whose lower case is two
        } else {
          AppendUtf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
        }
      });
    });
  } else if (type == "StripAccents") {
    steps_.emplace_back([](std::string text, bool) {
      return MapCodePoints(text, [](std::string& out, char32_t c) {
        const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
        if (category < UTF8PROC_CATEGORY_MN || category > UTF8PROC_CATEGORY_ME) AppendUtf8(out, c);
      });
    });
  } else if (type == "Strip") {
    std::string pattern = json.value("strip_left", true) ? R"(\A\s+)" : "";
    if (json.value("strip_right", true)) pattern += pattern.empty() ? R"(\s+\z)" : R"(|\s+\z)";
    if (pattern.empty()) return;
    steps_.emplace_back([regex = Regex(pattern)](std::string text, bool) { return ReplaceAll(text, regex, ""); });
  } else if (type == "ByteLevel") {
    steps_.emplace_back([](std::string text, bool) {
      std::string out;
      AppendByteLevel(text, out);
      return out;
    });
  } else {
    Fail(ErrorKind::kUnsupported, "normalizer \"{}\" is not supported", type);
  }
}

std::string Normalizer::Apply(std::string_view text, bool at_start) const {
  std::string out(text);
  for (const Step& step : steps_) out = step(std::move(out), at_start);
  return out;
}

}  // namespace hawser
