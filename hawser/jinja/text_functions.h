// jinja/text_functions.h - what methods and filters of text share. Marks go with their bytes. For this room alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "hawser/jinja/functions.h"

namespace hawser::jinja {

/// The character that begins at `at`; -1 where the bytes are none.
int32_t CodeAt(std::string_view text, size_t at);
/// What Python's str.strip() takes off.
bool IsSpace(int32_t c);

Text Upper(const Text& text);
Text Lower(const Text& text);
Text Capitalize(const Text& text);
/// Python's str.title(): words begin behind whatever has no case.
Text Title(const Text& text);
/// The filter of that name: words begin behind blanks and brackets alone.
Text TitleFilter(const Text& text);

/// Takes `characters` off the ends, or white space.
Text Strip(const Text& text, const std::optional<std::string>& characters, bool left, bool right);
/// At `separator`, or at runs of white space; at most `most` cuts, -1: all. Errors: kFormat for an empty separator.
List Split(const Text& text, const std::optional<std::string>& separator, int64_t most, bool from_right);
/// The first `most` of `from`, -1: all.
Text Replace(const Text& text, const Text& from, const Text& to, int64_t most, const Host& host);
Text Join(const List& parts, const Text& between, const Host& host);

}  // namespace hawser::jinja
