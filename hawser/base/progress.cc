#include "hawser/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace hawser {
namespace {
bool g_quiet = false;

std::string Duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}
}  // namespace

void SetQuiet(bool quiet) { g_quiet = quiet; }
bool Quiet() { return g_quiet; }

void LogLine(std::string_view line) {
  if (g_quiet) return;
  std::fprintf(stderr, "%.*s\n", static_cast<int>(line.size()), line.data());
}

ProgressBar::ProgressBar(std::string title, int64_t total, int64_t done)
    : title_(std::move(title)),
      total_(std::max<int64_t>(total, 1)),
      first_(done),
      start_(Clock::now()),
      drawn_(start_ - std::chrono::seconds(1)),
      active_(!g_quiet && isatty(STDERR_FILENO) == 1) {}

ProgressBar::~ProgressBar() { Finish(); }

void ProgressBar::Update(int64_t done, std::string_view note) {
  if (!active_) return;
  const Clock::time_point now = Clock::now();
  if (now - drawn_ < std::chrono::milliseconds(100) && done < total_) return;
  drawn_ = now;
  constexpr int kWidth = 24;
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0.0, 1.0);
  const int filled = static_cast<int>(share * kWidth);
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const int64_t here = done - first_;
  const std::string eta =
      here > 0 ? Duration(elapsed * static_cast<double>(total_ - done) / static_cast<double>(here)) : "-";
  const std::string line = fmt::format("{} [{}{}] {}/{} {} ETA {}", title_, std::string(filled, '='),
                                       std::string(kWidth - filled, ' '), done, total_, note, eta);
  std::fprintf(stderr, "\r\033[K%s", line.c_str());
  std::fflush(stderr);
}

void ProgressBar::Finish() {
  if (!active_) return;
  active_ = false;
  std::fprintf(stderr, "\n");
}

}  // namespace hawser
