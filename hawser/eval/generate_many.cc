#include "hawser/eval/generate_many.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/infer/generation.h"
#include "hawser/infer/scheduler.h"
#include "hawser/model/kv_shape.h"

namespace hawser {
namespace {

constexpr int64_t kPromptRows = 1024;  // of prompts in a step

}  // namespace

void GenerateMany(Backend* backend, Decoder* decoder, const Weights& weights, const Tokenizer& tokenizer,
                  const ManyOptions& options, std::span<const size_t> group, std::span<const LmRequest> requests,
                  std::span<const std::vector<int32_t>> prompts, const std::function<void(size_t, LmAnswer)>& done) {
  const KvCache cache = NewKvCache(backend, weights.spec(), options.kv, {}, weights.dtype(), 0);
  int64_t largest = 0;
  for (const size_t r : group) {
    largest = std::max(largest, cache.BytesFor(std::ssize(prompts[r]), requests[r].max_new));
  }
  Scheduler scheduler(backend, decoder, &tokenizer, weights.dtype(),
                      {.slots = options.streams,
                       .rows = kPromptRows,
                       .queue = group.size(),
                       .kv_bytes = std::max(options.kv_bytes, largest),
                       .prefix_bytes = options.prefix_bytes,
                       .kv = options.kv,
                       .prefix = options.prefix});
  std::vector<int32_t> ends = EndIds(weights.spec(), tokenizer);
  if (tokenizer.eos() >= 0) ends.push_back(tokenizer.eos());
  std::vector<std::string> texts(group.size());
  std::optional<Error> error;
  for (size_t i = 0; i < group.size(); ++i) {
    const LmRequest& asked = requests[group[i]];
    Request request{.prompt = prompts[group[i]], .generate = {.max_new = asked.max_new}};
    request.generate.sampler.temperature = 0;
    request.generate.end_ids = ends;
    for (const std::string& stop : asked.stops) {
      if (!stop.empty()) request.generate.stops.push_back(stop);
    }
    scheduler.Submit(std::move(request), [&, i](const Event& event) {
      texts[i] += event.text;
      if (event.kind == Event::Kind::kError) error = event.error;
      if (event.kind == Event::Kind::kEnd) {
        done(group[i], {.text = std::move(texts[i]), .new_tokens = event.new_tokens});
      }
      return true;
    });
  }
  while (scheduler.Step() && !error) {
  }
  if (error) throw Error(*error);
}

int64_t GenerationCost(size_t prompt_tokens, int64_t max_new) {
  return static_cast<int64_t>(prompt_tokens) + 2 * max_new;
}

}  // namespace hawser
