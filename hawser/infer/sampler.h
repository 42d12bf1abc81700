// infer/sampler.h - one token out of logits.
#pragma once

#include <cstdint>
#include <deque>
#include <span>
#include <utility>
#include <vector>

#include "hawser/base/rng.h"

namespace hawser {

/// Applied in this order: bias, penalties, temperature, top-k, top-p, min-p; each works on what the one before it left.
struct SamplerOptions {
  double temperature = 0.8;         // 0: the greatest logit, the first of equals
  int32_t top_k = 0;                // most probable tokens kept; 0: all
  double top_p = 0.95;              // smallest set of probability >= top_p (arXiv:1904.09751); 1: all
  double min_p = 0;                 // at least min_p times the greatest probability (arXiv:2407.01082); 0: all
  double repeat_penalty = 1;        // logits of tokens seen: l > 0 ? l / p : l * p (arXiv:1909.05858); 1: none
  double frequency_penalty = 0;     // then taken off the logit as often as the token was seen,
  double presence_penalty = 0;      // and this once
  int64_t repeat_last_n = -1;       // the penalties count so many of the last tokens; 0: none; -1: all, prompt included
  std::vector<int32_t> never = {};  // tokens that are never drawn
  std::vector<std::pair<int32_t, float>> bias = {};  // added to the logits of tokens before everything else
  uint64_t seed = 0;
};

class Sampler {
 public:
  /// Errors: kUsage naming the field and its bounds.
  Sampler(const SamplerOptions& options, int32_t vocab);

  /// Counts `ids` as seen by the penalties.
  void Accept(std::span<const int32_t> ids);

  /// What a saved text needs to go on: the ids that count, in their order where only the last of them do and ascending
  /// otherwise, how often each of these was seen, and the state of the randomness.
  struct Seen {
    std::vector<int32_t> ids;
    std::vector<int64_t> counts;  // as many; empty where ids are in their order
  };
  Seen seen() const;
  /// Counts what another sampler has seen; ids without counts as once each.
  void Accept(const Seen& seen);
  const Rng& rng() const { return rng_; }
  void set_rng(const Rng& rng) { rng_ = rng; }

  /// Draws from logits [vocab]; one random number a token (none at temperature 0). `allowed`: a bit for each token that
  /// may be drawn, as if there were no others; empty: all may.
  /// Errors: kNumeric if the greatest logit is not finite or any is NaN.
  int32_t Sample(std::span<const float> logits, std::span<const uint64_t> allowed = {});

 private:
  struct Candidate {
    double weight;  // penalised logit, then exp((logit - greatest) / temperature)
    int32_t id;
  };
  SamplerOptions options_;
  Rng rng_;
  std::vector<int64_t> seen_;    // [vocab] how often each counts
  std::deque<int32_t> last_;     // the ids that count, oldest first; empty where all do
  std::vector<uint8_t> banned_;  // [vocab]
  std::vector<float> bias_;      // [vocab], or empty
  std::vector<Candidate> candidates_;
};

}  // namespace hawser
