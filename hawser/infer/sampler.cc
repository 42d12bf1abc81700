#include "hawser/infer/sampler.h"

#include <algorithm>
#include <cmath>

#include "hawser/base/error.h"
#include "hawser/base/streams.h"

namespace hawser {

Sampler::Sampler(const SamplerOptions& options, int32_t vocab)
    : options_(options), rng_{.seed = options.seed, .stream = streams::kSampler}, seen_(vocab), banned_(vocab) {
  const auto check = [](bool ok, const char* field, const char* bounds, double found) {
    if (!ok) Fail(ErrorKind::kUsage, "{} must be {}, found {}", field, bounds, found);
  };
  const SamplerOptions& o = options_;
  check(o.temperature >= 0 && std::isfinite(o.temperature), "temperature", "0 or more", o.temperature);
  check(o.top_k >= 0, "top-k", "0 (all) or more", o.top_k);
  check(o.top_p > 0 && o.top_p <= 1, "top-p", "above 0 and at most 1", o.top_p);
  check(o.min_p >= 0 && o.min_p <= 1, "min-p", "from 0 to 1", o.min_p);
  check(o.repeat_penalty > 0 && std::isfinite(o.repeat_penalty), "repeat-penalty", "above 0", o.repeat_penalty);
  check(std::isfinite(o.frequency_penalty), "frequency-penalty", "a finite number", o.frequency_penalty);
  check(std::isfinite(o.presence_penalty), "presence-penalty", "a finite number", o.presence_penalty);
  check(o.repeat_last_n >= -1, "repeat-last-n", "-1 (all), 0 (none) or more", static_cast<double>(o.repeat_last_n));
  for (const int32_t id : o.never) {
    if (id >= 0 && id < vocab) banned_[id] = 1;
  }
  for (const auto& [id, bias] : o.bias) {
    check(std::isfinite(bias), "the bias of a logit", "a finite number", bias);
    if (id < 0 || id >= vocab) continue;
    bias_.resize(static_cast<size_t>(vocab));
    bias_[static_cast<size_t>(id)] += bias;
  }
}

void Sampler::Accept(std::span<const int32_t> ids) {
  for (int32_t id : ids) {
    if (id < 0 || id >= static_cast<int32_t>(seen_.size())) continue;
    ++seen_[id];
    if (options_.repeat_last_n < 0) continue;
    last_.push_back(id);
    if (static_cast<int64_t>(last_.size()) <= options_.repeat_last_n) continue;
    --seen_[last_.front()];
    last_.pop_front();
  }
}

Sampler::Seen Sampler::seen() const {
  if (options_.repeat_last_n >= 0) return {.ids = {last_.begin(), last_.end()}};
  Seen seen;
  for (size_t id = 0; id < seen_.size(); ++id) {
    if (seen_[id] == 0) continue;
    seen.ids.push_back(static_cast<int32_t>(id));
    seen.counts.push_back(seen_[id]);
  }
  return seen;
}

void Sampler::Accept(const Seen& seen) {
  Accept(std::span<const int32_t>(seen.ids));
  if (options_.repeat_last_n >= 0) return;  // the order of these is not known, so that they count once
  for (size_t i = 0; i < seen.counts.size(); ++i) {
    const int32_t id = seen.ids[i];
    if (id >= 0 && id < static_cast<int32_t>(seen_.size())) seen_[id] += seen.counts[i] - 1;
  }
}

int32_t Sampler::Sample(std::span<const float> logits, std::span<const uint64_t> allowed) {
  HAWSER_CHECK(logits.size() == seen_.size());
  // More probable first; among equals the smaller id, so that nothing depends on the order of a partial sort.
  const auto before = [](const Candidate& a, const Candidate& b) {
    return a.weight > b.weight || (a.weight == b.weight && a.id < b.id);
  };
  candidates_.clear();
  Candidate best{-INFINITY, 0};
  for (size_t i = 0; i < logits.size(); ++i) {
    double logit = logits[i];
    if (std::isnan(logit)) Fail(ErrorKind::kNumeric, "the logit of token {} is not a number", i);
    if (banned_[i] != 0 || (!allowed.empty() && (allowed[i / 64] >> (i % 64) & 1) == 0)) continue;
    if (!bias_.empty()) logit += bias_[i];
    if (seen_[i] > 0) {
      logit = logit > 0 ? logit / options_.repeat_penalty : logit * options_.repeat_penalty;
      logit -= static_cast<double>(seen_[i]) * options_.frequency_penalty + options_.presence_penalty;
    }
    candidates_.push_back({logit, static_cast<int32_t>(i)});
    if (before(candidates_.back(), best)) best = candidates_.back();
  }
  if (!std::isfinite(best.weight)) Fail(ErrorKind::kNumeric, "the greatest logit is {}", best.weight);
  if (options_.temperature == 0) return best.id;

  if (options_.top_k > 0 && options_.top_k < static_cast<int32_t>(candidates_.size())) {
    std::partial_sort(candidates_.begin(), candidates_.begin() + options_.top_k, candidates_.end(), before);
    candidates_.resize(options_.top_k);
  }
  double sum = 0;
  for (Candidate& c : candidates_) sum += c.weight = std::exp((c.weight - best.weight) / options_.temperature);
  if (options_.top_p < 1) {
    // The most probable ones gather at the back of a shrinking heap until they hold enough: far cheaper than a sort.
    const auto after = [&](const Candidate& a, const Candidate& b) { return before(b, a); };
    std::make_heap(candidates_.begin(), candidates_.end(), after);
    auto rest = candidates_.end();
    double mass = 0;
    while (rest != candidates_.begin() && mass < options_.top_p * sum) {
      std::pop_heap(candidates_.begin(), rest, after);
      mass += (--rest)->weight;
    }
    candidates_.erase(candidates_.begin(), rest);
  }
  std::erase_if(candidates_, [&](const Candidate& c) { return c.weight < options_.min_p; });  // the greatest is 1
  sum = 0;
  for (const Candidate& c : candidates_) sum += c.weight;
  double target = rng_.Uniform() * sum;
  for (const Candidate& c : candidates_) {
    target -= c.weight;
    if (target < 0) return c.id;
  }
  return best.id;  // rounding left a sliver at the end
}

}  // namespace hawser
