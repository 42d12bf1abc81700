#include "hawser/infer/generation.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <utility>

#include "hawser/base/error.h"

namespace hawser {
namespace {

class Stopwatch {
 public:
  double Seconds() const { return std::chrono::duration<double>(Clock::now() - start_).count(); }

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point start_ = Clock::now();
};

double Rate(int64_t count, double seconds) { return seconds > 0 ? static_cast<double>(count) / seconds : 0; }

}  // namespace

Generation::Generation(Decoder* decoder, KvCache* cache)
    : decoder_(decoder), cache_(cache), logits_(1, decoder->spec().vocab) {}

std::span<const float> Generation::Prefill(std::span<const int32_t> ids, const Cancelled& cancelled) {
  if (ids.empty()) Fail(ErrorKind::kUsage, "a prompt needs at least one token");
  const int64_t end = cache_->seen() + std::ssize(ids);
  // What stays of a dense prompt is chosen at its end, which a part of one does not have: it counts whole or not at
  // all.
  const bool dense = cache_->form().prefill == KvPrefill::kDense;
  const std::unique_ptr<KvCache> before = cancelled && dense ? cache_->Fork() : nullptr;
  const auto asked = [&] { return cancelled(dense ? 0 : std::ssize(ids) - (end - cache_->seen())); };
  cache_->BeginPrefill(std::ssize(ids));
  decoder_->Extend(ids, cache_, logits_, cancelled ? std::function<bool()>(asked) : std::function<bool()>());
  if (cache_->seen() < end && before != nullptr) {
    *cache_ = std::move(*before);
    return {};
  }
  cache_->EndPrefill();
  if (cache_->seen() < end) return {};
  return {logits_.Row<float>(0), static_cast<size_t>(logits_.cols())};
}

std::span<const float> Generation::Step(int32_t id) {
  decoder_->Extend({&id, 1}, cache_, logits_);
  return {logits_.Row<float>(0), static_cast<size_t>(logits_.cols())};
}

double GenerateResult::prefill_tokens_per_second() const { return Rate(prompt_tokens, prefill_seconds); }
double GenerateResult::decode_tokens_per_second() const { return Rate(steps, decode_seconds); }

std::vector<int32_t> PromptIds(std::string_view text, const Tokenizer& tokenizer, bool parse_special, BosRule bos) {
  std::vector<int32_t> ids = TextPrefix(tokenizer, bos);
  const std::vector<int32_t> of_text = tokenizer.Encode(text, parse_special);
  ids.insert(ids.end(), of_text.begin(), of_text.end());
  if (ids.empty()) {
    Fail(ErrorKind::kUsage, "the prompt is empty and no token is put before it; pass --prompt{}",
         tokenizer.bos() >= 0 ? " or --bos on" : "");
  }
  return ids;
}

std::vector<int32_t> EndIds(const ModelSpec& spec, const Tokenizer& tokenizer) {
  if (!spec.eos.empty() || tokenizer.eos() < 0) return spec.eos;
  return {tokenizer.eos()};
}

GenerateResult Generate(LogitsSource& generation, std::span<const int32_t> prompt, const Tokenizer& tokenizer,
                        const GenerateOptions& options, const std::function<void(std::string_view)>& on_text,
                        TextState* state) {
  GenerateResult result;
  std::vector<int32_t> fed = state != nullptr ? state->pending : std::vector<int32_t>();
  fed.insert(fed.end(), prompt.begin(), prompt.end());
  result.prompt_tokens = static_cast<int64_t>(prompt.size());
  const auto show = [&](const std::string& text) {
    result.text += text;
    if (on_text && !text.empty()) on_text(text);
  };
  GenerateOptions own = options;
  own.hold = options.hold && state != nullptr;
  Continuation text(own, &tokenizer, generation.vocab(), prompt, state);
  show(text.Begin(/*prompt_follows=*/!prompt.empty()));
  Stopwatch prefill;
  int64_t read = 0;
  LogitsSource::Cancelled cancelled;
  if (options.cancelled) {
    cancelled = [&](int64_t tokens) {
      read = tokens;
      return options.cancelled();
    };
  }
  const bool drawn = prompt.empty() && fed.size() == 1 && !state->unread;  // left over from before: no prompt
  std::span<const float> logits = drawn ? generation.Step(fed[0]) : generation.Prefill(fed, cancelled);
  result.prefill_seconds = prefill.Seconds();
  Stopwatch decode;
  const bool unread = logits.empty();
  if (unread) text.Cancel();
  while (!text.end()) {
    if (options.cancelled && options.cancelled()) {
      if (own.hold) show(text.Push(logits));  // where the text goes on
      if (!text.end()) text.Cancel();
      break;
    }
    show(text.Push(logits));
    if (text.end()) break;
    logits = generation.Step(text.drawn());
    ++result.steps;
  }
  show(text.Finish());
  result.decode_seconds = decode.Seconds();
  result.ids = text.ids();
  result.stop = *text.end();
  if (state == nullptr) return result;
  text.Save(state);
  if (unread && own.hold) {
    state->pending.assign(fed.begin() + read, fed.end());
    state->unread = true;
  }
  return result;
}

}  // namespace hawser
