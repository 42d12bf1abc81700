// infer/sampler.h - one token out of logits.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hawser/base/rng.h"

namespace hawser {

/// Applied in this order: repeat penalty, temperature, top-k, top-p, min-p; each works on what the one before it left.
struct SamplerOptions {
  double temperature = 0.8;   // 0: the greatest logit, the first of equals
  int32_t top_k = 0;          // most probable tokens kept; 0: all
  double top_p = 0.95;        // smallest set of probability >= top_p (arXiv:1904.09751); 1: all
  double min_p = 0;           // at least min_p times the greatest probability (arXiv:2407.01082); 0: all
  double repeat_penalty = 1;  // logits of tokens seen: l > 0 ? l / p : l * p (arXiv:1909.05858); 1: none
  uint64_t seed = 0;
};

class Sampler {
 public:
  /// Errors: kUsage naming the field and its bounds.
  Sampler(const SamplerOptions& options, int32_t vocab);

  /// Counts `ids` as seen by the repeat penalty.
  void Accept(std::span<const int32_t> ids);

  /// What a saved text needs to go on: the ids seen, ascending, and the state of the randomness.
  std::vector<int32_t> seen() const;
  const Rng& rng() const { return rng_; }
  void set_rng(const Rng& rng) { rng_ = rng; }

  /// Draws from logits [vocab]; one random number a token (none at temperature 0).
  /// Errors: kNumeric if the greatest logit is not finite or any is NaN.
  int32_t Sample(std::span<const float> logits);

 private:
  struct Candidate {
    double weight;  // penalised logit, then exp((logit - greatest) / temperature)
    int32_t id;
  };
  SamplerOptions options_;
  Rng rng_;
  std::vector<uint8_t> seen_;  // [vocab]
  std::vector<Candidate> candidates_;
};

}  // namespace hawser
