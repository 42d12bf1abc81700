#include "hawser/base/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <mutex>
#include <utility>

#include "hawser/base/printable.h"

namespace hawser {
namespace {

bool g_quiet = false;
double g_progress_seconds = 10;

std::mutex g_mutex;
std::string g_bar;  // what stands on the last line of the terminal

constexpr std::string_view kClearLine = "\r\033[K";

void Print(std::string_view text) { std::fprintf(stderr, "%.*s", static_cast<int>(text.size()), text.data()); }

std::string Duration(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s >= 3600) return fmt::format("{}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60);
  return fmt::format("{}:{:02}", s / 60, s % 60);
}

}  // namespace

void SetQuiet(bool quiet) { g_quiet = quiet; }
bool Quiet() { return g_quiet; }
void SetProgressSeconds(double seconds) { g_progress_seconds = seconds; }

void LogLine(std::string_view line) {
  if (g_quiet) return;
  const std::lock_guard lock(g_mutex);
  const std::string shown = PrintableLine(line);
  Print(g_bar.empty() ? shown + "\n" : fmt::format("{}{}\n{}", kClearLine, shown, g_bar));
}

ProgressBar::ProgressBar(std::string title, int64_t total, int64_t done)
    : title_(std::move(title)),
      total_(std::max<int64_t>(total, 1)),
      first_(done),
      start_(Clock::now()),
      drawn_(start_),
      active_(!g_quiet),
      terminal_(isatty(STDERR_FILENO) == 1) {
  if (terminal_) drawn_ -= std::chrono::seconds(1);
}

ProgressBar::~ProgressBar() { Finish(); }

std::string ProgressBar::TimeLeft(int64_t done, Clock::time_point now) const {
  const double elapsed = std::chrono::duration<double>(now - start_).count();
  const int64_t here = done - first_;
  return here > 0 ? Duration(elapsed * static_cast<double>(total_ - done) / static_cast<double>(here)) : "-";
}

void ProgressBar::Update(int64_t done, std::string_view note) {
  if (!active_) return;
  const Clock::time_point now = Clock::now();
  const double since = std::chrono::duration<double>(now - drawn_).count();
  const double share = std::clamp(static_cast<double>(done) / static_cast<double>(total_), 0.0, 1.0);
  if (!terminal_) {
    if (g_progress_seconds <= 0 || since < g_progress_seconds) return;
    drawn_ = now;
    LogLine(fmt::format("{}: {} of {} ({:.0f} %){}{}, {} left", title_, done, total_, 100 * share,
                        note.empty() ? "" : ", ", note, TimeLeft(done, now)));
    return;
  }
  if (since < 0.1 && done < total_) return;
  drawn_ = now;
  constexpr int kWidth = 24;
  const int filled = static_cast<int>(share * kWidth);
  const std::lock_guard lock(g_mutex);
  g_bar = PrintableLine(fmt::format("{} [{}{}] {}/{} {} ETA {}", title_, std::string(filled, '='),
                                    std::string(kWidth - filled, ' '), done, total_, note, TimeLeft(done, now)));
  Print(fmt::format("{}{}", kClearLine, g_bar));
  std::fflush(stderr);
}

void ProgressBar::Finish() {
  if (!std::exchange(active_, false) || !terminal_) return;
  const std::lock_guard lock(g_mutex);
  if (!std::exchange(g_bar, {}).empty()) Print("\n");
}

}  // namespace hawser
