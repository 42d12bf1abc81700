#include "hawser/serve/openai.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <new>

#include "hawser/base/out_of_memory.h"
#include "hawser/base/printable.h"
#include "hawser/base/progress.h"
#include "hawser/io/json_text.h"
#include "hawser/serve/random_name.h"
#include "hawser/serve/tool_calls.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

constexpr const char* kInvalid = "invalid_request_error";

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
      return {404, "not_found_error", "there is nothing under this path; /openapi.json lists what there is"};
    case 405:
      return {405, kInvalid, "this path does not know the method"};
    case 413:
      return {413, kInvalid, "the body is larger than this server takes"};
    case 415:
      return {415, kInvalid, "the body must be application/json, as it is and not compressed"};
    case 417:
      return {417, kInvalid, "this server expects nothing but 100-continue"};
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

ApiError OwnFault(const std::exception& what) {
  const std::string name = RandomName("fault-");
  LogLine(fmt::format("{}: {}", name, PrintableLine(what.what())));
  if (dynamic_cast<const std::bad_alloc*>(&what) != nullptr || dynamic_cast<const OutOfMemory*>(&what) != nullptr) {
    return {503, "unavailable_error", "the server has not enough memory for this now"};
  }
  return {500, "server_error",
          fmt::format("something went wrong inside the server; its log tells what under {}", name)};
}

/// What a token adds to the text that is told.
std::string Choice::TextOf(int32_t id, bool of_prompt) {
  const bool known = id >= 0 && id < tokenizer_->vocab_size();
  std::string piece = known ? tokenizer_->Piece(id) : "";
  if (!of_prompt) return piece;
  if (piece.empty() && known) {  // the text may name it
    const std::string name = tokenizer_->Display(id);
    if (std::string_view(prompt_text_).substr(std::min(prompt_at_, prompt_text_.size())).starts_with(name))
      piece = name;
  } else if (offset_ == 0 && !blank_cut_ && tokenizer_->adds_dummy_prefix()) {
    blank_cut_ = true;
    if (piece.starts_with(' ')) piece.erase(0, 1);
  }
  prompt_at_ += piece.size();
  return piece;
}

void Choice::AddLogprob(const TokenLogprob& token, bool of_prompt) {
  if (call_->logprobs < 0) return;
  const bool known = !of_prompt || pending_.size() + all_.size() > 0;  // nothing stands before the first of a prompt
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
  offset_ += CodePoints(told_.Push(TextOf(token.id, of_prompt)));
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

std::vector<Json> Choice::Take(const Event& event) {
  switch (event.kind) {
    case Event::Kind::kStart:
      if (call_->echo) text_ = prompt_text_;
      if (call_->chat) return {Piece("")};
      if (!call_->echo || call_->logprobs >= 0) return {};
      return {Piece(prompt_text_)};
    case Event::Kind::kPromptToken:
      if (call_->echo) AddLogprob(event.token, true);
      return {};
    case Event::Kind::kToken: {
      const bool first = !begun_;
      AddLogprob(event.token, false);
      text_ += event.text;
      if (call_->tools()) return {};  // told whole: it may be a call
      if (event.text.empty() && call_->logprobs < 0) return {};
      return {Piece(first && call_->echo && call_->logprobs >= 0 ? prompt_text_ + event.text : event.text)};
    }
    case Event::Kind::kEnd: {
      const bool first = !begun_;
      text_ += event.text;
      end_ = event;
      ended_ = true;
      std::string_view finish = FinishReason(event.stop);
      if (!call_->chat) return {Piece(first && call_->echo ? prompt_text_ + event.text : event.text, finish)};
      std::vector<Json> pieces;
      if (call_->tools()) {
        pieces.push_back(ToolPiece(&finish));
      } else if (!event.text.empty()) {
        pieces.push_back(Piece(event.text));
      }
      pieces.push_back(Piece("", finish));
      return pieces;
    }
    default:
      return {};
  }
}

/// All of an answer in which tools may be called.
Json Choice::ToolPiece(std::string_view* finish) {
  ToolCalls found = FindToolCalls(text_);
  Json piece = Piece(found.content);
  for (size_t i = 0; i < found.calls.size(); ++i) {
    Json call = {{"index", i}};
    call.update(found.calls[i]);
    piece["delta"]["tool_calls"].push_back(std::move(call));
    *finish = "tool_calls";
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

void Usage::Add(const Event& end, bool first_of_prompt) {
  if (first_of_prompt) {
    prompt_tokens += end.prompt_tokens;
    cached_tokens += end.cached_tokens;
  }
  new_tokens += end.new_tokens;
  kept_tokens += end.kept_tokens;
  evicted_tokens += end.evicted_tokens;
  kv_bytes += end.kv_bytes;
  if (end.indexed_tokens > 0) {
    if (first_of_prompt) indexed_tokens += end.indexed_tokens;
    ++indexed_choices;
    indexed_share += end.indexed_share;
  }
  prompt_seconds += end.prompt_seconds;
  decode_seconds += end.decode_seconds;
}

Json Usage::Json(const std::string& cache) const {
  nlohmann::ordered_json json = {{"prompt_tokens", prompt_tokens},
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
  if (indexed_choices > 0) {
    json["hawser"]["index"] = {{"tokens", indexed_tokens},
                               {"read", indexed_share / static_cast<double>(indexed_choices)}};
  }
  return json;
}

std::string Dump(const Json& json) { return JsonText(json); }

std::string ServerSentEvent(const Json& json) { return "data: " + Dump(json) + "\n\n"; }

bool KeyMatches(std::string_view authorization, std::string_view key) {
  constexpr std::string_view kBearer = "bearer";
  const auto lower = [](unsigned char c) { return static_cast<char>(std::tolower(c)); };
  const size_t blank = authorization.find(' ');
  if (blank == authorization.npos || !std::ranges::equal(authorization.substr(0, blank), kBearer, {}, lower)) {
    return false;
  }
  authorization.remove_prefix(std::min(authorization.find_first_not_of(' ', blank), authorization.size()));
  size_t different = authorization.size() ^ key.size();
  for (size_t i = 0; i < authorization.size(); ++i) {
    different |= static_cast<unsigned char>(authorization[i]) ^
                 static_cast<unsigned char>(key[i % std::max<size_t>(1, key.size())]);
  }
  return different == 0;
}

}  // namespace hawser
