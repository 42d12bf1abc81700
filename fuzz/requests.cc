// What clients send to the server.
#include "fuzz/mutate.h"
#include "fuzz/target.h"
#include "hawser/base/error.h"
#include "hawser/base/printable.h"
#include "hawser/io/ordered_json.h"
#include "hawser/serve/openai.h"
#include "hawser/testing/byte_tokenizer.h"

namespace hawser::fuzz {
namespace {

std::vector<std::string> Words() {
  return {"model",
          "prompt",
          "messages",
          "role",
          "user",
          "system",
          "assistant",
          "developer",
          "content",
          "type",
          "text",
          "max_tokens",
          "max_completion_tokens",
          "temperature",
          "top_p",
          "top_k",
          "min_p",
          "repetition_penalty",
          "frequency_penalty",
          "presence_penalty",
          "logit_bias",
          "stop",
          "seed",
          "n",
          "best_of",
          "logprobs",
          "top_logprobs",
          "echo",
          "stream",
          "stream_options",
          "include_usage",
          "return_progress",
          "tools",
          "tool_choice",
          "tool_calls",
          "chat_template_kwargs",
          "continue_final_message",
          "cache_prompt",
          "ignore_eos",
          "priority",
          "timeout",
          "response_format",
          "json_schema",
          "schema",
          "grammar",
          "suffix",
          "hawser",
          "kv",
          "cache",
          "none",
          "json_object"};
}

std::vector<std::string> Seeds() {
  return {
      R"({"model": "m", "prompt": "a", "max_tokens": 3, "temperature": 0.5, "stop": ["x"], "logit_bias": {"3": -1}})",
      R"({"prompt": [[1, 2], [3]], "echo": true, "logprobs": 2, "n": 2, "seed": 4, "hawser": {"kv": "sink:4,60"}})",
      R"({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}]}], "stream": true,
              "stream_options": {"include_usage": true}, "logprobs": true, "top_logprobs": 3, "tools": [{"a": {}}]})"};
}

/// A request becomes a call within its bounds, or an error of 400 as JSON; what a call gives is JSON again.
void RunRequest(std::string_view input) {
  constexpr int32_t kVocab = 256;
  const nlohmann::ordered_json body = ParseOrderedJson(input);
  const CallLimits limits;
  for (const bool chat : {false, true}) {
    try {
      const Call call = ParseCall(body, chat, limits, kVocab);
      if (call.n < 1 || call.n > limits.choices || call.logprobs > limits.logprobs) Finding("a call out of bounds");
      Sampler sampler(call.sampler, kVocab);
      const testing::ByteTokenizer tokenizer;
      Choice choice(&call, &tokenizer, 0, "a");
      choice.Take({.kind = Event::Kind::kStart});
      choice.Take({.kind = Event::Kind::kPromptToken, .token = {.id = 7}});
      choice.Take(
          {.kind = Event::Kind::kToken, .token = {.id = 200, .logprob = -1, .top = {{200, -1.f}, {255, -2.f}}}});
      choice.Take({.kind = Event::Kind::kEnd, .text = "b"});
      ParseOrderedJson(Dump(Frame{.id = "i"}.Json(call, false, nlohmann::ordered_json::array({choice.Whole()}))));
    } catch (const ApiError& error) {
      if (error.status() != 400) Finding("an error of another status");
      const nlohmann::ordered_json told = ParseOrderedJson(error.Body());
      if (told["error"]["message"] != PrintableLine(error.what())) Finding("a message that is no printable line");
    }
  }
}

}  // namespace

std::vector<Target> RequestTargets() {
  return {{.name = "request", .seeds = Seeds, .run = RunRequest, .mutate = JsonMutator(Words())}};
}

}  // namespace hawser::fuzz
