// testing/test_data.h - the optional data set of tests, in the folder that HAWSER_DATA names.
#pragma once

#include <cstdlib>
#include <filesystem>
#include <initializer_list>
#include <string>
#include <string_view>

namespace hawser {

/// The folder; empty where the variable is not set.
inline std::filesystem::path TestData() {
  const char* folder = std::getenv("HAWSER_DATA");
  return folder != nullptr ? folder : "";
}

/// Why a test that reads `files` of the folder is skipped; empty: all are there.
inline std::string MissingData(std::initializer_list<std::string_view> files) {
  if (TestData().empty()) return "HAWSER_DATA is not set";
  for (const std::string_view file : files) {
    std::error_code ignored;
    if (!std::filesystem::exists(TestData() / file, ignored)) return (TestData() / file).string() + " is absent";
  }
  return "";
}

}  // namespace hawser

/// At the beginning of a test or of SetUp: skips it by name where the data set or one of these files of it is absent.
#define HAWSER_NEEDS_DATA(...) \
  if (const std::string why = ::hawser::MissingData({__VA_ARGS__}); !why.empty()) GTEST_SKIP() << why
