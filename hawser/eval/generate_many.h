// eval/generate_many.h - greedy texts for many prompts, several a step.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "hawser/eval/lm.h"
#include "hawser/kv/form.h"
#include "hawser/kv/squeezed.h"
#include "hawser/model/decoder.h"
#include "hawser/model/weights.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

struct ManyOptions {
  KvForm kv;
  std::shared_ptr<const SqueezedReader> prefix = nullptr;  // that prompts begin with, or null
  int32_t streams = 24;                     // prompts under way at once at most, as their caches fit in kv_bytes
  int64_t kv_bytes = int64_t{3} << 29;      // of keys and values, or what one needs; so that results do not vary
  int64_t prefix_bytes = int64_t{1} << 29;  // of beginnings that prompts share
};

/// Continues prompts[r] as requests[r] says, for each r of `group`; done(r, answer) as each ends. What comes out
/// depends on the group alone. Errors: those of infer/scheduler.h.
void GenerateMany(Backend* backend, Decoder* decoder, const Weights& weights, const Tokenizer& tokenizer,
                  const ManyOptions& options, std::span<const size_t> group, std::span<const LmRequest> requests,
                  std::span<const std::vector<int32_t>> prompts, const std::function<void(size_t, LmAnswer)>& done);

/// Of progress bars: rows of a pass that take about as long.
int64_t GenerationCost(size_t prompt_tokens, int64_t max_new);

}  // namespace hawser
