// testing/stream_reference.h - which keys a streaming query attends to, from the recurrences on whole positions alone:
// the twin of the policies of kv/policy.h.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace hawser::testing {

struct StreamStep {
  std::vector<int64_t> attended;    // V_t, positions in the stream, ascending, t last
  std::vector<int64_t> separators;  // Sep after the step
  std::vector<int64_t> stored;      // all that is held after the step
  bool compressed = false;
};

/// SepLLM streaming (arXiv:2412.12094 section 3.3). State: the list S of separators kept and the first position b of
/// the recent run; initial tokens are {0 .. a-1}.
class StreamReference {
 public:
  struct Sizes {
    int64_t a = 0, s = 0, w = 0, c = 0;
    bool accumulate = true, bounded = true;
  };
  StreamReference(const Sizes& sizes, bool full_trigger) : z_(sizes), full_(full_trigger), b_(sizes.a) {}

  /// A prompt that sees all that came before in it, trimmed at its end.
  void DensePrompt(const std::vector<bool>& flags) {
    flags_ = flags;
    const auto size = static_cast<int64_t>(flags.size());
    if (!full_ && size > z_.c) Compress(size - z_.w);
  }

  StreamStep Step(bool is_separator) {
    const int64_t t = static_cast<int64_t>(flags_.size());
    flags_.push_back(is_separator);
    StreamStep step;
    const auto held = static_cast<int64_t>(Held(t).size());
    const int64_t excess = z_.bounded ? 0 : std::max<int64_t>(0, static_cast<int64_t>(separators_.size()) - z_.s);
    step.compressed = full_ ? held + 1 >= z_.c + excess : held + 1 > z_.c + excess;
    if (full_ && step.compressed) Compress(t - z_.w + 1);
    step.attended = Held(t);
    step.attended.push_back(t);
    if (!full_ && step.compressed) Compress(t - z_.w + 1);
    step.separators = separators_;
    step.stored = Held(t + 1);
    return step;
  }

 private:
  std::vector<int64_t> Held(int64_t end) const {
    std::vector<int64_t> held;
    for (int64_t p = 0; p < std::min(end, z_.a); ++p) held.push_back(p);
    held.insert(held.end(), separators_.begin(), separators_.end());
    for (int64_t p = b_; p < end; ++p) held.push_back(p);
    return held;
  }
  void Compress(int64_t end) {
    if (!z_.accumulate) separators_.clear();
    for (int64_t p = b_; p < end; ++p) {
      if (flags_[static_cast<size_t>(p)]) separators_.push_back(p);
    }
    const auto surplus = static_cast<int64_t>(separators_.size()) - z_.s;
    if (surplus > 0 && z_.bounded) separators_.erase(separators_.begin(), separators_.begin() + surplus);
    b_ = end;
  }

  Sizes z_;
  bool full_;
  std::vector<bool> flags_;
  std::vector<int64_t> separators_;
  int64_t b_;
};

}  // namespace hawser::testing
