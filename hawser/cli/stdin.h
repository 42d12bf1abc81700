// cli/stdin.h - text that comes through standard input.
#pragma once

#include <string>
#include <string_view>

namespace hawser {

/// Whether standard input is a pipe, a socket or a file: what a shell makes of `echo text |` and `< file`. A terminal
/// and other devices (/dev/null) are not asked unless a command line says so.
bool StdinHoldsText();

/// All of standard input; where nothing comes for a second it says on stderr that it waits for `what`. Errors: kIo, and
/// kUsage for more than 256 MiB.
std::string ReadStdin(std::string_view what);

/// The same without the end of its last line, as `echo` and editors put one there.
std::string ReadStdinLine(std::string_view what);

}  // namespace hawser
