// Requests for text, from JSON.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "hawser/serve/members.h"
#include "hawser/serve/openai.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

[[noreturn]] void Invalid(const std::string& param, const std::string& message, const std::string& code = "") {
  throw ApiError(400, "invalid_request_error", message, param, code);
}

std::vector<Prompt> Prompts(const Members& members, const CallLimits& limits, int32_t vocab) {
  const Json* value = members.Find("prompt");
  if (value == nullptr) Invalid("prompt", "\"prompt\" is missing: text, a list of texts, token ids, or lists of them");
  if (value->is_string()) return {value->get<std::string>()};
  if (!value->is_array()) members.Wrong("prompt", "text, a list of texts, token ids, or lists of them", *value);
  if (value->empty()) Invalid("prompt", "\"prompt\" is an empty list");
  if (value->front().is_number()) return {ParseTokenIds(*value, "prompt", vocab)};
  if (value->size() > static_cast<size_t>(limits.prompts)) {
    Invalid("prompt", fmt::format("{} prompts, at most {} are taken at once", value->size(), limits.prompts));
  }
  std::vector<Prompt> prompts;
  for (const Json& one : *value) {
    if (one.type() != value->front().type()) members.Wrong("prompt", "texts alone, or lists of ids alone", *value);
    if (one.is_string()) {
      prompts.emplace_back(one.get<std::string>());
    } else if (one.is_array()) {
      prompts.emplace_back(ParseTokenIds(one, "prompt", vocab));
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
    const bool digits = !key.empty() && key.size() <= 10 && (key[0] != '0' || key == "0") &&
                        std::ranges::all_of(key, [](char c) { return c >= '0' && c <= '9'; });
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
    const Json content = given.value("content", Json());
    // Of a message that calls tools nothing is not the empty text: templates may tell them apart.
    const bool nothing = content.is_null() && given.contains("tool_calls");
    message["content"] = nothing ? Json() : Json(ContentText(content, i));
    messages.push_back(std::move(message));
  }
  return messages;
}

TextFormat SchemaFormat(const Members& members, const char* key, const Json& schema) {
  if (!schema.is_object() && schema != true) members.Wrong(key, "a schema: an object, or true", schema);
  return {TextFormat::Kind::kSchema, Dump(schema), key};
}

TextFormat ResponseFormat(const Members& members, const Json& given) {
  constexpr const char* kKey = "response_format";
  const Members format = members.Inner(kKey);
  const Json* type_of = format.Find("type");
  if (type_of == nullptr || !type_of->is_string()) members.Wrong(kKey, "an object with a type", given);
  const auto type = type_of->get<std::string>();
  if (type == "text") return {};
  if (type != "json_object" && type != "json_schema") {
    Invalid(kKey, fmt::format("\"response_format\" of type {} is not supported; text, json_object and json_schema are",
                              Shown(given["type"])));
  }
  // OpenAI puts the schema one level deeper, llama.cpp takes it beside either type.
  const Json* schema = format.Find("schema");
  if (schema == nullptr) schema = format.Inner("json_schema").Find("schema");
  if (schema != nullptr) return SchemaFormat(members, kKey, *schema);
  if (type == "json_object") return {TextFormat::Kind::kObject, "", kKey};
  Invalid(kKey, "\"response_format\" of type json_schema has no schema in \"json_schema\": {\"schema\": ...}");
}

/// A schema, put under `place` of another one.
Json SchemaAt(const Json& schema, const std::string& place) {
  Json moved = schema;
  if (!moved.is_structured()) return moved;
  for (auto& [key, value] : moved.items()) {
    const bool refers =
        moved.is_object() && key == "$ref" && value.is_string() && value.get<std::string>().starts_with('#');
    value = refers ? Json("#" + place + value.get<std::string>().substr(1)) : SchemaAt(value, place);
  }
  return moved;
}

/// A call of one of these tools, in the form that FindToolCalls takes as a whole text.
Json CallSchema(const std::vector<Json>& tools) {
  Json calls = Json::array();
  for (const Json& tool : tools) {
    const std::string place = fmt::format("/anyOf/{}/properties/arguments", calls.size());
    const Json given = tool.value("parameters", Json());
    const Json none = {{"type", "object"}, {"properties", Json::object()}};
    calls.push_back(
        {{"type", "object"},
         {"properties",
          {{"name", {{"const", tool["name"]}}}, {"arguments", given.empty() ? none : SchemaAt(given, place)}}},
         {"required", {"name", "arguments"}}});
  }
  return {{"anyOf", std::move(calls)}};
}

/// What `tool_choice` makes of the answer: free text, or a call.
TextFormat ToolFormat(const Members& members) {
  constexpr const char* kKey = "tool_choice";
  constexpr const char* kWanted = R"("auto", "none", "required" or {"type": "function", "function": {"name": ...}})";
  const Json* choice = members.Find(kKey);
  if (choice == nullptr || *choice == "auto" || *choice == "none") return {};
  std::string name;
  if (choice->is_object() && choice->value("type", Json()) == "function") {
    const Json function = choice->value("function", Json());
    if (function.is_object() && function.value("name", Json()).is_string()) name = function["name"].get<std::string>();
  }
  if (*choice != "required" && name.empty()) members.Wrong(kKey, kWanted, *choice);
  std::vector<Json> tools;
  if (const Json* given = members.Find("tools"); given != nullptr) {
    for (size_t i = 0; i < given->size(); ++i) {
      const Json tool = (*given)[i].value("function", Json());
      if (!tool.is_object() || !tool.value("name", Json()).is_string()) {
        Invalid("tools", fmt::format("tool {} has no \"function\" with a \"name\"", i));
      }
      if (name.empty() || tool["name"] == name) tools.push_back(tool);
    }
  }
  if (tools.empty()) {
    Invalid(kKey, name.empty() ? "\"tool_choice\" wants \"tools\""
                               : fmt::format("\"tool_choice\": there is no {} among the tools", Shown(name)));
  }
  return {TextFormat::Kind::kSchema, Dump(CallSchema(tools)), kKey};
}

/// What the answer is to be, by the members of several dialects.
TextFormat Format(const Members& members, bool chat) {
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
    take(SchemaFormat(members, "json_schema", *schema));
  }
  if (chat) take(ToolFormat(members));
  return format;
}

void Own(const Members& members, Call* call) {
  const Members inner = members.Inner("hawser");
  call->kv = inner.Text("kv");
  if (const Json* keep = inner.Find("keep"); keep != nullptr) {
    if (!keep->is_number() && !keep->is_string()) inner.Wrong("keep", "a share of the keys or text", *keep);
    call->keep = keep->is_number() ? fmt::format("{}", inner.Number("keep", 1)) : inner.Text("keep");
  }
  if (inner.Find("session") != nullptr) call->session = inner.Text("session");
  call->show_cache = inner.Flag("cache", false);
}

/// What a template is given beside the messages.
void TemplateValues(const Members& members, Call* call) {
  const Json* choice = members.Find("tool_choice");
  if (const Json* tools = members.Find("tools"); tools != nullptr) {
    const bool list = tools->is_array() && std::ranges::all_of(*tools, [](const Json& t) { return t.is_object(); });
    if (!list) members.Wrong("tools", "a list of objects", *tools);
    if (!tools->empty()) call->template_values["tools"] = choice != nullptr && *choice == "none" ? Json() : *tools;
  }
  members.Inner("chat_template_kwargs");
  const Json* more = members.Find("chat_template_kwargs");
  if (more == nullptr) return;
  for (const auto& [key, value] : more->items()) {
    for (const char* own : {"messages", "add_generation_prompt", "tools", "bos_token", "eos_token"}) {
      if (key != own) continue;
      Invalid("chat_template_kwargs", fmt::format("\"chat_template_kwargs\" cannot set \"{}\"", key));
    }
    call->template_values[key] = value;
  }
}

}  // namespace

std::vector<int32_t> ParseTokenIds(const Json& list, const std::string& param, int32_t vocab) {
  std::vector<int32_t> ids;
  for (const Json& value : list) {
    int64_t id = -1;
    if (!ReadWhole(value, &id) || id < 0 || id >= vocab) {
      Invalid(param,
              fmt::format("\"{}\": {} is no token id; the model has ids 0 to {}", param, Shown(value), vocab - 1));
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

Call ParseCall(const Json& body, bool chat, const CallLimits& limits, int32_t vocab) {
  if (!body.is_object()) Invalid("", "the body must be a JSON object");
  const Members members(body, limits);
  Call call{.chat = chat};
  call.model = members.Text("model");
  if (chat) {
    call.messages = Messages(members);
    TemplateValues(members, &call);
    call.answers = members.Flag("add_generation_prompt", true);
    call.continues = members.Flag("continue_final_message", false);
    const int64_t top = members.Whole("top_logprobs", 0);
    if (members.Flag("logprobs", false)) {
      call.logprobs = static_cast<int32_t>(top);
    } else if (top > 0) {
      Invalid("top_logprobs", "\"top_logprobs\" wants \"logprobs\": true");
    }
  } else {
    call.prompts = Prompts(members, limits, vocab);
    if (const Json* wanted = members.Find("logprobs"); wanted != nullptr && wanted->is_boolean()) {
      call.logprobs = members.Flag("logprobs", false) ? 1 : -1;
    } else {
      call.logprobs = static_cast<int32_t>(members.Whole("logprobs", -1));
    }
    call.echo = members.Flag("echo", false);
    const Json* suffix = members.Find("suffix");
    if (suffix != nullptr && *suffix != "") Invalid("suffix", "\"suffix\" is not supported");
    int64_t best = 1;
    if (const Json* given = members.Find("best_of"); given != nullptr && !ReadWhole(*given, &best)) best = 0;
    if (best < 1 || best > members.Whole("n", 1)) Invalid("best_of", "\"best_of\" is supported up to n");
  }
  call.n = static_cast<int32_t>(members.Whole("n", 1));
  for (const char* key : {"max_tokens", "max_completion_tokens"}) {
    if (const int64_t most = members.Whole(key, -1); most >= 0) call.max_tokens = most;
  }
  SamplerOptions& s = call.sampler;
  s.temperature = members.Number("temperature", 1);
  s.top_p = members.Number("top_p", 1);
  if (s.top_p == 0) {  // the most probable token alone
    s.top_p = 1;
    s.temperature = 0;
  }
  s.top_k = static_cast<int32_t>(std::max<int64_t>(0, members.Whole("top_k", 0)));
  s.min_p = members.Number("min_p", 0);
  s.repeat_penalty = members.Number("repetition_penalty", members.Number("repeat_penalty", 1));
  s.frequency_penalty = members.Number("frequency_penalty", 0);
  s.presence_penalty = members.Number("presence_penalty", 0);
  call.seeded = members.Find("seed") != nullptr;
  s.seed = static_cast<uint64_t>(members.Whole("seed", 0));
  Bias(members, vocab, &s);
  call.stops = Stops(members);
  call.stream = members.Flag("stream", false);
  call.include_usage = members.Inner("stream_options").Flag("include_usage", false);
  call.progress = members.Flag("return_progress", false);
  call.ignore_eos = members.Flag("ignore_eos", false);
  // What another text read may differ in the last bits from what this one would: seeds give the same text each time.
  call.share = members.Flag("cache_prompt", !call.seeded);
  call.priority = static_cast<int32_t>(members.Whole("priority", 0));
  call.timeout =
      std::chrono::ceil<std::chrono::milliseconds>(std::chrono::duration<double>(members.Number("timeout", 0)));
  call.format = Format(members, chat);
  Own(members, &call);
  return call;
}

}  // namespace hawser
