// base/progress.h - people's lines on stderr: log lines, and how far a long command is. Nothing here touches stdout.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace hawser {

/// --quiet: no log lines and no progress.
void SetQuiet(bool quiet);
bool Quiet();

/// Seconds between lines of progress where stderr is no terminal; 0: none. 10 at first.
void SetProgressSeconds(double seconds);

/// One line on stderr as PrintableLine gives it, unless quiet. On a terminal it takes the place of a bar, which is then
/// drawn below it.
void LogLine(std::string_view line);

/// A bar on stderr while stderr is a terminal, redrawn at most ten times a second; elsewhere a line every few seconds.
/// Nothing while quiet. `note` holds what changes (loss, tokens/s); the share done and the time left are added. One at
/// a time; several threads may log, one updates.
class ProgressBar {
 public:
  ProgressBar(std::string title, int64_t total, int64_t done = 0);
  ~ProgressBar();
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void Update(int64_t done, std::string_view note = {});
  void Finish();

 private:
  using Clock = std::chrono::steady_clock;
  std::string TimeLeft(int64_t done, Clock::time_point now) const;

  std::string title_;
  int64_t total_;
  int64_t first_;
  Clock::time_point start_;
  Clock::time_point drawn_;
  bool active_;
  bool terminal_;
};

}  // namespace hawser
