// eval/score_cached.h - likelihoods read through caches under a policy, many texts a pass.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "hawser/eval/score_plan.h"
#include "hawser/kv/cache.h"
#include "hawser/model/decoder.h"

namespace hawser {

/// Of one text.
struct TextScore {
  double nll = 0;
  bool greedy = true;
  int64_t tokens = 0;

  void Add(double nats, bool greatest) {
    nll += nats;
    greedy = greedy && greatest;
    ++tokens;
  }
};

/// Scores of texts [n], each as if it were read alone into a cache of `new_cache`: what the texts of an owner begin
/// with is read once, and its cache forked. Where the policy says prefill=dense, and behind an indexed prefix, the
/// tokens before the first that is predicted are a prompt, read for each text.
std::vector<TextScore> ScoreCached(Decoder* decoder, std::span<const ScoredText> texts,
                                   const std::function<std::unique_ptr<KvCache>()>& new_cache);

}  // namespace hawser
