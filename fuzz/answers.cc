// What the server writes to clients: streams of events.
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "fuzz/mutate.h"
#include "fuzz/target.h"
#include "hawser/infer/stream.h"
#include "hawser/io/ordered_json.h"
#include "hawser/serve/openai.h"
#include "hawser/testing/byte_tokenizer.h"

namespace hawser::fuzz {
namespace {

using Json = nlohmann::ordered_json;

/// Flags of the request in the first byte; a zero byte ends a token's bytes.
std::vector<std::string> AnswerSeeds() {
  using namespace std::string_literals;
  return {"\x01The \0sea\r\n\0data: [DONE]\n\n\0\xC3\0\xA9\n"s,
          "\x06one\0<tool_call>{\"name\": \"f\", \0\"arguments\": {}}</tool_call>"s, "\x0B\xE2\x80\xA8\0\"\\\0\x7F"s,
          "\x10"s};
}

/// The data of each event, as a browser's EventSource takes a stream apart
/// (https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation).
std::vector<std::string> DataOf(std::string_view stream) {
  std::vector<std::string> events;
  std::optional<std::string> data;
  while (!stream.empty()) {
    const size_t end = stream.find_first_of("\r\n");
    if (end == stream.npos) Finding("a line that does not end");
    const std::string_view line = stream.substr(0, end);
    stream.remove_prefix(end + (stream.substr(end).starts_with("\r\n") ? 2 : 1));
    if (line.empty()) {
      if (data) events.push_back(*std::exchange(data, std::nullopt));
      continue;
    }
    if (!line.starts_with("data: ")) Finding("a line that is no data");
    data = data ? *data + "\n" : "";
    *data += line.substr(6);
  }
  if (data) Finding("an event that does not end");
  return events;
}

/// Every piece of an answer is an event of its own and JSON, and together they tell what the whole answer is.
void RunEvents(std::string_view input) {
  if (input.empty()) return;
  const auto flags = static_cast<unsigned char>(input[0]);
  Call call{.chat = (flags & 1) != 0, .stream = true};
  if ((flags & 2) != 0) call.logprobs = 2;
  if (call.chat && (flags & 4) != 0) call.template_values["tools"] = Json::array({Json::object()});
  call.echo = !call.chat && (flags & 8) != 0;
  const testing::ByteTokenizer tokenizer;
  const std::string prompt = (flags & 16) != 0 ? "\n\xEF\xBF\xBD\r\n" : "a";
  Choice choice(&call, &tokenizer, 0, prompt);
  const Frame frame{.id = "i", .model = "m\r\n"};

  std::string stream, told;
  size_t written = 0, calls = 0;
  const auto take = [&](const Event& event) {
    for (const Json& piece : choice.Take(event)) {
      stream += ServerSentEvent(frame.Json(call, true, Json::array({piece})));
      ++written;
    }
  };
  take({.kind = Event::Kind::kStart});
  for (const char c : prompt) take({.kind = Event::Kind::kPromptToken, .token = {.id = static_cast<unsigned char>(c)}});
  TextStream text({});
  for (size_t at = 1; at < input.size();) {
    const size_t end = std::min(input.find('\0', at), input.size());
    const std::string_view bytes = input.substr(at, end - at);
    const int32_t id = bytes.empty() ? 0 : static_cast<unsigned char>(bytes[0]);
    take({.kind = Event::Kind::kToken,
          .token = {.id = id, .logprob = -1, .top = {{id, -1.f}, {255 - id, -2.f}}},
          .text = text.Push(bytes)});
    at = end + 1;
  }
  take({.kind = Event::Kind::kEnd, .text = text.Finish()});

  const std::vector<std::string> events = DataOf(stream);
  if (events.size() != written) Finding("other events than were written");
  for (const std::string& event : events) {
    const Json piece = ParseOrderedJson(event)["choices"][0];
    const Json& part = call.chat ? piece["delta"] : piece;
    const char* key = call.chat ? "content" : "text";
    if (part.contains(key) && part[key].is_string()) told += part[key].get<std::string>();
    if (part.contains("tool_calls")) calls += part["tool_calls"].size();
  }
  const Json whole = ParseOrderedJson(Dump(choice.Whole()));
  const Json& answer = call.chat ? whole["message"] : whole;
  const Json& content = answer[call.chat ? "content" : "text"];
  if (told != (content.is_string() ? content.get<std::string>() : "")) Finding("a stream that tells another text");
  if (calls != (answer.contains("tool_calls") ? answer["tool_calls"].size() : 0)) Finding("other calls");
}

}  // namespace

std::vector<Target> AnswerTargets() {
  return {
      {.name = "events",
       .seeds = AnswerSeeds,
       .run = RunEvents,
       .mutate = WordMutator({"data: ", "[DONE]", "\r", "\xC3", "\xA9", "\xE2\x80\xA8", "<tool_call>", "</tool_call>",
                              "[TOOL_CALLS]", "{\"name\": \"f\", \"arguments\": {}}", "\"", "\\", "\x1B"},
                             std::string("\0\n ", 3)),
       .most = 192}};  // each token is an event to write and to read
}

}  // namespace hawser::fuzz
