#include "hawser/jinja/text_functions.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "hawser/base/error.h"

namespace hawser::jinja {
namespace {

/// Each character of `text` through `change`, which gets its number, and its mark kept.
template <class Change>
Text MapCharacters(const Text& text, Change change) {
  Text out;
  const std::vector<size_t> starts = CharacterStarts(text.bytes());
  for (size_t i = 0; i + 1 < starts.size(); ++i) {
    const int32_t code = CodeAt(text.bytes(), starts[i]);
    const std::string_view as_is = std::string_view(text.bytes()).substr(starts[i], starts[i + 1] - starts[i]);
    const int32_t changed = code < 0 ? code : change(code, i);
    if (changed == code) {
      out.Append(as_is, text.MarkAt(starts[i]));
      continue;
    }
    utf8proc_uint8_t bytes[4];
    const auto size = static_cast<size_t>(utf8proc_encode_char(changed, bytes));
    out.Append(std::string_view(reinterpret_cast<char*>(bytes), size), text.MarkAt(starts[i]));
  }
  return out;
}

bool IsCased(int32_t c) { return utf8proc_toupper(c) != c || utf8proc_tolower(c) != c; }

}  // namespace

int32_t CodeAt(std::string_view text, size_t at) {
  utf8proc_int32_t code = -1;
  utf8proc_iterate(reinterpret_cast<const utf8proc_uint8_t*>(text.data()) + at,
                   static_cast<utf8proc_ssize_t>(text.size() - at), &code);
  return code;
}

bool IsSpace(int32_t c) {
  return (c >= 9 && c <= 13) || (c >= 28 && c <= 32) || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F || c == 0x3000;
}

Text Upper(const Text& text) {
  return MapCharacters(text, [](int32_t c, size_t) { return utf8proc_toupper(c); });
}
Text Lower(const Text& text) {
  return MapCharacters(text, [](int32_t c, size_t) { return utf8proc_tolower(c); });
}
Text Capitalize(const Text& text) {
  return MapCharacters(text, [](int32_t c, size_t i) { return i == 0 ? utf8proc_totitle(c) : utf8proc_tolower(c); });
}
Text Title(const Text& text) {
  bool inside = false;
  return MapCharacters(text, [&](int32_t c, size_t) {
    const int32_t changed = inside ? utf8proc_tolower(c) : utf8proc_totitle(c);
    inside = IsCased(c);
    return changed;
  });
}
Text TitleFilter(const Text& text) {
  bool inside = false;
  return MapCharacters(text, [&](int32_t c, size_t) {
    const bool between = IsSpace(c) || c == '-' || c == '(' || c == '{' || c == '[' || c == '<';
    const int32_t changed = inside ? utf8proc_tolower(c) : utf8proc_toupper(c);
    inside = !between;
    return changed;
  });
}

Text Strip(const Text& text, const std::optional<std::string>& characters, bool left, bool right) {
  const std::vector<size_t> starts = CharacterStarts(text.bytes());
  size_t begin = 0, end = starts.size() - 1;
  const auto goes = [&](size_t i) {
    if (!characters) return IsSpace(CodeAt(text.bytes(), starts[i]));
    return characters->find(text.bytes().substr(starts[i], starts[i + 1] - starts[i])) != std::string::npos;
  };
  while (left && begin < end && goes(begin)) ++begin;
  while (right && end > begin && goes(end - 1)) --end;
  return text.Part(starts[begin], starts[end] - starts[begin]);
}

List Split(const Text& text, const std::optional<std::string>& separator, int64_t most, bool from_right) {
  List parts;
  if (separator && separator->empty()) Fail(ErrorKind::kFormat, "split() at an empty text");
  const std::string& bytes = text.bytes();
  if (!separator) {  // at runs of blanks
    const std::vector<size_t> starts = CharacterStarts(bytes);
    size_t i = 0;
    const size_t n = starts.size() - 1;
    const auto space = [&](size_t at) { return IsSpace(CodeAt(bytes, starts[at])); };
    for (;;) {
      while (i < n && space(i)) ++i;
      if (i == n) break;
      if (most >= 0 && static_cast<int64_t>(parts.size()) == most) {
        parts.emplace_back(Strip(text.Part(starts[i]), std::nullopt, false, true));
        break;
      }
      const size_t begin = i;
      while (i < n && !space(i)) ++i;
      parts.emplace_back(text.Part(starts[begin], starts[i] - starts[begin]));
    }
    return parts;
  }
  if (from_right) {
    size_t end = bytes.size();
    while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
      const size_t found =
          end >= separator->size() ? bytes.rfind(*separator, end - separator->size()) : std::string::npos;
      if (found == std::string::npos) break;
      parts.emplace_back(text.Part(found + separator->size(), end - found - separator->size()));
      end = found;
    }
    parts.emplace_back(text.Part(0, end));
    std::reverse(parts.begin(), parts.end());
    return parts;
  }
  size_t begin = 0;
  while (most < 0 || static_cast<int64_t>(parts.size()) < most) {
    const size_t found = bytes.find(*separator, begin);
    if (found == std::string::npos) break;
    parts.emplace_back(text.Part(begin, found - begin));
    begin = found + separator->size();
  }
  parts.emplace_back(text.Part(begin));
  return parts;
}

Text Replace(const Text& text, const Text& from, const Text& to, int64_t most, const Host& host) {
  Text out;
  const std::string& bytes = text.bytes();
  size_t begin = 0;
  int64_t done = 0;
  if (from.empty()) {  // between all characters
    const std::vector<size_t> starts = CharacterStarts(bytes);
    host.charge(bytes.size() + starts.size() * to.size());
    for (size_t i = 0; i < starts.size(); ++i) {
      if (most < 0 || done++ < most) out.Append(to);
      if (i + 1 < starts.size()) out.Append(text.Part(starts[i], starts[i + 1] - starts[i]));
    }
    return out;
  }
  for (; most < 0 || done < most; ++done) {
    const size_t found = bytes.find(from.bytes(), begin);
    if (found == std::string::npos) break;
    host.charge(found - begin + to.size());
    out.Append(text.Part(begin, found - begin));
    out.Append(to);
    begin = found + from.size();
  }
  host.charge(bytes.size() - begin);
  out.Append(text.Part(begin));
  return out;
}

Text Join(const List& parts, const Text& between, const Host& host) {
  Text out;
  for (size_t i = 0; i < parts.size(); ++i) {
    const Text part = ToText(parts[i]);
    host.charge(part.size() + between.size());
    if (i > 0) out.Append(between);
    out.Append(part);
  }
  return out;
}

}  // namespace hawser::jinja
