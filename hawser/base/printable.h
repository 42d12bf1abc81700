// base/printable.h - text from outside (files, names, arguments) on its way to a terminal, a log or a table.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace hawser {

inline constexpr size_t kMostPrinted = 1000;  // characters of a line

/// `text` on one line: control and format characters (newlines, terminal escapes, reversed writing) become escapes like
/// \n, \x1b and \u{202e}, bytes that are not UTF-8 become \xff. Of what is longer than `most` characters the middle
/// is left out, with a note how much. What this returns stays as it is when it is given back.
std::string PrintableLine(std::string_view text, size_t most = kMostPrinted);

/// The same for text of many lines: newlines and tabs stay, nothing is left out.
std::string PrintableText(std::string_view text);

}  // namespace hawser
