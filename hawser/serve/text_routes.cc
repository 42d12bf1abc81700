// The routes between text and tokens.
#include <fmt/format.h>

#include <initializer_list>
#include <optional>
#include <utility>

#include "hawser/serve/service_impl.h"
#include "hawser/tok/bos.h"

namespace hawser {

jinja::Text Service::Impl::Rendered(const Call& call) const {
  if (chat_template == nullptr) {
    throw ApiError(400, "invalid_request_error", "this model brings no chat template; use /v1/completions", "messages");
  }
  if (!call.continues) return chat_template->Render(call.messages, call.answers, call.template_values);
  // The text ends behind what the last message says, as it is: templates may cut blanks, or more, from its end.
  constexpr std::string_view kLast = "hawser-last-message";
  Json messages = call.messages;
  if (messages.back()["content"].is_null()) messages.back()["content"] = "";
  const std::string last = std::exchange(messages.back()["content"], kLast);
  const jinja::Text text = chat_template->Render(messages, /*answer=*/false, call.template_values);
  const size_t at = text.bytes().rfind(kLast);
  if (at == std::string::npos) {
    throw ApiError(400, "invalid_request_error", "the template does not show the last message",
                   "continue_final_message");
  }
  jinja::Text begun = text.Part(0, at);
  begun.Append(last, '\1');
  return begun;
}

std::vector<int32_t> Service::Impl::TalkIds(const Call& call) const {
  const jinja::Text text = Rendered(call);
  return chat_template->Encode(text);
}

void Service::Impl::Tokenize(const WebRequest& request, const ReplyPtr& reply) {
  const Json body = Body(request);
  if (!body.is_object()) throw ApiError(400, "invalid_request_error", "the body must be a JSON object");
  const auto flag = [&](std::initializer_list<const char*> names, bool fallback) {
    std::optional<bool> given;  // by the first name of several
    for (const char* key : names) {
      if (!body.contains(key) || body[key].is_null()) continue;
      if (!body[key].is_boolean()) {
        throw ApiError(400, "invalid_request_error", fmt::format("\"{}\" must be true or false", key), key);
      }
      if (!given) given = body[key].get<bool>();
    }
    return given.value_or(fallback);
  };
  // llama.cpp's dialect (content) adds nothing unless asked, vLLM's (prompt) does unless told not to.
  const bool special = flag({"add_special", "add_special_tokens"}, body.contains("prompt"));
  const bool parse = flag({"parse_special"}, true);
  const bool pieces = flag({"with_pieces"}, false), strings = flag({"return_token_strs"}, false);
  if (body.contains("content") + body.contains("prompt") + body.contains("messages") > 1) {
    throw ApiError(400, "invalid_request_error", "give one of \"content\", \"prompt\" and \"messages\"");
  }
  std::string text;
  std::vector<int32_t> ids;
  if (body.contains("messages")) {
    ids = TalkIds(ParseCall(body, /*chat=*/true, options.limits, vocab()));
  } else {
    const char* key = body.contains("content") ? "content" : "prompt";
    if (!body.contains(key) || !body[key].is_string()) {
      throw ApiError(400, "invalid_request_error", "give the text as \"content\" or as \"prompt\"", key);
    }
    text = body[key].get<std::string>();
    if (special) ids = TextPrefix(tokenizer, options.bos);
    const auto of_text = tokenizer.Encode(text, parse);
    ids.insert(ids.end(), of_text.begin(), of_text.end());
  }
  Json json = {{"tokens", ids}, {"count", ids.size()}, {"max_model_len", context()}};
  if (pieces || strings) json["token_strs"] = Json::array();
  if (pieces) json["tokens"] = Json::array();
  for (const int32_t id : ids) {
    if (pieces) json["tokens"].push_back({{"id", id}, {"piece", tokenizer.Piece(id)}});
    if (pieces || strings) json["token_strs"].push_back(tokenizer.Display(id));
  }
  replies.Json(*reply, json);
}

void Service::Impl::Detokenize(const WebRequest& request, const ReplyPtr& reply) {
  const Json body = Body(request);
  if (!body.is_object() || !body.contains("tokens") || !body["tokens"].is_array()) {
    throw ApiError(400, "invalid_request_error", "give the ids as a list \"tokens\"", "tokens");
  }
  const std::vector<int32_t> ids = ParseTokenIds(body["tokens"], "tokens", tokenizer.vocab_size());
  const std::string text = tokenizer.Decode(ids, /*at_start=*/false);
  replies.Json(*reply, {{"content", text}, {"prompt", text}});
}

void Service::Impl::TokenizerInfo(const WebRequest&, const ReplyPtr& reply) {
  const auto token = [&](int32_t id) { return id < 0 ? Json() : Json(tokenizer.Display(id)); };
  replies.Json(*reply, {{"tokenizer_class", tokenizer.Kind()},
                        {"vocab_size", tokenizer.vocab_size()},
                        {"bos_token", token(tokenizer.bos())},
                        {"eos_token", token(tokenizer.eos())},
                        {"pad_token", token(tokenizer.eos())},
                        {"chat_template", chat_template != nullptr ? Json(tokenizer.chat_template()) : Json()}});
}

void Service::Impl::ApplyTemplate(const WebRequest& request, const ReplyPtr& reply) {
  const Call call = ParseCall(Body(request), /*chat=*/true, options.limits, vocab());
  replies.Json(*reply, {{"prompt", Rendered(call).bytes()}});
}

}  // namespace hawser
