// infer/generation.h - a prompt in, tokens out: one sequence over a decoder and a cache.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/infer/continuation.h"
#include "hawser/kv/cache.h"
#include "hawser/model/decoder.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// One sequence under way: fed with tokens, it tells what comes next.
class LogitsSource {
 public:
  /// Asked while ids are fed, with how many of them stay fed if it ends there; true ends that.
  using Cancelled = std::function<bool(int64_t fed)>;
  virtual ~LogitsSource() = default;

  virtual int32_t vocab() const = 0;

  /// Feeds ids (a prompt, or a further turn of the same stream); returns logits [V] of the token after the last.
  /// Errors: kUsage for no ids or an id outside the vocabulary. `cancelled`, if given, is asked before each pass over
  /// the weights; once it says so, nothing more is fed and nothing is returned.
  virtual std::span<const float> Prefill(std::span<const int32_t> ids, const Cancelled& cancelled = {}) = 0;
  /// Feeds one token; returns logits [V] of the next.
  virtual std::span<const float> Step(int32_t id) = 0;
};

/// Through a cache, in as few chunks as its policy allows. Both pointers outlive it.
class Generation : public LogitsSource {
 public:
  Generation(Decoder* decoder, KvCache* cache);

  int32_t vocab() const override { return static_cast<int32_t>(logits_.cols()); }
  std::span<const float> Prefill(std::span<const int32_t> ids, const Cancelled& cancelled = {}) override;
  std::span<const float> Step(int32_t id) override;

 private:
  Decoder* decoder_;
  KvCache* cache_;
  Matrix logits_;  // [1, V]
};

struct GenerateResult {
  std::vector<int32_t> ids;  // new tokens, the ending one left out
  std::string text;          // their text, valid UTF-8
  StopReason stop = StopReason::kLength;
  int64_t prompt_tokens = 0;
  int64_t steps = 0;  // new tokens fed back: the last one of a text is not
  double prefill_seconds = 0;
  double decode_seconds = 0;

  double prefill_tokens_per_second() const;
  double decode_tokens_per_second() const;
};

/// TextPrefix and the text. `parse_special`: names of special tokens in the text are those tokens. Errors: kUsage if
/// that is nothing at all.
std::vector<int32_t> PromptIds(std::string_view text, const Tokenizer& tokenizer, bool parse_special = false,
                               BosRule bos = BosRule::kAuto);

/// The tokens that end a text: those that the model names, the tokenizer's EOS where it names none.
std::vector<int32_t> EndIds(const ModelSpec& spec, const Tokenizer& tokenizer);

/// Continues `prompt`, after what `state` holds where it is given (and then updated, so that the text goes on from it,
/// also where it was cancelled while its prompt was read); bytes that it held are shown first where a prompt follows
/// them. `on_text`, if given, receives the text piece by piece as soon as it is certain.
GenerateResult Generate(LogitsSource& generation, std::span<const int32_t> prompt, const Tokenizer& tokenizer,
                        const GenerateOptions& options, const std::function<void(std::string_view)>& on_text = {},
                        TextState* state = nullptr);

}  // namespace hawser
