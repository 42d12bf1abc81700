// serve/lived_time.h - time that a loop was there for. Where the process was stopped, or others had the processors,
// clients were not heard either: such a time is no rest of theirs.
#pragma once

#include <algorithm>
#include <chrono>

namespace hawser {

class LivedTime {
 public:
  using Clock = std::chrono::steady_clock;
  /// The loop means to call Beat every `step`.
  LivedTime(Clock::duration step, Clock::time_point now) : step_(step), last_(now) {}

  Clock::duration step() const { return step_; }
  Clock::duration now() const { return lived_; }
  /// A moment that comes after `rest` at the earliest.
  Clock::duration After(Clock::duration rest) const { return lived_ + rest + step_; }
  void Beat(Clock::time_point now) {
    lived_ += std::min(now - last_, 2 * step_);
    last_ = now;
  }

 private:
  Clock::duration step_, lived_{};
  Clock::time_point last_;
};

}  // namespace hawser
