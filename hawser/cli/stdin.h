// cli/stdin.h - text that comes through standard input.
#pragma once

#include <string>

namespace hawser {

/// Whether standard input is a pipe, a socket or a file: what a shell makes of `echo text |` and `< file`. A terminal
/// and other devices (/dev/null) are not asked unless a command line says so.
bool StdinHoldsText();

/// All of standard input; says so on stderr where nothing comes for a second. Errors: kIo, and kUsage for more
/// than 256 MiB.
std::string ReadStdin();

}  // namespace hawser
