// The routes between text and tokens.
#include <fmt/format.h>

#include "hawser/serve/service_impl.h"
#include "hawser/tok/bos.h"

namespace hawser {

jinja::Text Service::Impl::Rendered(const Call& call) const {
  if (chat_template == nullptr) {
    throw ApiError(400, "invalid_request_error", "this model brings no chat template; use /v1/completions", "messages");
  }
  if (!call.continues) return chat_template->Render(call.messages, /*answer=*/true, call.template_values);
  // The text ends behind what the last message says.
  const std::string last = call.messages.back()["content"];
  const jinja::Text text = chat_template->Render(call.messages, /*answer=*/false, call.template_values);
  const size_t at = last.empty() ? std::string::npos : text.bytes().rfind(last);
  if (at == std::string::npos) {
    throw ApiError(400, "invalid_request_error", "the template does not show the last message as it is",
                   "continue_final_message");
  }
  return text.Part(0, at + last.size());
}

std::vector<int32_t> Service::Impl::TalkIds(const Call& call) const {
  const jinja::Text text = Rendered(call);
  return chat_template->Encode(text);
}

void Service::Impl::Tokenize(const WebRequest& request, const ReplyPtr& reply) {
  const Json body = Body(request);
  if (!body.is_object()) throw ApiError(400, "invalid_request_error", "the body must be a JSON object");
  const auto flag = [&](const char* a, const char* b, bool fallback) {
    for (const char* key : {a, b}) {
      if (!body.contains(key) || body[key].is_null()) continue;
      if (!body[key].is_boolean())
        throw ApiError(400, "invalid_request_error", fmt::format("\"{}\" must be true or false", key), key);
      return body[key].get<bool>();
    }
    return fallback;
  };
  std::string text;
  std::vector<int32_t> ids;
  if (body.contains("messages")) {
    ids = TalkIds(ParseCall(body, /*chat=*/true, {}, vocab()));
  } else {
    const char* key = body.contains("content") ? "content" : "prompt";
    if (!body.contains(key) || !body[key].is_string()) {
      throw ApiError(400, "invalid_request_error", "give the text as \"content\" or as \"prompt\"", key);
    }
    text = body[key].get<std::string>();
    // llama.cpp's dialect (content) adds nothing unless asked, vLLM's (prompt) does unless told not to.
    const bool special = flag("add_special", "add_special_tokens", body.contains("prompt"));
    if (special) ids = TextPrefix(tokenizer, options.bos);
    const auto of_text = tokenizer.Encode(text, flag("parse_special", "parse_special", true));
    ids.insert(ids.end(), of_text.begin(), of_text.end());
  }
  Json json = {{"tokens", ids}, {"count", ids.size()}, {"max_model_len", context()}};
  if (flag("with_pieces", "return_token_strs", false)) {
    json["tokens"] = body.contains("with_pieces") ? Json::array() : json["tokens"];
    json["token_strs"] = Json::array();
    for (const int32_t id : ids) {
      if (body.contains("with_pieces")) json["tokens"].push_back({{"id", id}, {"piece", tokenizer.Piece(id)}});
      json["token_strs"].push_back(tokenizer.Display(id));
    }
  }
  replies.Json(*reply, json);
}

void Service::Impl::Detokenize(const WebRequest& request, const ReplyPtr& reply) {
  const Json body = Body(request);
  if (!body.is_object() || !body.contains("tokens") || !body["tokens"].is_array()) {
    throw ApiError(400, "invalid_request_error", "give the ids as a list \"tokens\"", "tokens");
  }
  std::vector<int32_t> ids;
  for (const Json& id : body["tokens"]) {
    if (!id.is_number_integer() || id < 0 || id >= tokenizer.vocab_size()) {
      throw ApiError(400, "invalid_request_error",
                     fmt::format("\"tokens\" holds something that is no token id; the model has ids 0 to {}",
                                 tokenizer.vocab_size() - 1),
                     "tokens");
    }
    ids.push_back(id.get<int32_t>());
  }
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
  const Call call = ParseCall(Body(request), /*chat=*/true, {}, vocab());
  replies.Json(*reply, {{"prompt", Rendered(call).bytes()}});
}

}  // namespace hawser
