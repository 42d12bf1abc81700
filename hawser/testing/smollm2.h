// testing/smollm2.h - the standard model, SmolLM2-135M-Instruct as GGUF in q4_1 (scripts/get_smollm2.sh).
#pragma once

#include <cstdlib>
#include <filesystem>
#include <string>

namespace hawser::testing {

/// The file that HAWSER_SMOLLM2 names, or that of the cache; empty where there is none.
inline std::filesystem::path SmolLm2File() {
  namespace fs = std::filesystem;
  const auto variable = [](const char* name) {
    const char* value = std::getenv(name);
    return fs::path(value != nullptr ? value : "");
  };
  fs::path file = variable("HAWSER_SMOLLM2");
  if (file.empty()) {
    fs::path cache = variable("HAWSER_CACHE");
    if (cache.empty() && !variable("XDG_CACHE_HOME").empty()) cache = variable("XDG_CACHE_HOME") / "hawser";
    if (cache.empty()) cache = variable("HOME") / ".cache" / "hawser";
    file = cache / "smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf";
  }
  std::error_code ignored;
  return fs::is_regular_file(file, ignored) ? file : fs::path();
}

}  // namespace hawser::testing

/// At the beginning of a test: skips it by name where the model is absent.
#define HAWSER_NEEDS_SMOLLM2() \
  if (::hawser::testing::SmolLm2File().empty()) GTEST_SKIP() << "SmolLM2 is absent: scripts/get_smollm2.sh fetches it"
