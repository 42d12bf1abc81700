// eval/prompt_ids.h - requests as token ids: where a continuation begins, what is cut, what a chat puts around.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/eval/lm.h"
#include "hawser/eval/score_plan.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/chat_template.h"

namespace hawser {

class PromptEncoder {
 public:
  /// `max_length`: tokens of the longest input. Errors: kUsage for a chat without a template.
  PromptEncoder(const Tokenizer& tokenizer, BosRule bos, bool chat, int64_t max_length);

  /// One text a continuation (kLogLikelihood) or window (kRolling); `prompt_tokens` is that of LmAnswer. An empty
  /// context is BOS, EOS where there is none. Errors: kUsage for a continuation of no token, or of more than the
  /// longest input.
  std::vector<ScoredText> Scored(const LmRequest& request, size_t owner, int64_t* prompt_tokens) const;

  /// The prompt of kGenerate, its beginning cut so that max_new more fit. Errors: kUsage where they never do.
  std::vector<int32_t> Prompt(const LmRequest& request, int64_t* prompt_tokens) const;

  /// Context and answer_prefix as one text, in a chat as its template writes them: without the turn of the system where
  /// it refuses one, as the harness does.
  std::string Shown(const LmRequest& request) const { return TextOf(request).bytes(); }

 private:
  jinja::Text TextOf(const LmRequest& request) const;
  std::vector<int32_t> Encode(const jinja::Text& text, const LmRequest& request) const;
  std::vector<ScoredText> Continuations(const LmRequest& request, size_t owner, int64_t* prompt_tokens) const;
  std::vector<ScoredText> BehindCommon(const LmRequest& request, size_t owner, int64_t* prompt_tokens) const;
  std::vector<ScoredText> Windows(const LmRequest& request, size_t owner) const;
  ScoredText Cut(std::vector<int32_t> ids, int64_t scored, size_t owner, const LmRequest& request) const;

  const Tokenizer& tokenizer_;
  std::unique_ptr<ChatTemplate> chat_;
  int64_t max_length_;
  std::vector<int32_t> prefix_;  // before every text: BOS where the rule says so; a chat's template brings its own
  mutable std::atomic<bool> told_ = false;  // that turns of the system are left out
  int32_t first_;                           // what stands before an empty context: BOS, or EOS
};

}  // namespace hawser
