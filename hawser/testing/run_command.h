// testing/run_command.h - the hawser binary as people and scripts run it. For tests built with HAWSER_BINARY.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <array>
#include <cstdio>
#include <string>

namespace hawser::testing {

/// With what a process ends where a sanitizer has found something: CMakeLists.txt.
inline constexpr int kSanitizerFinding = 99;

struct CommandResult {
  int code = -1;
  std::string out;  // stdout; stderr too where the arguments say 2>&1
};

/// `arguments` as a shell reads them. Standard input is empty unless they say otherwise; `before` is what a shell is to
/// do in front: "ulimit -f 10; " or "echo text | ".
inline CommandResult RunHawser(const std::string& arguments, const std::string& before = "") {
  std::string command = before + "'";
  command.append(HAWSER_BINARY).append("' ");
  if (before.find('|') == std::string::npos) command.append("</dev/null ");
  command.append(arguments);
  CommandResult result;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  for (size_t n; (n = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) result.out.append(buffer.data(), n);
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  EXPECT_NE(result.code, kSanitizerFinding) << command;
  return result;
}

}  // namespace hawser::testing
