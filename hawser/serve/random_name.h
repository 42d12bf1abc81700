// serve/random_name.h - names that nobody guesses.
#pragma once

#include <string>
#include <string_view>

namespace hawser {

/// The prefix and 128 random bits of the system's source.
std::string RandomName(std::string_view prefix);

}  // namespace hawser
