#include "hawser/serve/openai.h"

#include <algorithm>
#include <cmath>

#include "hawser/base/printable.h"
#include "hawser/io/json.h"
#include "hawser/serve/tool_calls.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kInvalid = "invalid_request_error";

[[noreturn]] void Invalid(const std::string& param, const std::string& message, const std::string& code = "") {
  throw ApiError(400, kInvalid, message, param, code);
}

std::string Shown(const Json& value) { return ShownJson(nlohmann::json(value)); }

/// Typed members; null is as if not there.
class Members {
 public:
  Members(const Json& body, std::string prefix = "") : body_(body), prefix_(std::move(prefix)) {}

  const Json* Find(const char* key) const {
    const auto found = body_.find(key);
    return found == body_.end() || found->is_null() ? nullptr : &*found;
  }
  std::string Name(const char* key) const { return prefix_ + key; }
  double Number(const char* key, double fallback, double low, double high) const {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_number()) Wrong(key, "a number", *value);
    const auto number = value->get<double>();
    if (!(number >= low && number <= high)) Wrong(key, fmt::format("from {} to {}", low, high), *value);
    return number;
  }
  int64_t Int(const char* key, int64_t fallback, int64_t low, int64_t high) const {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    const bool whole =
        value->is_number_integer() || (value->is_number() && std::floor(value->get<double>()) == value->get<double>() &&
                                       std::abs(value->get<double>()) < 0x1p53);
    if (!whole) Wrong(key, "a whole number", *value);
    const bool large = value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
    const int64_t number = large                      ? INT64_MAX
                           : value->is_number_float() ? static_cast<int64_t>(value->get<double>())
                                                      : value->get<int64_t>();
    if (number < low || number > high) Wrong(key, fmt::format("from {} to {}", low, high), *value);
    return number;
  }
  bool Flag(const char* key, bool fallback) const {
    const Json* value = Find(key);
    if (value == nullptr) return fallback;
    if (!value->is_boolean()) Wrong(key, "true or false", *value);
    return value->get<bool>();
  }
  std::string Text(const char* key) const {
    const Json* value = Find(key);
    if (value == nullptr) return "";
    if (!value->is_string()) Wrong(key, "text", *value);
    return value->get<std::string>();
  }
  [[noreturn]] void Wrong(const char* key, const std::string& wanted, const Json& found) const {
    Invalid(Name(key), fmt::format("\"{}\" must be {}, found {}", Name(key), wanted, Shown(found)));
  }

 private:
  const Json& body_;
  std::string prefix_;
};

int32_t TokenId(const Json& value, const char* key, int32_t vocab) {
  if (!value.is_number_integer() || value < 0 || value >= vocab) {
    Invalid(key, fmt::format("\"{}\": {} is no token id; the model has ids 0 to {}", key, Shown(value), vocab - 1));
  }
  return value.get<int32_t>();
}

std::vector<int32_t> TokenIds(const Json& list, const char* key, int32_t vocab) {
  std::vector<int32_t> ids;
  for (const Json& id : list) ids.push_back(TokenId(id, key, vocab));
  return ids;
}

std::vector<Prompt> Prompts(const Members& members, const CallLimits& limits, int32_t vocab) {
  const Json* value = members.Find("prompt");
  if (value == nullptr) Invalid("prompt", "\"prompt\" is missing: text, a list of texts, token ids, or lists of them");
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) members.Wrong("prompt", "text, a list of texts, token ids, or lists of them", *value);
  if (value->empty()) Invalid("prompt", "\"prompt\" is an empty list");
  if (value->front().is_number()) return {TokenIds(*value, "prompt", vocab)};
  if (value->size() > static_cast<size_t>(limits.prompts)) {
    Invalid("prompt", fmt::format("{} prompts, at most {} are taken at once", value->size(), limits.prompts));
  }
  std::vector<Prompt> prompts;
  for (const Json& one : *value) {
    if (one.is_string()) {
      prompts.emplace_back(one.get<std::string>());
    } else if (one.is_array()) {
      prompts.emplace_back(TokenIds(one, "prompt", vocab));
    } else {
      members.Wrong("prompt", "text, a list of texts, token ids, or lists of them", one);
    }
  }
  return prompts;
}

std::vector<std::string> Stops(const Members& members) {
  const Json* value = members.Find("stop");
  if (value == nullptr) return {};
  std::vector<std::string> stops;
  const auto add = [&](const Json& one) {
    if (!one.is_string()) members.Wrong("stop", "text or a list of texts", one);
    if (!one.get_ref<const std::string&>().empty()) stops.push_back(one.get<std::string>());
  };
  if (value->is_array()) {
    if (value->size() > 64) Invalid("stop", fmt::format("{} stop texts, at most 64 are taken", value->size()));
    for (const Json& one : *value) add(one);
  } else {
    add(*value);
  }
  return stops;
}

void Bias(const Members& members, int32_t vocab, SamplerOptions* sampler) {
  const Json* value = members.Find("logit_bias");
  if (value == nullptr) return;
  if (!value->is_object()) members.Wrong("logit_bias", "an object of token ids", *value);
  for (const auto& [key, bias] : value->items()) {
    int64_t id = -1;
    const bool digits =
        !key.empty() && key.size() < 10 && std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; });
    if (digits) id = std::stoll(key);
    if (id < 0 || id >= vocab) {
      Invalid("logit_bias",
              fmt::format("\"logit_bias\": {} is no token id; the model has ids 0 to {}", Shown(key), vocab - 1));
    }
    if (!bias.is_number() || !(std::abs(bias.get<double>()) <= 100)) {
      members.Wrong("logit_bias", "numbers from -100 to 100", bias);
    }
    sampler->bias.emplace_back(static_cast<int32_t>(id), bias.get<float>());
  }
}

/// Content as text: a string, or parts of type text put together.
std::string ContentText(const Json& content, size_t place) {
  if (content.is_string()) return content.get<std::string>();
  if (content.is_null()) return "";
  if (!content.is_array()) {
    Invalid("messages",
            fmt::format("\"content\" of message {} must be text or a list of parts, found {}", place, Shown(content)));
  }
  std::string text;
  for (const Json& part : content) {
    const bool is_text =
        part.is_object() && part.value("type", Json()) == "text" && part.contains("text") && part["text"].is_string();
    if (!is_text) {
      Invalid("messages", fmt::format("message {} holds a part that is no text: {}", place, Shown(part)));
    }
    text += part["text"].get<std::string>();
  }
  return text;
}

Json Messages(const Members& members) {
  const Json* value = members.Find("messages");
  if (value == nullptr || !value->is_array() || value->empty()) {
    Invalid("messages", "\"messages\" must be a list of {\"role\", \"content\"}, with one at least");
  }
  Json messages = Json::array();
  for (size_t i = 0; i < value->size(); ++i) {
    const Json& given = (*value)[i];
    if (!given.is_object() || !given.contains("role") || !given["role"].is_string()) {
      Invalid("messages", fmt::format("message {} has no text \"role\": {}", i, Shown(given)));
    }
    Json message = given;
    if (message["role"] == "developer") message["role"] = "system";
    if (!given.contains("content") && !given.contains("tool_calls")) {
      Invalid("messages", fmt::format("message {} has no \"content\"", i));
    }
    message["content"] = ContentText(given.value("content", Json()), i);
    messages.push_back(std::move(message));
  }
  return messages;
}

TextFormat ResponseFormat(const Members& members, const Json& given) {
  constexpr const char* kKey = "response_format";
  if (!given.is_object() || !given.contains("type")) members.Wrong(kKey, "an object with a type", given);
  const Members format(given, "response_format.");
  const std::string type = format.Text("type");
  if (type == "text") return {};
  if (type != "json_object" && type != "json_schema") {
    Invalid(kKey, fmt::format("\"response_format\" of type {} is not supported; text, json_object and json_schema are",
                              Shown(given["type"])));
  }
  // OpenAI puts the schema one level deeper, llama.cpp takes it beside either type.
  const Json* schema = format.Find("schema");
  if (const Json* outer = format.Find("json_schema"); schema == nullptr && outer != nullptr && outer->is_object()) {
    schema = Members(*outer).Find("schema");
  }
  if (schema != nullptr) return {TextFormat::Kind::kSchema, Dump(*schema), kKey};
  if (type == "json_object") return {TextFormat::Kind::kObject, "", kKey};
  Invalid(kKey, "\"response_format\" of type json_schema has no schema in \"json_schema\": {\"schema\": ...}");
}

/// What the answer is to be, by the members of several dialects.
TextFormat Format(const Members& members) {
  TextFormat format;
  const auto take = [&](TextFormat other) {
    if (other.kind == TextFormat::Kind::kFree) return;
    if (format.kind != TextFormat::Kind::kFree) {
      Invalid(other.param, fmt::format("\"{}\" beside \"{}\": give one of them", other.param, format.param));
    }
    format = std::move(other);
  };
  if (const Json* given = members.Find("response_format"); given != nullptr) take(ResponseFormat(members, *given));
  if (std::string text = members.Text("grammar"); !text.empty()) {
    take({TextFormat::Kind::kGrammar, std::move(text), "grammar"});
  }
  if (const Json* schema = members.Find("json_schema"); schema != nullptr) {
    take({TextFormat::Kind::kSchema, Dump(*schema), "json_schema"});
  }
  return format;
}

void Own(const Members& members, Call* call) {
  const Json* own = members.Find("hawser");
  if (own == nullptr) return;
  if (!own->is_object()) members.Wrong("hawser", "an object", *own);
  const Members inner(*own, "hawser.");
  call->kv = inner.Text("kv");
  call->session = inner.Text("session");
  call->show_cache = inner.Flag("cache", false);
}

int64_t CodePoints(std::string_view text) {
  return std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

/// A token's text as JSON can hold it: bytes that are no UTF-8 become U+FFFD.
std::string Valid(std::string_view bytes) {
  std::string text;
  for (size_t at = 0; at < bytes.size();) {
    const size_t length = CodePointAt(bytes, at).length;
    length > 0 ? text.append(bytes, at, length) : text.append("\xEF\xBF\xBD");
    at += std::max<size_t>(1, length);
  }
  return text;
}

std::string_view FinishReason(StopReason reason) { return reason == StopReason::kLength ? "length" : "stop"; }

std::string PieceOf(const Tokenizer& tokenizer, int32_t id) {
  if (id < 0 || id >= tokenizer.vocab_size()) return "";
  std::string piece = tokenizer.Piece(id);
  return piece.empty() ? tokenizer.Display(id) : piece;  // control tokens by their name
}

}  // namespace

ApiError::ApiError(int status, std::string type, std::string message, std::string param, std::string code)
    : status_(status),
      type_(std::move(type)),
      message_(PrintableLine(message)),
      param_(std::move(param)),
      code_(std::move(code)) {}

std::string ApiError::Body() const {
  const auto or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  return Dump(
      {{"error", {{"message", message_}, {"type", type_}, {"param", or_null(param_)}, {"code", or_null(code_)}}}});
}

ApiError ErrorOfStatus(int status) {
  switch (status) {
    case 401:
      return {401, "authentication_error", "the API key is missing or wrong", "", "invalid_api_key"};
    case 404:
      return {404, "not_found_error", "there is nothing under this path"};
    case 405:
      return {405, kInvalid, "this path does not know the method"};
    case 413:
      return {413, kInvalid, "the body is larger than this server takes"};
    case 415:
      return {415, kInvalid, "the body must be application/json"};
    case 429:
      return {429, "rate_limit_error", "too many requests wait; try again in a moment"};
    case 431:
      return {431, kInvalid, "the headers are larger than this server takes"};
    case 503:
      return {503, "unavailable_error", "the server is shutting down"};
    case 400:
      return {400, kInvalid, "this is no HTTP request that the server understands"};
    default:
      return {500, "server_error", "something went wrong inside the server; its log tells what"};
  }
}

Call ParseCall(const Json& body, bool chat, const CallLimits& limits, int32_t vocab) {
  if (!body.is_object()) Invalid("", "the body must be a JSON object");
  const Members members(body);
  Call call{.chat = chat};
  call.model = members.Text("model");
  if (chat) {
    call.messages = Messages(members);
    if (const Json* tools = members.Find("tools"); tools != nullptr) {
      if (!tools->is_array()) members.Wrong("tools", "a list", *tools);
      if (!tools->empty() && members.Find("tool_choice") != nullptr && *members.Find("tool_choice") == "none") {
        call.template_values["tools"] = Json();
      } else if (!tools->empty()) {
        call.template_values["tools"] = *tools;
      }
    }
    if (const Json* more = members.Find("chat_template_kwargs"); more != nullptr) {
      if (!more->is_object()) members.Wrong("chat_template_kwargs", "an object", *more);
      for (const auto& [key, value] : more->items()) call.template_values[key] = value;
    }
    call.continues = members.Flag("continue_final_message", false);
    if (members.Flag("logprobs", false)) {
      call.logprobs = static_cast<int32_t>(members.Int("top_logprobs", 0, 0, limits.logprobs));
    } else if (members.Find("top_logprobs") != nullptr && *members.Find("top_logprobs") != 0) {
      Invalid("top_logprobs", "\"top_logprobs\" wants \"logprobs\": true");
    }
  } else {
    call.prompts = Prompts(members, limits, vocab);
    if (const Json* wanted = members.Find("logprobs"); wanted != nullptr && *wanted == false) {
    } else if (wanted != nullptr && *wanted == true) {
      call.logprobs = 1;
    } else {
      call.logprobs = static_cast<int32_t>(members.Int("logprobs", -1, 0, limits.logprobs));
    }
    call.echo = members.Flag("echo", false);
    if (!members.Text("suffix").empty()) Invalid("suffix", "\"suffix\" is not supported");
    const int64_t n = members.Int("n", 1, 1, limits.choices);
    if (members.Int("best_of", n, 1, limits.choices) != n)
      Invalid("best_of", "\"best_of\" other than n is not supported");
  }
  call.n = static_cast<int32_t>(members.Int("n", 1, 1, limits.choices));
  constexpr int64_t kMost = int64_t{1} << 40;
  for (const char* key : {"max_tokens", "max_completion_tokens"}) {
    if (const int64_t most = members.Int(key, -1, 0, kMost); most >= 0) call.max_tokens = most;
  }
  SamplerOptions& s = call.sampler;
  s.temperature = members.Number("temperature", 1, 0, 100);
  s.top_p = members.Number("top_p", 1, 0, 1);
  if (s.top_p == 0) {  // the most probable token alone
    s.top_p = 1;
    s.temperature = 0;
  }
  s.top_k = static_cast<int32_t>(std::max<int64_t>(0, members.Int("top_k", 0, -1, INT32_MAX)));
  s.min_p = members.Number("min_p", 0, 0, 1);
  s.repeat_penalty = members.Number("repetition_penalty", members.Number("repeat_penalty", 1, 1e-3, 1e3), 1e-3, 1e3);
  s.frequency_penalty = members.Number("frequency_penalty", 0, -2, 2);
  s.presence_penalty = members.Number("presence_penalty", 0, -2, 2);
  call.seeded = members.Find("seed") != nullptr;
  s.seed = static_cast<uint64_t>(members.Int("seed", 0, INT64_MIN, INT64_MAX));
  Bias(members, vocab, &s);
  call.stops = Stops(members);
  call.stream = members.Flag("stream", false);
  if (const Json* options = members.Find("stream_options"); options != nullptr) {
    if (!options->is_object()) members.Wrong("stream_options", "an object", *options);
    call.include_usage = Members(*options, "stream_options.").Flag("include_usage", false);
  }
  call.progress = members.Flag("return_progress", false);
  call.ignore_eos = members.Flag("ignore_eos", false);
  // What an earlier pass read differs in the last bits from what this one would: seeds give the same text each time.
  call.share = members.Flag("cache_prompt", !call.seeded);
  call.priority = static_cast<int32_t>(members.Int("priority", 0, -1000000, 1000000));
  call.timeout = std::chrono::milliseconds(static_cast<int64_t>(1000 * members.Number("timeout", 0, 0, 1e6)));
  call.format = Format(members);
  Own(members, &call);
  return call;
}

void Choice::AddLogprob(const TokenLogprob& token, bool known) {
  if (call_->logprobs < 0) return;
  const std::string piece = PieceOf(*tokenizer_, token.id);
  const auto number = [](float x) { return std::isfinite(x) ? Json(static_cast<double>(x)) : Json(-9999.0); };
  Json entry = {{"token", Valid(piece)}, {"logprob", known ? number(token.logprob) : Json()}, {"offset", offset_}};
  if (call_->chat) {
    const auto bytes = [](std::string_view text) {
      Json list = Json::array();
      for (const char c : text) list.push_back(static_cast<unsigned char>(c));
      return list;
    };
    entry["bytes"] = bytes(piece);
    Json top = Json::array();
    for (const auto& [id, logprob] : token.top) {
      const std::string other = PieceOf(*tokenizer_, id);
      top.push_back({{"token", Valid(other)}, {"logprob", number(logprob)}, {"bytes", bytes(other)}});
    }
    entry["top"] = std::move(top);
  } else {
    Json top = known ? Json::object() : Json();
    const auto put = [&](int32_t id, float logprob) {
      const std::string key = Valid(PieceOf(*tokenizer_, id));
      if (!top.contains(key) || top[key].get<double>() < static_cast<double>(logprob)) top[key] = number(logprob);
    };
    if (known) {
      for (const auto& [id, logprob] : token.top) put(id, logprob);
      put(token.id, token.logprob);
    }
    entry["top"] = std::move(top);
  }
  offset_ += CodePoints(Valid(piece));
  pending_.push_back(std::move(entry));
}

/// The log-probabilities that wait, in the shape of the API.
Json Choice::Logprobs() {
  if (call_->logprobs < 0) return nullptr;
  const Json taken = std::exchange(pending_, Json::array());
  for (const Json& entry : taken) all_.push_back(entry);
  if (call_->chat) {
    Json content = Json::array();
    for (const Json& e : taken) {
      content.push_back(
          {{"token", e["token"]}, {"logprob", e["logprob"]}, {"bytes", e["bytes"]}, {"top_logprobs", e["top"]}});
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }
  Json result = {{"tokens", Json::array()},
                 {"token_logprobs", Json::array()},
                 {"top_logprobs", Json::array()},
                 {"text_offset", Json::array()}};
  for (const Json& e : taken) {
    result["tokens"].push_back(e["token"]);
    result["token_logprobs"].push_back(e["logprob"]);
    result["top_logprobs"].push_back(e["top"]);
    result["text_offset"].push_back(e["offset"]);
  }
  return result;
}

Json Choice::Piece(const std::string& text, std::string_view finish) {
  Json piece = {{"index", index_}};
  if (call_->chat) {
    Json delta = Json::object();
    if (!begun_) delta["role"] = "assistant";
    if (!begun_ || !text.empty()) delta["content"] = text;
    piece["delta"] = std::move(delta);
  } else {
    piece["text"] = text;
  }
  begun_ = true;
  piece["logprobs"] = Logprobs();
  piece["finish_reason"] = finish.empty() ? Json() : Json(finish);
  return piece;
}

std::optional<Json> Choice::Take(const Event& event) {
  switch (event.kind) {
    case Event::Kind::kStart:
      if (call_->echo) text_ = prompt_text_;
      if (call_->chat) return Piece("", "");
      if (!call_->echo || call_->logprobs >= 0) return std::nullopt;
      return Piece(prompt_text_, "");
    case Event::Kind::kPromptToken:
      if (call_->echo) AddLogprob(event.token, pending_.size() + all_.size() > 0);
      return std::nullopt;
    case Event::Kind::kToken: {
      const bool first = !begun_;
      AddLogprob(event.token, true);
      text_ += event.text;
      if (call_->tools()) return std::nullopt;  // told whole: it may be a call
      if (event.text.empty() && call_->logprobs < 0) return std::nullopt;
      return Piece(first && call_->echo && call_->logprobs >= 0 ? prompt_text_ + event.text : event.text, "");
    }
    case Event::Kind::kEnd: {
      const bool first = !begun_;
      text_ += event.text;
      end_ = event;
      ended_ = true;
      if (call_->tools()) return ToolPiece();
      return Piece(first && call_->echo ? prompt_text_ + event.text : event.text, FinishReason(event.stop));
    }
    default:
      return std::nullopt;
  }
}

/// The last piece of a stream where tools may be called: everything.
Json Choice::ToolPiece() {
  ToolCalls found = FindToolCalls(text_);
  const bool calls = !found.calls.empty();
  Json piece = Piece(found.content, calls ? "tool_calls" : FinishReason(end_.stop));
  for (size_t i = 0; i < found.calls.size(); ++i) {
    Json call = {{"index", i}};
    call.update(found.calls[i]);
    piece["delta"]["tool_calls"].push_back(std::move(call));
  }
  return piece;
}

Json Choice::Whole() const {
  Choice copy = *this;
  copy.pending_ = all_;
  for (const Json& entry : pending_) copy.pending_.push_back(entry);
  copy.all_ = Json::array();
  Json choice = {{"index", index_}};
  std::string_view finish = FinishReason(end_.stop);
  if (call_->chat) {
    Json message = {{"role", "assistant"}, {"content", text_}, {"refusal", nullptr}};
    if (call_->tools()) {
      ToolCalls found = FindToolCalls(text_);
      if (!found.calls.empty()) {
        message["content"] = found.content.empty() ? Json() : Json(found.content);
        message["tool_calls"] = std::move(found.calls);
        finish = "tool_calls";
      }
    }
    choice["message"] = std::move(message);
  } else {
    choice["text"] = text_;
  }
  choice["logprobs"] = copy.Logprobs();
  choice["finish_reason"] = finish;
  return choice;
}

Json Frame::Json(const Call& call, bool chunk, nlohmann::ordered_json choices) const {
  const char* object = !call.chat ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
  return {{"id", id},
          {"object", object},
          {"created", created},
          {"model", model},
          {"system_fingerprint", nullptr},
          {"choices", std::move(choices)}};
}

void Usage::Add(const Event& end) {
  prompt_tokens += end.prompt_tokens;
  new_tokens += end.new_tokens;
  cached_tokens += end.cached_tokens;
  kept_tokens += end.kept_tokens;
  evicted_tokens += end.evicted_tokens;
  kv_bytes += end.kv_bytes;
  prompt_seconds += end.prompt_seconds;
  decode_seconds += end.decode_seconds;
}

Json Usage::Json(const std::string& cache) const {
  return {{"prompt_tokens", prompt_tokens},
          {"completion_tokens", new_tokens},
          {"total_tokens", prompt_tokens + new_tokens},
          {"prompt_tokens_details", {{"cached_tokens", cached_tokens}}},
          {"hawser",
           {{"cache", cache},
            {"kept_tokens", kept_tokens},
            {"evicted_tokens", evicted_tokens},
            {"kv_bytes", kv_bytes},
            {"prompt_seconds", prompt_seconds},
            {"decode_seconds", decode_seconds}}}};
}

std::string Dump(const Json& json) { return json.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string ServerSentEvent(const Json& json) { return "data: " + Dump(json) + "\n\n"; }

bool KeyMatches(std::string_view authorization, std::string_view key) {
  constexpr std::string_view kBearer = "Bearer ";
  if (!authorization.starts_with(kBearer)) return false;
  authorization.remove_prefix(kBearer.size());
  size_t different = authorization.size() ^ key.size();
  for (size_t i = 0; i < authorization.size(); ++i) {
    different |= static_cast<unsigned char>(authorization[i]) ^
                 static_cast<unsigned char>(key[i % std::max<size_t>(1, key.size())]);
  }
  return different == 0;
}

}  // namespace hawser
