#include "hawser/serve/random_name.h"

#include <fmt/format.h>

#include <random>

namespace hawser {

std::string RandomName(std::string_view prefix) {
  thread_local std::random_device random;
  return fmt::format("{}{:08x}{:08x}{:08x}{:08x}", prefix, random(), random(), random(), random());
}

}  // namespace hawser
