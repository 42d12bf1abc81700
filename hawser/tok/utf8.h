// tok/utf8.h - code points of UTF-8 text, and a reversible way to carry bytes that are not UTF-8 through it.
#pragma once

#include <utf8proc.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "hawser/base/utf8.h"

namespace hawser {

/// The code point at text[at] (at < size); length 0 where the bytes there are not UTF-8.
struct CodePoint {
  char32_t value = 0;
  size_t length = 0;
};

inline CodePoint CodePointAt(std::string_view text, size_t at) {
  const auto lead = static_cast<unsigned char>(text[at]);
  if (lead < 0x80) return {lead, 1};
  utf8proc_int32_t value = -1;
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data() + at);
  const utf8proc_ssize_t length = utf8proc_iterate(bytes, static_cast<utf8proc_ssize_t>(text.size() - at), &value);
  if (length <= 0 || value < 0) return {};
  return {static_cast<char32_t>(value), static_cast<size_t>(length)};
}

inline void AppendUtf8(std::string& out, char32_t value) {
  utf8proc_uint8_t bytes[4];
  const utf8proc_ssize_t length = utf8proc_encode_char(static_cast<utf8proc_int32_t>(value), bytes);
  out.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(length));
}

inline bool IsOneCharacter(std::string_view text) {
  return !text.empty() && CodePointAt(text, 0).length == text.size();
}

/// The White_Space property.
inline bool IsBlank(char32_t c) {
  const auto category = utf8proc_category(static_cast<utf8proc_int32_t>(c));
  return (c >= 0x09 && c <= 0x0D) || c == 0x85 || category == UTF8PROC_CATEGORY_ZS ||
         category == UTF8PROC_CATEGORY_ZL || category == UTF8PROC_CATEGORY_ZP;
}

/// Start of the character that ends at `end` (> 0).
inline size_t StartOfLast(std::string_view text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) --start;
  return start;
}

/// A byte b >= 0x80 that is no part of a character travels as the private code point kEscapedByte + b. Characters of
/// the text that already lie in that range are taken apart into escaped bytes too, so that nothing is ambiguous.
inline constexpr char32_t kEscapedByte = 0x10FF00;
inline bool IsEscapedByte(char32_t value) { return value >= kEscapedByte + 0x80; }

/// The escaped byte at text[at]; length 0 where there is none.
inline CodePoint EscapedByteAt(std::string_view text, size_t at) {
  constexpr unsigned char kLead = 0xF4;  // of every character from U+100000 on
  if (static_cast<unsigned char>(text[at]) != kLead) return {};
  const CodePoint point = CodePointAt(text, at);
  return IsEscapedByte(point.value) ? point : CodePoint{};
}

/// Whether EscapeInvalidUtf8 changes the text.
inline bool NeedsEscapes(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const CodePoint point = CodePointAt(text, at);
    if (point.length == 0 || IsEscapedByte(point.value)) return true;
    at += point.length;
  }
  return false;
}

inline std::string EscapeInvalidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) {
    const CodePoint point = CodePointAt(text, at);
    if (point.length != 0 && !IsEscapedByte(point.value)) {
      out.append(text, at, point.length);
      at += point.length;
      continue;
    }
    const size_t end = at + (point.length == 0 ? 1 : point.length);
    for (; at < end; ++at) AppendUtf8(out, kEscapedByte + static_cast<unsigned char>(text[at]));
  }
  return out;
}

}  // namespace hawser
