// base/progress.h - people's lines on stderr: log lines and a progress bar. Nothing here touches stdout.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

namespace hawser {

/// --quiet: no log lines and no progress bars.
void SetQuiet(bool quiet);
bool Quiet();

/// One line on stderr, unless quiet.
void LogLine(std::string_view line);

/// A bar on stderr while stderr is a terminal and not quiet; otherwise nothing is drawn. `note` holds what changes
/// (loss, tokens/s); the bar adds the share done and the time left. Redraws at most ten times a second.
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
  std::string title_;
  int64_t total_;
  int64_t first_;
  Clock::time_point start_;
  Clock::time_point drawn_;
  bool active_;
};

}  // namespace hawser
