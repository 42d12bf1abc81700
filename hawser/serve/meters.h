// serve/meters.h - what a server counts, as Prometheus reads it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <string_view>

#include "hawser/infer/scheduler.h"

namespace hawser {

/// Counts of durations, as Prometheus wants them.
class Histogram {
 public:
  void Add(double seconds);
  std::string Text(std::string_view name, std::string_view help) const;

 private:
  static constexpr std::array<double, 12> kBounds = {0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 20, 60};
  mutable std::mutex mutex_;
  std::array<int64_t, kBounds.size()> counts_ = {};
  int64_t count_ = 0;
  double sum_ = 0;
};

/// THREADS: any.
struct Meters {
  Histogram first_token, between_tokens;
  std::atomic<double> prompt_rate = 0, decode_rate = 0;  // of the last text that ended

  void Count(int status);  // an answer
  /// Everything, in the text format 0.0.4.
  std::string Text(const SchedulerStats& stats, const SchedulerOptions& options, size_t connections) const;

 private:
  mutable std::mutex mutex_;
  std::map<int, int64_t> counts_;  // of answers, by status
};

}  // namespace hawser
