// serve/openai.h - the shapes of OpenAI's completions API (https://platform.openai.com/docs/api-reference), with the
// extensions of vLLM and llama.cpp that clients send: requests from JSON, answers to JSON. Pure functions.
#pragma once

#include <chrono>
#include <cstdint>
#include <exception>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "hawser/infer/scheduler.h"
#include "hawser/infer/stream.h"
#include "hawser/serve/members.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// What a client hears of a request that is not served.
class ApiError : public std::exception {
 public:
  ApiError(int status, std::string type, std::string message, std::string param = "", std::string code = "");
  const char* what() const noexcept override { return message_.c_str(); }
  int status() const { return status_; }
  /// {"error": {"message", "type", "param", "code"}}
  std::string Body() const;

 private:
  int status_;
  std::string type_, message_, param_, code_;
};
/// The error of a status alone.
ApiError ErrorOfStatus(int status);
/// A fault of the server itself: `what` goes to the log alone, under a name that the client is told. Out of memory:
/// 503.
ApiError OwnFault(const std::exception& what);

using Prompt = std::variant<std::string, std::vector<int32_t>>;

/// What an answer is to be.
struct TextFormat {
  enum class Kind : uint8_t { kFree, kGrammar, kSchema, kObject };  // anything, GBNF, JSON of a schema, a JSON object
  Kind kind = Kind::kFree;
  std::string text;   // the grammar, or the schema as JSON
  std::string param;  // the member of the request that says so
};

/// A request for completions or for an answer in a talk.
struct Call {
  bool chat = false;
  std::string model;
  std::vector<Prompt> prompts;                                                // completions
  nlohmann::ordered_json messages;                                            // chat: {role, content, ...} each
  nlohmann::ordered_json template_values = nlohmann::ordered_json::object();  // tools, chat_template_kwargs
  bool answers = true;     // the talk ends where an assistant's turn begins
  bool continues = false;  // the last message goes on
  int32_t n = 1;
  std::optional<int64_t> max_tokens;
  SamplerOptions sampler;
  bool seeded = false;
  std::vector<std::string> stops;
  int32_t logprobs = -1;  // alternatives a token; -1: none wanted
  bool echo = false, stream = false, include_usage = false, progress = false, ignore_eos = false, share = true;
  TextFormat format;
  std::string kv;
  std::string keep;                    // {"hawser": {"keep": RULE}}: what is read of the indexed prefix
  std::optional<std::string> session;  // {"hawser": {"session": ID}}: goes on behind that with what is new
  bool show_cache = false;             // {"hawser": {"cache": true}}: what the cache holds at the end
  int32_t priority = 0;
  std::chrono::milliseconds timeout{};

  bool tools() const { return template_values.contains("tools") && !template_values["tools"].is_null(); }
};
/// Errors: ApiError (400) naming the member. Members that are not known are ignored.
Call ParseCall(const nlohmann::ordered_json& body, bool chat, const CallLimits& limits, int32_t vocab);
/// A list of token ids. Errors: ApiError (400) naming `param` for what is none below `vocab`.
std::vector<int32_t> ParseTokenIds(const nlohmann::ordered_json& list, const std::string& param, int32_t vocab);

/// Gathers one choice of an answer.
class Choice {
 public:
  Choice(const Call* call, const Tokenizer* tokenizer, int32_t index, std::string prompt_text)
      : call_(call), tokenizer_(tokenizer), index_(index), prompt_text_(std::move(prompt_text)) {}

  /// Takes an event. What there is to tell in a stream: `choices[0]` of a chunk each.
  std::vector<nlohmann::ordered_json> Take(const Event& event);
  /// The whole choice, once it has ended.
  nlohmann::ordered_json Whole() const;
  bool ended() const { return ended_; }
  const Event& end() const { return end_; }
  int32_t index() const { return index_; }

 private:
  std::string TextOf(int32_t id, bool of_prompt);
  void AddLogprob(const TokenLogprob& token, bool of_prompt);
  nlohmann::ordered_json Logprobs();
  nlohmann::ordered_json Piece(const std::string& text, std::string_view finish = {});
  nlohmann::ordered_json ToolPiece(std::string_view* finish);

  const Call* call_;
  const Tokenizer* tokenizer_;
  int32_t index_;
  std::string prompt_text_, text_;
  nlohmann::ordered_json pending_ = nlohmann::ordered_json::array();  // log-probabilities not told yet
  nlohmann::ordered_json all_ = nlohmann::ordered_json::array();
  TextStream told_{{}};     // the bytes of tokens as text
  int64_t offset_ = 0;      // code points of it so far
  size_t prompt_at_ = 0;    // bytes of the prompt so far
  bool blank_cut_ = false;  // the one that some vocabularies begin a text with
  bool begun_ = false, ended_ = false;
  Event end_;
};

/// The frame of an answer or of a chunk of one.
struct Frame {
  std::string id, model;
  int64_t created = 0;
  nlohmann::ordered_json Json(const Call& call, bool chunk, nlohmann::ordered_json choices) const;
};

struct Usage {
  int64_t prompt_tokens = 0, new_tokens = 0, cached_tokens = 0, kept_tokens = 0, evicted_tokens = 0, kv_bytes = 0;
  int64_t indexed_tokens = 0, indexed_choices = 0;
  double indexed_share = 0;  // summed over these choices
  double prompt_seconds = 0, decode_seconds = 0;
  /// Of a choice that has ended. Prompts count once, however many answers they get.
  void Add(const Event& end, bool first_of_prompt);
  nlohmann::ordered_json Json(const std::string& cache) const;
};

/// "data: {...}\n\n"
std::string ServerSentEvent(const nlohmann::ordered_json& json);
/// Text of JSON; bytes that are no UTF-8 become U+FFFD.
std::string Dump(const nlohmann::ordered_json& json);

/// Bearer key of a request is right; takes the same time for any wrong one.
bool KeyMatches(std::string_view authorization, std::string_view key);

}  // namespace hawser
