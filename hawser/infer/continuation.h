// infer/continuation.h - a text in the making, apart from where its logits come from: what is drawn, what of it may be
// shown, and when it ends.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/infer/constraint.h"
#include "hawser/infer/sampler.h"
#include "hawser/infer/stream.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

enum class StopReason : uint8_t { kLength, kEos, kStop, kCancelled };
std::string_view Name(StopReason reason);  // "length", "eos", "stop", "cancelled"

struct GenerateOptions {
  int64_t max_new = 256;
  SamplerOptions sampler;
  std::vector<std::string> stops;  // text; the result ends in front of the first of them
  std::vector<int32_t> end_ids;    // tokens that end the text and are no part of it
  bool at_start = false;           // the text begins here: the blank that some vocabularies begin a text with is cut
  std::function<bool()> cancelled = {};               // asked before each token is made; true ends the text
  std::shared_ptr<const Constraint> constraint = {};  // what the text may be; of the same tokenizer
  bool hold = false;    // the text will go on: what is not yet certain stays in the state, unshown
  bool reseed = false;  // behind a state: what is drawn begins anew, from the seed
};

/// What a text needs besides its cache to go on in another call or process.
struct TextState {
  std::vector<int32_t> pending;           // what the cache has not seen: the last token of a text that was cut, ..
  bool unread = false;                    // .. or a prompt that was cut, with the token before it
  Sampler::Seen seen;                     // what the penalties count
  std::optional<Rng> rng = std::nullopt;  // of the sampler; none: from the seed of the options
  std::string held;                       // bytes made but not shown: of a cut character, or where a stop may begin
  std::optional<std::string> formed = std::nullopt;  // bytes made under a constraint that lets more come; none: no such
  bool at_start = false;                             // nothing of the text has come yet
};
nlohmann::json ToJson(const TextState& state);
/// Errors: kFormat for anything but what ToJson writes, with ids below `vocab`.
TextState ParseTextState(const nlohmann::json& json, int32_t vocab);

class Continuation {
 public:
  /// A text behind `prompt`, and behind what `state` holds where it is given. `vocab`: columns of the logits. The
  /// tokenizer outlives it; of the options `cancelled` is not asked here. Errors: kUsage of options out of bounds.
  Continuation(const GenerateOptions& options, const Tokenizer* tokenizer, int32_t vocab,
               std::span<const int32_t> prompt, const TextState* state = nullptr);

  /// What an earlier text held and is certain now; to be called first. Where no prompt follows, a text that was cut
  /// under a constraint goes on where it stood in it; elsewhere the constraint begins. Errors: kUsage where that text
  /// is none that the constraint begins with.
  std::string Begin(bool prompt_follows);
  /// Draws the next token from logits [vocab] and returns the text that is certain with it. Errors: kNumeric; under a
  /// constraint those of ConstraintWalk, and kUnsupported where no token goes on as the grammar wants.
  std::string Push(std::span<const float> logits);
  /// Ends the text from outside.
  void Cancel() { end_ = StopReason::kCancelled; }
  /// What was held back, once nothing more comes. With options.hold and a text that was cut or cancelled: nothing, it
  /// stays.
  std::string Finish();

  std::optional<StopReason> end() const { return end_; }
  const std::vector<int32_t>& ids() const { return ids_; }  // new tokens, the ending one left out
  int32_t drawn() const { return drawn_; }                  // by the last Push, the ending one too
  /// What goes on from here.
  void Save(TextState* state) const;

 private:
  std::span<const uint64_t> Allowed();
  bool holds() const { return options_.hold && (end_ == StopReason::kLength || end_ == StopReason::kCancelled); }

  GenerateOptions options_;
  const Tokenizer* tokenizer_;
  Sampler sampler_;
  TextStream stream_;
  std::optional<ConstraintWalk> walk_;
  TokenSet allowed_;
  size_t vocab_;
  bool at_start_;
  int32_t drawn_ = -1;
  std::vector<int32_t> ids_;
  std::string earlier_;
  std::optional<std::string> formed_before_;
  std::string formed_;  // under walk_
  std::optional<StopReason> end_;
};

/// The natural logarithm of a token's probability under softmax(logits), nothing penalised and at temperature 1.
struct TokenLogprob {
  int32_t id = -1;
  float logprob = 0;
  std::vector<std::pair<int32_t, float>> top;  // the most probable tokens, descending; of equals the smaller id first
};
/// Of `id` and the `top` most probable ones (0: none). logits F32.
TokenLogprob LogprobOf(std::span<const float> logits, int32_t id, int32_t top);

}  // namespace hawser
