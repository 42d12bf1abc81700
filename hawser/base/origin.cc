#include "hawser/base/origin.h"

#include <fmt/format.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <ctime>
#include <fstream>
#include <string_view>

#include "hawser/base/parallel.h"

namespace hawser {
namespace {

std::string& Command() {
  static std::string command;
  return command;
}

/// A word that a shell reads as it is, else in quotes.
std::string Quoted(std::string_view word) {
  constexpr std::string_view kPlain = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=.,:/@%";
  if (!word.empty() && word.find_first_not_of(kPlain) == word.npos) return std::string(word);
  std::string quoted = "'";
  for (const char c : word) quoted += c == '\'' ? std::string("'\\''") : std::string(1, c);
  return quoted + "'";
}

std::string Processor() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    const size_t colon = line.find(": ");
    if (line.starts_with("model name") && colon != line.npos) return line.substr(colon + 2);
  }
  return "";
}

}  // namespace

const char* Version() { return HAWSER_VERSION; }

void SetCommandLine(int argc, char** argv) {
  Command() = "hawser";
  for (int i = 1; i < argc; ++i) Command() += " " + Quoted(argv[i]);
}

Origin ThisRun() {
  Origin origin{.version = Version(), .command = Command()};
  utsname system{};
  uname(&system);
  origin.machine = fmt::format("{}, {} of {} cores", system.machine, NumThreads(), sysconf(_SC_NPROCESSORS_ONLN));
  if (const std::string processor = Processor(); !processor.empty()) origin.machine += ", " + processor;
  const double bytes = static_cast<double>(sysconf(_SC_PHYS_PAGES)) * static_cast<double>(sysconf(_SC_PAGE_SIZE));
  origin.machine += fmt::format(", {:.1f} GiB, {} {}", bytes / 0x1p30, system.sysname, system.release);
  const std::time_t now = std::chrono::system_clock::to_time_t(std::chrono::system_clock::now());
  std::tm utc{};
  gmtime_r(&now, &utc);
  char text[64];
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M UTC", &utc);
  origin.date = text;
  return origin;
}

}  // namespace hawser
