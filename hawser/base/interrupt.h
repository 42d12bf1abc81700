// base/interrupt.h - Ctrl-C as a question that long work asks, so that what was done is kept.
#pragma once

#include <csignal>

namespace hawser {

/// What a command returns that was stopped: as shells report SIGINT.
inline constexpr int kInterrupted = 130;

/// While alive, the first SIGINT or SIGTERM only sets a flag; a second one ends the process. One at a time.
class InterruptGuard {
 public:
  InterruptGuard() {
    flag_ = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { flag_ = 1; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, &old_int_);
    sigaction(SIGTERM, &action, &old_term_);
  }
  ~InterruptGuard() {
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGTERM, &old_term_, nullptr);
  }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;
  static bool Came() { return flag_ != 0; }

 private:
  static inline volatile std::sig_atomic_t flag_ = 0;
  struct sigaction old_int_ {};
  struct sigaction old_term_ {};
};

}  // namespace hawser
