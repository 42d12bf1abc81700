#include "hawser/serve/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <ctime>
#include <mutex>
#include <random>
#include <thread>

#include "hawser/base/origin.h"
#include "hawser/base/progress.h"
#include "hawser/infer/generation.h"
#include "hawser/io/ordered_json.h"
#include "hawser/model/places.h"
#include "hawser/serve/page.h"
#include "hawser/tok/chat_template.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr const char* kJson = "application/json";
constexpr int64_t kMostShown = 1 << 16;  // tokens of a cache that are shown

/// Counts of durations, as Prometheus wants them.
class Histogram {
 public:
  void Add(double seconds) {
    const std::lock_guard lock(mutex_);
    for (size_t i = 0; i < kBounds.size(); ++i) counts_[i] += seconds <= kBounds[i];
    ++count_;
    sum_ += seconds;
  }
  std::string Text(std::string_view name, std::string_view help) const {
    const std::lock_guard lock(mutex_);
    std::string text = fmt::format("# HELP {0} {1}\n# TYPE {0} histogram\n", name, help);
    for (size_t i = 0; i < kBounds.size(); ++i) {
      text += fmt::format("{}_bucket{{le=\"{}\"}} {}\n", name, kBounds[i], counts_[i]);
    }
    return text + fmt::format("{0}_bucket{{le=\"+Inf\"}} {1}\n{0}_sum {2}\n{0}_count {1}\n", name, count_, sum_);
  }

 private:
  static constexpr std::array<double, 12> kBounds = {0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 20, 60};
  mutable std::mutex mutex_;
  std::array<int64_t, kBounds.size()> counts_ = {};
  int64_t count_ = 0;
  double sum_ = 0;
};

std::string RandomName(std::string_view prefix) {
  thread_local std::mt19937_64 random{std::random_device{}()};
  return fmt::format("{}{:016x}{:08x}", prefix, random(), static_cast<uint32_t>(random()));
}

}  // namespace

struct Service::Impl {
  const ModelToRun& run;
  ServiceOptions options;
  Decoder decoder;
  const Tokenizer& tokenizer;
  std::unique_ptr<ChatTemplate> chat_template;  // null: the model brings none
  Scheduler scheduler;
  std::unique_ptr<WebServer> web;
  std::thread engine;
  std::atomic<bool> ends = false;
  int64_t created = std::time(nullptr);
  Histogram first_token, between_tokens;
  std::atomic<double> prompt_rate = 0, decode_rate = 0;
  std::mutex counts_mutex;
  std::map<int, int64_t> counts;  // of answers, by status

  Impl(const ModelToRun* r, Backend* backend, ServiceOptions o)
      : run(*r),
        options(std::move(o)),
        decoder(backend, r->weights),
        tokenizer(*r->model.tokenizer),
        scheduler(backend, &decoder, &tokenizer, r->weights.dtype(), options.scheduler) {
    if (!tokenizer.chat_template().empty()) {
      try {
        chat_template = std::make_unique<ChatTemplate>(tokenizer);
      } catch (const Error& error) {
        LogLine(fmt::format("note: the model's chat template cannot be used: {}", error.what()));
      }
    }
  }

  int64_t context() const { return options.scheduler.context; }

  class Answer;
  using Route = void (Impl::*)(const WebRequest&, const std::shared_ptr<WebReply>&);
  struct RouteRow {
    const char* path;
    const char* method;
    Route handle;
  };
  static const std::vector<RouteRow>& Routes();

  void Handle(const WebRequest& request, const std::shared_ptr<WebReply>& reply);
  void Refuse(const std::shared_ptr<WebReply>& reply, const ApiError& error);
  void Reply(const std::shared_ptr<WebReply>& reply, const Json& json) { Send(reply, 200, kJson, Dump(json)); }
  void Send(const std::shared_ptr<WebReply>& reply, int status, std::string_view type, std::string body,
            WebReply::Headers headers = {}) {
    Count(status);
    AddCommon(&headers);
    reply->Send(status, type, std::move(body), headers);
  }
  void AddCommon(WebReply::Headers* headers) const {
    headers->emplace_back("X-Content-Type-Options", "nosniff");
    if (options.cors.empty()) return;
    headers->emplace_back("Access-Control-Allow-Origin", options.cors);
    headers->emplace_back("Vary", "Origin");
  }
  void Count(int status) {
    const std::lock_guard lock(counts_mutex);
    ++counts[status];
  }

  static Json Body(const WebRequest& request);
  void Models(const WebRequest&, const std::shared_ptr<WebReply>& reply);
  void Completions(const WebRequest& request, const std::shared_ptr<WebReply>& reply);
  void Chat(const WebRequest& request, const std::shared_ptr<WebReply>& reply);
  void Health(const WebRequest&, const std::shared_ptr<WebReply>& reply);
  void Metrics(const WebRequest&, const std::shared_ptr<WebReply>& reply);
  void Tokenize(const WebRequest& request, const std::shared_ptr<WebReply>& reply);
  void Detokenize(const WebRequest& request, const std::shared_ptr<WebReply>& reply);
  void TokenizerInfo(const WebRequest&, const std::shared_ptr<WebReply>& reply);
  void ApplyTemplate(const WebRequest& request, const std::shared_ptr<WebReply>& reply);
  void Props(const WebRequest&, const std::shared_ptr<WebReply>& reply);
  void Slots(const WebRequest&, const std::shared_ptr<WebReply>& reply);
  void Page(const WebRequest&, const std::shared_ptr<WebReply>& reply);

  jinja::Text Rendered(const Call& call) const;
  void Serve(Call call, std::vector<std::vector<int32_t>> prompts, const std::vector<std::string>& texts,
             const std::shared_ptr<WebReply>& reply);
  Json ModelJson() const;
};

/// One answer: gathers the events of its choices and tells them.
class Service::Impl::Answer : public std::enable_shared_from_this<Service::Impl::Answer> {
 public:
  Answer(Impl* service, Call call, Frame frame, std::shared_ptr<WebReply> reply)
      : s_(service), call_(std::move(call)), frame_(std::move(frame)), reply_(std::move(reply)) {}

  const Call& call() const { return call_; }
  void AddChoice(std::string prompt_text) {
    choices_.emplace_back(&call_, &s_->tokenizer, static_cast<int32_t>(choices_.size()), std::move(prompt_text));
  }
  void SetCache(std::string text) { cache_ = std::move(text); }
  void Submitted(uint64_t id) {
    const std::lock_guard lock(mutex_);
    ids_.push_back(id);
  }
  void CancelAll() {
    std::vector<uint64_t> ids;
    {
      const std::lock_guard lock(mutex_);
      over_ = true;
      ids = ids_;
    }
    for (const uint64_t id : ids) s_->scheduler.Cancel(id);
  }
  void Watch() {
    reply_->OnGone([self = weak_from_this()] {
      if (const auto answer = self.lock()) answer->CancelAll();
    });
  }

  /// On the engine's thread.
  bool Take(size_t index, const Event& event) {
    const std::lock_guard lock(mutex_);
    if (over_ || reply_->gone()) return false;
    const auto now = Clock::now();
    switch (event.kind) {
      case Event::Kind::kError:
        return TakeError(*event.error);
      case Event::Kind::kProgress:
        if (call_.stream) {
          Open();
          Json chunk = frame_.Json(call_, true, Json::array());
          chunk["prompt_progress"] = {
              {"total", event.prompt_tokens},
              {"cache", event.cached_tokens},
              {"processed", event.read_tokens},
              {"time_ms", std::chrono::duration_cast<std::chrono::milliseconds>(now - begun_).count()}};
          return reply_->Write(ServerSentEvent(chunk));
        }
        return true;
      case Event::Kind::kToken:
        if (last_ == Clock::time_point{}) {
          s_->first_token.Add(std::chrono::duration<double>(now - begun_).count());
        } else {
          s_->between_tokens.Add(std::chrono::duration<double>(now - last_).count());
        }
        last_ = now;
        break;
      case Event::Kind::kEnd:
        usage_.Add(event);
        if (event.prompt_seconds > 0) {
          s_->prompt_rate = static_cast<double>(event.prompt_tokens - event.cached_tokens) / event.prompt_seconds;
        }
        if (event.decode_seconds > 0) s_->decode_rate = static_cast<double>(event.new_tokens) / event.decode_seconds;
        if (call_.show_cache) view_ = View(event);
        break;
      default:
        break;
    }
    const auto piece = choices_[index].Take(event);
    bool listens = true;
    if (call_.stream && piece) {
      Open();
      Json chunk = frame_.Json(call_, true, Json::array({*piece}));
      if (call_.include_usage) chunk["usage"] = nullptr;
      listens = reply_->Write(ServerSentEvent(chunk));
    }
    const bool all = std::ranges::all_of(choices_, &Choice::ended);
    if (listens && all) Complete();
    return listens && !over_;
  }

 private:
  void Open() {
    if (open_) return;
    open_ = true;
    s_->Count(200);
    WebReply::Headers headers = {{"Cache-Control", "no-cache"}};
    s_->AddCommon(&headers);
    reply_->Begin(200, "text/event-stream; charset=utf-8", headers);
  }
  bool TakeError(const Error& error) {
    over_ = true;
    const bool leaves = error.kind() == ErrorKind::kIo;
    const ApiError answer(leaves ? 503 : 500, leaves ? "unavailable_error" : "server_error", error.what());
    if (open_) {
      reply_->Write("data: " + answer.Body() + "\n\n");
      reply_->End();
    } else {
      s_->Refuse(reply_, answer);
    }
    return false;
  }
  /// What the cache still holds, word for word.
  Json View(const Event& event) const {
    Json tokens = Json::array();
    const size_t first = event.seen.size() - std::min<size_t>(event.seen.size(), kMostShown);
    TextStream stream({});
    for (size_t i = first; i < event.seen.size(); ++i) {
      const int32_t id = event.seen[i];
      std::string piece = id < s_->tokenizer.vocab_size() ? s_->tokenizer.Piece(id) : "";
      if (piece.empty()) piece = s_->tokenizer.Display(id);
      tokens.push_back(stream.Push(piece));
    }
    return {{"first", first}, {"tokens", std::move(tokens)}, {"held", event.held.substr(first)}};
  }
  void Complete() {
    over_ = true;
    Json usage = usage_.Json(cache_);
    if (!view_.is_null()) usage["hawser"]["view"] = view_;
    if (!call_.stream) {
      Json list = Json::array();
      for (const Choice& choice : choices_) list.push_back(choice.Whole());
      Json json = frame_.Json(call_, false, std::move(list));
      json["usage"] = std::move(usage);
      s_->Reply(reply_, json);
      return;
    }
    if (call_.include_usage || call_.show_cache) {
      Json chunk = frame_.Json(call_, true, Json::array());
      chunk["usage"] = std::move(usage);
      reply_->Write(ServerSentEvent(chunk));
    }
    reply_->Write("data: [DONE]\n\n");
    reply_->End();
  }

  Impl* s_;
  const Call call_;
  const Frame frame_;
  std::shared_ptr<WebReply> reply_;
  std::vector<Choice> choices_;
  std::string cache_;
  std::mutex mutex_;  // of what follows
  std::vector<uint64_t> ids_;
  Usage usage_;
  Json view_;
  bool open_ = false, over_ = false;
  Clock::time_point begun_ = Clock::now(), last_;
};

const std::vector<Service::Impl::RouteRow>& Service::Impl::Routes() {
  static const std::vector<RouteRow> rows = {{"/v1/models", "GET", &Impl::Models},
                                             {"/v1/completions", "POST", &Impl::Completions},
                                             {"/v1/chat/completions", "POST", &Impl::Chat},
                                             {"/health", "GET", &Impl::Health},
                                             {"/v1/health", "GET", &Impl::Health},
                                             {"/metrics", "GET", &Impl::Metrics},
                                             {"/tokenize", "POST", &Impl::Tokenize},
                                             {"/detokenize", "POST", &Impl::Detokenize},
                                             {"/tokenizer_info", "GET", &Impl::TokenizerInfo},
                                             {"/apply-template", "POST", &Impl::ApplyTemplate},
                                             {"/props", "GET", &Impl::Props},
                                             {"/slots", "GET", &Impl::Slots},
                                             {"/", "GET", &Impl::Page}};
  return rows;
}

void Service::Impl::Refuse(const std::shared_ptr<WebReply>& reply, const ApiError& error) {
  WebReply::Headers headers;
  if (error.status() == 429 || error.status() == 503) headers.emplace_back("Retry-After", "1");
  Send(reply, error.status(), kJson, error.Body(), std::move(headers));
}

void Service::Impl::Handle(const WebRequest& request, const std::shared_ptr<WebReply>& reply) {
  try {
    std::string path = request.path;
    if (path.size() > 1 && path.ends_with('/')) path.pop_back();
    std::vector<std::string> methods;
    const RouteRow* route = nullptr;
    for (const RouteRow& row : Routes()) {
      const bool matches = path == row.path || (path.starts_with("/v1/models/") && row.handle == &Impl::Models);
      if (!matches) continue;
      methods.emplace_back(row.method);
      const bool head = request.method == "HEAD" && std::string_view(row.method) == "GET";
      if (request.method == row.method || head) route = &row;
    }
    if (methods.empty()) throw ErrorOfStatus(404);
    if (request.method == "OPTIONS") {
      WebReply::Headers headers = {{"Allow", methods.front() + ", OPTIONS"}};
      if (!options.cors.empty()) {
        headers.emplace_back("Access-Control-Allow-Methods", methods.front() + ", OPTIONS");
        headers.emplace_back("Access-Control-Allow-Headers", "authorization, content-type");
        headers.emplace_back("Access-Control-Max-Age", "600");
      }
      return Send(reply, 204, kJson, "", std::move(headers));
    }
    if (route == nullptr) {
      const ApiError error = ErrorOfStatus(405);
      return Send(reply, 405, kJson, error.Body(), {{"Allow", methods.front() + ", OPTIONS"}});
    }
    const bool open = route->handle == &Impl::Health || route->handle == &Impl::Page;
    if (!options.api_key.empty() && !open && !KeyMatches(request.Header("authorization"), options.api_key)) {
      throw ErrorOfStatus(401);
    }
    (this->*route->handle)(request, reply);
  } catch (const ApiError& error) {
    Refuse(reply, error);
  } catch (const Error& error) {
    // What we say of a request is meant for its sender; the rest is not.
    const bool theirs = error.kind() == ErrorKind::kUsage || error.kind() == ErrorKind::kFormat ||
                        error.kind() == ErrorKind::kUnsupported;
    if (!theirs) LogLine(fmt::format("{} {}: {}", request.method, request.path, error.what()));
    Refuse(reply, theirs ? ApiError(400, "invalid_request_error", error.what())
                         : ErrorOfStatus(error.kind() == ErrorKind::kIo ? 503 : 500));
  }
}

Json Service::Impl::Body(const WebRequest& request) {
  std::string type = request.Header("content-type").substr(0, request.Header("content-type").find(';'));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  std::ranges::transform(type, type.begin(), [](unsigned char c) { return std::tolower(c); });
  if (!type.empty() && type != kJson) throw ErrorOfStatus(415);
  try {
    return ParseOrderedJson(request.body);
  } catch (const Error& error) {
    throw ApiError(400, "invalid_request_error", fmt::format("the body: {}", error.what()));
  }
}

Json Service::Impl::ModelJson() const {
  return {{"id", options.name},
          {"object", "model"},
          {"created", created},
          {"owned_by", "hawser"},
          {"meta",
           {{"n_ctx", context()},
            {"n_params", NumParameters(run.weights.spec())},
            {"vocab", run.weights.spec().vocab},
            {"dtype", Name(run.weights.dtype())}}}};
}

void Service::Impl::Models(const WebRequest& request, const std::shared_ptr<WebReply>& reply) {
  constexpr std::string_view kPrefix = "/v1/models/";
  if (!request.path.starts_with(kPrefix)) {
    return Reply(reply, {{"object", "list"}, {"data", Json::array({ModelJson()})}});
  }
  if (request.path.substr(kPrefix.size()) != options.name) {
    throw ApiError(404, "not_found_error",
                   fmt::format("there is no model of this name; this server has {}", options.name), "model",
                   "model_not_found");
  }
  Reply(reply, ModelJson());
}

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

void Service::Impl::Completions(const WebRequest& request, const std::shared_ptr<WebReply>& reply) {
  Call call = ParseCall(Body(request), /*chat=*/false, {}, run.weights.spec().vocab);
  std::vector<std::vector<int32_t>> prompts;
  std::vector<std::string> texts;
  for (const Prompt& prompt : call.prompts) {
    if (const auto* text = std::get_if<std::string>(&prompt)) {
      prompts.push_back(PromptIds(*text, tokenizer, /*parse_special=*/true, options.bos));
      texts.push_back(*text);
    } else {
      prompts.push_back(std::get<std::vector<int32_t>>(prompt));
      texts.push_back(tokenizer.Decode(prompts.back()));
    }
    if (prompts.back().empty()) throw ApiError(400, "invalid_request_error", "a prompt has no tokens", "prompt");
  }
  Serve(std::move(call), std::move(prompts), texts, reply);
}

void Service::Impl::Chat(const WebRequest& request, const std::shared_ptr<WebReply>& reply) {
  Call call = ParseCall(Body(request), /*chat=*/true, {}, run.weights.spec().vocab);
  std::vector<int32_t> ids =
      chat_template != nullptr ? chat_template->Encode(Rendered(call)) : (Rendered(call), std::vector<int32_t>());
  if (ids.empty()) throw ApiError(400, "invalid_request_error", "the talk has no tokens", "messages");
  Serve(std::move(call), {std::move(ids)}, {""}, reply);
}

void Service::Impl::Serve(Call call, std::vector<std::vector<int32_t>> prompts, const std::vector<std::string>& texts,
                          const std::shared_ptr<WebReply>& reply) {
  if (options.strict_model && !call.model.empty() && call.model != options.name) {
    throw ApiError(404, "not_found_error",
                   fmt::format("there is no model '{}'; this server has {}", call.model, options.name), "model",
                   "model_not_found");
  }
  KvForm form = call.kv.empty() ? options.scheduler.kv : ParseKvForm(call.kv);
  if (form.kind == KvKind::kFull && options.on_full != OnFull::kError) {
    const auto longest = std::ranges::max_element(prompts, {}, &std::vector<int32_t>::size)->size();
    const int64_t asked = call.max_tokens.value_or(1);
    if (asked > context() - static_cast<int64_t>(longest)) {
      call.kv = options.on_full == OnFull::kShift
                    ? fmt::format("sink:4,{}", context() - 4)
                    : fmt::format("sep-stream:4,{},{},{}", context() / 8, context() / 4, context());
      form = ParseKvForm(call.kv);
    }
  }
  const bool bounded = form.kind != KvKind::kFull;
  std::vector<Request> requests;
  for (const std::vector<int32_t>& prompt : prompts) {
    const auto length = static_cast<int64_t>(prompt.size());
    const int64_t fits = bounded ? INT64_MAX : context() - length;
    const int64_t usual = call.chat ? (bounded ? 4096 : fits) : 16;
    const int64_t wanted = call.max_tokens.value_or(std::max<int64_t>(1, std::min(usual, fits)));
    if (wanted > fits) {
      throw ApiError(400, "invalid_request_error",
                     fmt::format("this model's maximum context length is {} tokens; the prompt has {} and {} more are "
                                 "asked for. Shorten them, or ask for a bounded cache: \"hawser\": {{\"kv\": "
                                 "\"sep-stream:4,64,256,800\"}}",
                                 context(), length, wanted),
                     call.chat ? "messages" : "prompt", "context_length_exceeded");
    }
    Request request{.prompt = prompt,
                    .top_logprobs = call.logprobs,
                    .prompt_logprobs = call.echo && call.logprobs >= 0,
                    .progress = call.progress && call.stream,
                    .priority = call.priority,
                    .timeout = call.timeout,
                    .show_cache = call.show_cache,
                    .share = call.share};
    if (!call.kv.empty()) request.kv = form;
    request.generate.max_new = wanted;
    request.generate.sampler = call.sampler;
    request.generate.stops = call.stops;
    request.generate.end_ids = EndIds(run.weights.spec(), tokenizer);
    request.generate.at_start = call.chat;
    if (call.ignore_eos) request.generate.sampler.never = std::exchange(request.generate.end_ids, {});
    if (!call.seeded) {
      request.generate.sampler.seed = std::random_device{}() | static_cast<uint64_t>(std::random_device{}()) << 32;
    }
    for (int32_t i = 0; i < call.n; ++i) {
      requests.push_back(request);
      ++request.generate.sampler.seed;
    }
  }
  Frame frame{
      .id = RandomName(call.chat ? "chatcmpl-" : "cmpl-"), .model = options.name, .created = std::time(nullptr)};
  const int32_t n = call.n;
  const auto answer = std::make_shared<Answer>(this, std::move(call), std::move(frame), reply);
  answer->SetCache(ToString(form));
  for (size_t i = 0; i < requests.size(); ++i) answer->AddChoice(texts[i / static_cast<size_t>(n)]);
  answer->Watch();
  for (size_t i = 0; i < requests.size(); ++i) {
    uint64_t id = 0;
    try {
      id = scheduler.Submit(std::move(requests[i]), [answer, i](const Event& event) { return answer->Take(i, event); });
    } catch (...) {
      answer->CancelAll();
      throw;
    }
    if (id == 0) {
      answer->CancelAll();
      throw ErrorOfStatus(429);
    }
    answer->Submitted(id);
  }
  if (reply->gone()) answer->CancelAll();
}

void Service::Impl::Health(const WebRequest&, const std::shared_ptr<WebReply>& reply) {
  if (ends) throw ErrorOfStatus(503);
  Reply(reply, {{"status", "ok"}});
}

void Service::Impl::Tokenize(const WebRequest& request, const std::shared_ptr<WebReply>& reply) {
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
    Json with = body;
    const Call call = ParseCall(with, /*chat=*/true, {}, run.weights.spec().vocab);
    ids = chat_template != nullptr ? chat_template->Encode(Rendered(call)) : (Rendered(call), ids);
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
  Reply(reply, json);
}

void Service::Impl::Detokenize(const WebRequest& request, const std::shared_ptr<WebReply>& reply) {
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
  Reply(reply, {{"content", text}, {"prompt", text}});
}

void Service::Impl::TokenizerInfo(const WebRequest&, const std::shared_ptr<WebReply>& reply) {
  const auto token = [&](int32_t id) { return id < 0 ? Json() : Json(tokenizer.Display(id)); };
  Reply(reply, {{"tokenizer_class", tokenizer.Kind()},
                {"vocab_size", tokenizer.vocab_size()},
                {"bos_token", token(tokenizer.bos())},
                {"eos_token", token(tokenizer.eos())},
                {"pad_token", token(tokenizer.eos())},
                {"chat_template", chat_template != nullptr ? Json(tokenizer.chat_template()) : Json()}});
}

void Service::Impl::ApplyTemplate(const WebRequest& request, const std::shared_ptr<WebReply>& reply) {
  const Call call = ParseCall(Body(request), /*chat=*/true, {}, run.weights.spec().vocab);
  Reply(reply, {{"prompt", Rendered(call).bytes()}});
}

void Service::Impl::Props(const WebRequest&, const std::shared_ptr<WebReply>& reply) {
  const SchedulerOptions& o = options.scheduler;
  Reply(reply, {{"model", options.name},
                {"version", Version()},
                {"n_ctx", context()},
                {"total_slots", o.slots},
                {"kv", ToString(o.kv)},
                {"rope", PlacesText(run.weights.spec())},
                {"dtype", Name(run.weights.dtype())},
                {"chat", chat_template != nullptr},
                {"chat_template", tokenizer.chat_template()},
                {"queue", o.queue},
                {"prefix_bytes", o.prefix_bytes}});
}

void Service::Impl::Slots(const WebRequest&, const std::shared_ptr<WebReply>& reply) {
  if (!options.slots) {
    throw ApiError(404, "not_found_error", "this server does not tell its slots; start it with --slots");
  }
  const SchedulerStats stats = scheduler.stats();
  Reply(reply, {{"running", stats.running},
                {"waiting", stats.waiting},
                {"kv_bytes", stats.kv_bytes},
                {"prefix_bytes", stats.prefix_bytes},
                {"total_slots", options.scheduler.slots}});
}

void Service::Impl::Metrics(const WebRequest&, const std::shared_ptr<WebReply>& reply) {
  const SchedulerStats stats = scheduler.stats();
  std::string text;
  const auto add = [&](std::string_view name, std::string_view kind, std::string_view help, auto value,
                       std::string_view labels = "") {
    text += fmt::format("# HELP hawser_{0} {1}\n# TYPE hawser_{0} {2}\nhawser_{0}{3} {4}\n", name, help, kind, labels,
                        value);
  };
  add("prompt_tokens_total", "counter", "Tokens of prompts that were read.", stats.prompt_tokens);
  add("cached_tokens_total", "counter", "Tokens of prompts that were known already.", stats.cached_tokens);
  add("generated_tokens_total", "counter", "Tokens made.", stats.new_tokens);
  add("requests_running", "gauge", "Texts under way.", stats.running);
  add("requests_waiting", "gauge", "Texts that wait.", stats.waiting);
  text += "# HELP hawser_requests_total Answers by status.\n# TYPE hawser_requests_total counter\n";
  {
    const std::lock_guard lock(counts_mutex);
    for (const auto& [status, count] : counts)
      text += fmt::format("hawser_requests_total{{code=\"{}\"}} {}\n", status, count);
  }
  add("prompt_tokens_per_second", "gauge", "Of the last text that ended.", prompt_rate.load());
  add("generated_tokens_per_second", "gauge", "Of the last text that ended.", decode_rate.load());
  const double limit = static_cast<double>(options.scheduler.kv_bytes);
  add("kv_cache_usage_ratio", "gauge", "Keys and values of texts under way, of what is allowed.",
      limit > 0 ? static_cast<double>(stats.kv_bytes) / limit : 0.0);
  add("kv_cache_bytes", "gauge", "Keys and values of texts under way.", stats.kv_bytes,
      fmt::format("{{policy=\"{}\"}}", ToString(options.scheduler.kv)));
  add("kv_evicted_tokens_total", "counter", "Tokens that caches have forgotten.", stats.evicted_tokens);
  add("prefix_cache_bytes", "gauge", "Keys and values kept for prompts to come.", stats.prefix_bytes);
  add("prefix_cache_queries_total", "counter", "Prompts that were looked up.", stats.prefix_queries);
  add("prefix_cache_hits_total", "counter", "Prompts whose beginning was known.", stats.prefix_hits);
  add("connections", "gauge", "Open connections.", web->connections());
  text += first_token.Text("hawser_time_to_first_token_seconds", "From the request to the first token of its answer.");
  text += between_tokens.Text("hawser_inter_token_seconds", "Between tokens of an answer.");
  Send(reply, 200, "text/plain; version=0.0.4; charset=utf-8", std::move(text));
}

void Service::Impl::Page(const WebRequest&, const std::shared_ptr<WebReply>& reply) {
  if (!options.page) throw ErrorOfStatus(404);
  Send(
      reply, 200, "text/html; charset=utf-8", std::string(ChatPage()),
      {{"Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}});
}

Service::Service(const ModelToRun* run, Backend* backend, ServiceOptions options)
    : impl_(std::make_unique<Impl>(run, backend, std::move(options))) {
  Impl* s = impl_.get();
  s->web = std::make_unique<WebServer>(
      s->options.web,
      [s](const WebRequest& request, const std::shared_ptr<WebReply>& reply) { s->Handle(request, reply); },
      [s](int status) {
        s->Count(status);
        return ErrorOfStatus(status).Body();
      });
}

Service::~Service() = default;

uint16_t Service::port() const { return impl_->web->port(); }

void Service::Stop() {
  impl_->ends = true;
  impl_->web->Stop(impl_->options.drain);
}

void Service::Run(bool signals) {
  Impl* s = impl_.get();
  std::atomic<bool> over = false;
  s->engine = std::thread([s, &over] {
    while (!over) {
      if (!s->scheduler.Step()) s->scheduler.Wait(std::chrono::milliseconds(200));
    }
    s->scheduler.EndAll(Error(ErrorKind::kIo, "the server is shutting down"));
  });
  s->web->Run(signals ? std::function<void()>([this] {
    LogLine("stopping: texts under way are finished first");
    Stop();
  })
                      : std::function<void()>());
  over = true;
  s->engine.join();
}

}  // namespace hawser
