#include "hawser/base/printable.h"

#include <fmt/format.h>
#include <utf8proc.h>

#include <algorithm>

namespace hawser {
namespace {

/// Whether a terminal shows the character where it stands, and as what it is.
bool Shows(utf8proc_int32_t value) {
  switch (utf8proc_category(value)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

void AppendEscape(std::string* out, utf8proc_int32_t value) {
  if (value == '\n') {
    out->append("\\n");
  } else if (value == '\r') {
    out->append("\\r");
  } else if (value == '\t') {
    out->append("\\t");
  } else {
    out->append(value < 0x80 ? fmt::format("\\x{:02x}", value) : fmt::format("\\u{{{:x}}}", value));
  }
}

std::string Escape(std::string_view text, std::string_view kept) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const auto lead = static_cast<unsigned char>(text[at]);
    utf8proc_int32_t value = lead;
    utf8proc_ssize_t length = 1;
    if (lead >= 0x80) {
      length = utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at),
                                static_cast<utf8proc_ssize_t>(std::min<size_t>(text.size() - at, 4)), &value);
    }
    if (length <= 0 || value < 0) {
      out += fmt::format("\\x{:02x}", lead);
      length = 1;
    } else if (Shows(value) || kept.find(text[at]) != kept.npos) {
      out.append(text, at, static_cast<size_t>(length));
    } else {
      AppendEscape(&out, value);
    }
    at += static_cast<size_t>(length);
  }
  return out;
}

bool Continues(char c) { return (c & 0xc0) == 0x80; }

size_t Characters(std::string_view text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) { return !Continues(c); }));
}

/// Bytes of the first `characters`.
size_t Head(std::string_view text, size_t characters) {
  size_t at = 0;
  while (at < text.size() && (characters > 0 || Continues(text[at]))) characters -= Continues(text[at++]) ? 0 : 1;
  return at;
}

/// Where the last `characters` begin.
size_t Tail(std::string_view text, size_t characters) {
  size_t at = text.size();
  while (at > 0 && characters > 0) characters -= Continues(text[--at]) ? 0 : 1;
  return at;
}

}  // namespace

std::string PrintableLine(std::string_view text, size_t most) {
  std::string line = Escape(text, "");
  const size_t characters = Characters(line);
  if (characters <= most) return line;
  constexpr size_t kNoteRoom = 56;
  const bool counted = most > 2 * kNoteRoom;
  const size_t left = most - std::min(most, counted ? kNoteRoom : 3), tail = left / 3;  // the end often says what to do
  const std::string note = counted ? fmt::format(" ... ({} characters left out) ... ", characters - left) : "...";
  return line.substr(0, Head(line, left - tail)) + note + line.substr(Tail(line, tail));
}

std::string PrintableText(std::string_view text) { return Escape(text, "\n\t"); }

}  // namespace hawser
