// eval/lm.h - what a task asks of a model, and what it gets: the engine answers (engine_lm.h), or a test.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <vector>

namespace hawser {

/// A turn of a chat: "system", "user" or "assistant".
struct LmTurn {
  std::string role, text;
};

struct LmRequest {
  enum class Kind : uint8_t {
    kLogLikelihood,  // how probable is each continuation behind the context?
    kRolling,        // how probable is the context itself, in windows of the longest input that see one token before
    kGenerate,       // what follows, greedily?
  };
  Kind kind = Kind::kLogLikelihood;
  // A prompt without BOS, which the model puts first where its tokenizer does. Too long a one is cut at its beginning.
  // In a chat it is the user's turn.
  std::string context = {};
  bool special = false;  // names of special tokens in the prompt are those tokens: it brings a template of its own
  std::vector<LmTurn> before = {};              // of a chat, in front of that turn: what the system says, examples
  std::string answer_prefix = {};               // how the answer begins: stands behind the context, or opens the turn
  std::vector<std::string> continuations = {};  // kLogLikelihood: each by itself
  // kLogLikelihood: where a continuation begins. kContext: at the tokens of the context alone, blanks at its end
  // counted to the continuation (lm-evaluation-harness). kCommon: behind the tokens that all the texts of context and
  // continuation begin with (llama.cpp).
  enum class Split : uint8_t { kContext, kCommon };
  Split split = Split::kContext;
  std::vector<std::string> stops = {};  // kGenerate: the text ends in front of the first of them
  int64_t max_new = 256;                // kGenerate: tokens at most
};

struct Likelihood {
  double ll = 0;        // nats, summed over the tokens: <= 0
  bool greedy = false;  // every token is the most probable one
  int64_t tokens = 0;   // of the continuation
};

struct LmAnswer {
  std::vector<Likelihood> likelihoods = {};  // one a continuation; kRolling: one
  std::string text = {};                     // kGenerate: what was made, valid UTF-8, ended by a stop, EOS or max_new
  int64_t prompt_tokens = 0;                 // of the context, BOS included, before anything is cut
  int64_t new_tokens = 0;                    // kGenerate
};

struct NumberedAnswer {
  size_t request = 0;
  LmAnswer answer = {};
};
/// Gets answers as they are finished, several at once: an answer whose neighbours are lost would not come out the same.
using AnswerSink = std::function<void(std::span<const NumberedAnswer> answers)>;

class Lm {
 public:
  virtual ~Lm() = default;
  /// Answers all requests but those that are `known` ([requests]; empty: none), each once and in any order, in groups
  /// that depend on all requests and not on what is known: what is asked later is answered the same. Errors: kUsage
  /// (continuations or max_new that leave no room in the longest input), kNumeric.
  virtual void Answer(std::span<const LmRequest> requests, const std::vector<bool>& known, const AnswerSink& sink) = 0;
  /// The longest input in tokens.
  virtual int64_t max_length() const = 0;
  /// What is asked as one text, as logs show it: in a chat with all that its template writes.
  virtual std::string Shown(const LmRequest& request) const { return request.context + request.answer_prefix; }
  /// Of results files: model, cache, attention, positions, dtypes.
  virtual nlohmann::json Describe() const = 0;
};

}  // namespace hawser
