#include "hawser/serve/service.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <exception>
#include <thread>
#include <utility>

#include "hawser/base/origin.h"
#include "hawser/base/out_of_memory.h"
#include "hawser/base/parallel.h"
#include "hawser/base/progress.h"
#include "hawser/model/places.h"
#include "hawser/serve/api_doc.h"
#include "hawser/serve/page.h"
#include "hawser/serve/service_impl.h"

namespace hawser {
namespace {

constexpr const char* kJson = "application/json";

/// Whether a path is one of `pattern`, in which {id} stands for a name and {path} for one that may hold slashes.
bool PathMatches(std::string_view pattern, std::string_view path) {
  const size_t at = pattern.find('{');
  if (at == pattern.npos) return path == pattern;
  const size_t end = pattern.find('}') + 1;
  const std::string_view before = pattern.substr(0, at), behind = pattern.substr(end);
  if (path.size() <= before.size() + behind.size() || !path.starts_with(before) || !path.ends_with(behind))
    return false;
  const std::string_view name = path.substr(at, path.size() - before.size() - behind.size());
  return pattern.substr(at, end - at) == "{path}" || name.find('/') == name.npos;
}

std::string AllowedMethods(const std::vector<std::string>& methods) {
  const bool gets = std::ranges::find(methods, "GET") != methods.end();
  return fmt::format("{}{}, OPTIONS", fmt::join(methods, ", "), gets ? ", HEAD" : "");
}

}  // namespace

Service::Impl::Impl(ServedModel model, Meters* m, const Replies* r, const WebServer* w, const std::atomic<bool>* e)
    : run(*model.run),
      options(std::move(model.options)),
      decoder(model.backend, run.weights),
      tokenizer(*run.model.tokenizer),
      scheduler(model.backend, &decoder, &tokenizer, run.weights.dtype(), options.scheduler),
      formats(&tokenizer),
      meters(*m),
      replies(*r),
      web(*w),
      ends(*e),
      api(ApiDocument(options.limits, std::min(vocab(), tokenizer.vocab_size()), options.scheduler.prefix != nullptr)),
      sessions(&scheduler, &run.weights, options.sessions) {
  if (tokenizer.chat_template().empty()) return;
  try {
    chat_template = std::make_unique<TalkTemplate>(tokenizer);
  } catch (const Error& error) {
    LogLine(fmt::format("note: the model's chat template cannot be used: {}", error.what()));
  }
}

const std::vector<Service::Impl::RouteRow>& Service::Impl::Routes() {
  static const std::vector<RouteRow> rows = {{"/v1/models", "GET", &Impl::Models},
                                             {"/v1/models/{path}", "GET", &Impl::Models},
                                             {"/v1/sessions", "GET", &Impl::ListSessions},
                                             {"/v1/sessions", "POST", &Impl::MakeSession},
                                             {"/v1/sessions/{id}/save", "POST", &Impl::SaveSession},
                                             {"/v1/sessions/{id}", "GET", &Impl::ShowSession},
                                             {"/v1/sessions/{id}", "DELETE", &Impl::DeleteSession},
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
                                             {"/openapi.json", "GET", &Impl::Api},
                                             {"/", "GET", &Impl::Page}};
  return rows;
}

void Service::Impl::Dispatch(const WebRequest& request, const ReplyPtr& reply) {
  std::string path = request.path;
  if (path.size() > 1 && path.ends_with('/')) path.pop_back();
  std::vector<std::string> methods;
  const RouteRow* route = nullptr;
  for (const RouteRow& row : Routes()) {
    if (!PathMatches(row.path, path)) continue;
    methods.emplace_back(row.method);
    const bool head = request.method == "HEAD" && std::string_view(row.method) == "GET";
    if (request.method == row.method || head) route = &row;
  }
  if (methods.empty()) throw ErrorOfStatus(404);
  if (request.method == "OPTIONS") return SendOptions(methods, reply);
  if (route == nullptr) {
    const ApiError error = ErrorOfStatus(405);
    return replies.Send(*reply, 405, kJson, error.Body(), {{"Allow", AllowedMethods(methods)}});
  }
  const bool open = route->handle == &Impl::Health || route->handle == &Impl::Page || route->handle == &Impl::Api;
  if (!options.api_key.empty() && !open && !KeyMatches(request.Header("authorization"), options.api_key)) {
    throw ErrorOfStatus(401);
  }
  (this->*route->handle)(request, reply);
}

void Service::Impl::SendOptions(const std::vector<std::string>& methods, const ReplyPtr& reply) {
  WebReply::Headers headers = {{"Allow", AllowedMethods(methods)}};
  if (replies.crosses_origins()) {
    headers.emplace_back("Access-Control-Allow-Methods", AllowedMethods(methods));
    headers.emplace_back("Access-Control-Allow-Headers", "Authorization, Content-Type, *");
    headers.emplace_back("Access-Control-Max-Age", "600");
  }
  replies.Send(*reply, 204, kJson, "", std::move(headers));
}

Service::Impl::Json Service::Impl::Body(const WebRequest& request) {
  std::string type = request.Header("content-type").substr(0, request.Header("content-type").find(';'));
  while (!type.empty() && type.back() == ' ') type.pop_back();
  std::ranges::transform(type, type.begin(), [](unsigned char c) { return std::tolower(c); });
  const std::string& coding = request.Header("content-encoding");
  if ((!type.empty() && type != kJson) || (!coding.empty() && coding != "identity")) throw ErrorOfStatus(415);
  try {
    return ParseOrderedJson(request.body);
  } catch (const Error& error) {
    throw ApiError(400, "invalid_request_error", fmt::format("the body: {}", error.what()));
  }
}

Service::Impl::Json Service::Impl::ModelJson() const {
  return {{"id", options.name},
          {"object", "model"},
          {"created", created},
          {"owned_by", "hawser"},
          {"meta",
           {{"n_ctx", context()},
            {"n_params", NumParameters(run.weights.spec())},
            {"vocab", vocab()},
            {"dtype", Name(run.weights.dtype())}}}};
}

void Service::Impl::Models(const WebRequest& request, const ReplyPtr& reply) {
  constexpr std::string_view kPrefix = "/v1/models/";
  if (!request.path.starts_with(kPrefix)) {
    return replies.Json(*reply, {{"object", "list"}, {"data", Json::array({ModelJson()})}});
  }
  if (request.path.substr(kPrefix.size()) != options.name) {
    throw ApiError(404, "not_found_error",
                   fmt::format("there is no model of this name; this server has {}", options.name), "model",
                   "model_not_found");
  }
  replies.Json(*reply, ModelJson());
}

void Service::Impl::Health(const WebRequest&, const ReplyPtr& reply) {
  if (ends) throw ErrorOfStatus(503);
  replies.Json(*reply, {{"status", "ok"}});
}

void Service::Impl::Props(const WebRequest&, const ReplyPtr& reply) {
  const SchedulerOptions& o = options.scheduler;
  Json index;
  if (o.prefix != nullptr) {
    const PrefixIndex& of = o.prefix->index();
    index = {{"tokens", of.tokens()},  {"keep", ToString(o.prefix->rule())},
             {"levels", of.levels},    {"stored", Name(of.dtype)},
             {"kv_bytes", of.bytes()}, {"index_bytes", of.index_bytes()}};
  }
  replies.Json(*reply, {{"model", options.name},
                        {"version", Version()},
                        {"n_ctx", context()},
                        {"total_slots", o.slots},
                        {"kv", ToString(o.kv)},
                        {"rope", PlacesText(run.weights.spec())},
                        {"dtype", Name(run.weights.dtype())},
                        {"chat", chat_template != nullptr},
                        {"chat_template", tokenizer.chat_template()},
                        {"queue", o.queue},
                        {"prefix_bytes", o.prefix_bytes},
                        {"index", std::move(index)}});
}

void Service::Impl::Slots(const WebRequest&, const ReplyPtr& reply) {
  if (!options.slots) {
    throw ApiError(404, "not_found_error", "this server does not tell its slots; start it with --slots");
  }
  const SchedulerStats stats = scheduler.stats();
  replies.Json(*reply, {{"running", stats.running},
                        {"waiting", stats.waiting},
                        {"kv_bytes", stats.kv_bytes},
                        {"prefix_bytes", stats.prefix_bytes},
                        {"total_slots", options.scheduler.slots}});
}

void Service::Impl::Metrics(const WebRequest&, const ReplyPtr& reply) {
  replies.Send(*reply, 200, "text/plain; version=0.0.4; charset=utf-8",
               meters.Text(scheduler.stats(), options.scheduler, web.connections()));
}

void Service::Impl::Page(const WebRequest&, const ReplyPtr& reply) {
  if (!options.page) throw ErrorOfStatus(404);
  replies.Send(
      *reply, 200, "text/html; charset=utf-8", std::string(ChatPage()),
      {{"Content-Security-Policy",
        "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"}});
}

void Service::Impl::Api(const WebRequest&, const ReplyPtr& reply) { replies.Send(*reply, 200, kJson, api); }

Service::Service(const WebOptions& web, const std::string& cors, std::chrono::milliseconds drain)
    : drain_(drain), replies_(cors, &meters_) {
  web_ = std::make_unique<WebServer>(
      web, [this](const WebRequest& request, const std::shared_ptr<WebReply>& reply) { Handle(request, reply); },
      [this](int status) {
        meters_.Count(status);
        return ErrorOfStatus(status).Body();
      });
}

Service::~Service() = default;

uint16_t Service::port() const { return web_->port(); }

void Service::Stop() {
  ends_ = true;
  web_->Stop(drain_);
}

void Service::Handle(const WebRequest& request, const std::shared_ptr<WebReply>& reply) {
  try {
    Impl* served = served_;
    if (served == nullptr) throw ApiError(503, "unavailable_error", "the model is being loaded; come again");
    served->Dispatch(request, reply);
  } catch (const ApiError& error) {
    replies_.Refuse(*reply, error);
  } catch (const OutOfMemory& error) {
    replies_.Refuse(*reply, OwnFault(error));
  } catch (const Error& error) {
    // What we say of a request is meant for its sender; the rest is not.
    const bool theirs = error.kind() == ErrorKind::kUsage || error.kind() == ErrorKind::kFormat ||
                        error.kind() == ErrorKind::kUnsupported;
    replies_.Refuse(*reply, theirs ? ApiError(400, "invalid_request_error", error.what())
                            : error.kind() == ErrorKind::kIo && ends_ ? ErrorOfStatus(503)
                                                                      : OwnFault(error));
  } catch (const std::exception& error) {
    replies_.Refuse(*reply, OwnFault(error));
  }
}

void Service::Run(bool signals, const std::function<ServedModel()>& load, const std::function<void()>& ready) {
  std::atomic<bool> over = false;
  std::exception_ptr failed;
  std::thread engine([&, threads = NumThreads()] {
    SetThreads(threads);  // OpenMP keeps the number for each thread that starts loops
    try {
      impl_ = std::make_unique<Impl>(load(), &meters_, &replies_, web_.get(), &ends_);
      served_ = impl_.get();
      if (ready) ready();
    } catch (...) {
      failed = std::current_exception();
      return Stop();
    }
    while (!over) {
      try {
        if (!impl_->scheduler.Step()) impl_->scheduler.Wait(std::chrono::milliseconds(200));
      } catch (const std::exception& error) {  // of no one text: out of memory, say; there may be more in a moment
        LogLine(fmt::format("between texts: {}", error.what()));
        std::this_thread::sleep_for(std::chrono::milliseconds(50));
      }
    }
    impl_->scheduler.EndAll(Error(ErrorKind::kIo, "the server is shutting down"));
  });
  const auto on_signal = [this] {
    if (served_ == nullptr) {  // nothing is under way, and loading only reads
      LogLine("stopped before the model was loaded");
      std::_Exit(0);
    }
    LogLine("stopping: texts under way are finished first");
    Stop();
  };
  web_->Run(signals ? std::function<void()>(on_signal) : std::function<void()>());
  over = true;
  engine.join();
  if (failed) std::rethrow_exception(failed);
}

}  // namespace hawser
