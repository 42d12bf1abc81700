// serve/service_impl.h - what the routes of a service share; for the files of this room that answer them.
#pragma once

#include <atomic>
#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "hawser/io/ordered_json.h"
#include "hawser/model/decoder.h"
#include "hawser/serve/answer.h"
#include "hawser/serve/formats.h"
#include "hawser/serve/service.h"
#include "hawser/serve/talk_template.h"

namespace hawser {

struct Service::Impl {
  using Json = nlohmann::ordered_json;
  using ReplyPtr = std::shared_ptr<WebReply>;

  const ModelToRun& run;
  ServiceOptions options;
  Decoder decoder;
  const Tokenizer& tokenizer;
  std::unique_ptr<TalkTemplate> chat_template;  // null: the model brings none
  Scheduler scheduler;
  Formats formats;
  int64_t created = std::time(nullptr);
  Meters& meters;
  const Replies& replies;
  const WebServer& web;
  const std::atomic<bool>& ends;
  std::string api;    // its description
  Sessions sessions;  // the first to go: it completes answers

  Impl(ServedModel model, Meters* m, const Replies* r, const WebServer* w, const std::atomic<bool>* e);

  int64_t context() const { return options.scheduler.context; }
  int32_t vocab() const { return run.weights.spec().vocab; }
  AnswerContext answer_context() { return {&scheduler, &tokenizer, &replies, &meters}; }

  using Route = void (Impl::*)(const WebRequest&, const ReplyPtr&);
  struct RouteRow {
    const char* path;
    const char* method;
    Route handle;
  };
  static const std::vector<RouteRow>& Routes();
  /// Errors: ApiError and others.
  void Dispatch(const WebRequest& request, const ReplyPtr& reply);
  void SendOptions(const std::vector<std::string>& methods, const ReplyPtr& reply);
  /// The body as JSON. Errors: ApiError.
  static Json Body(const WebRequest& request);

  // service.cc
  void Models(const WebRequest& request, const ReplyPtr& reply);
  void Health(const WebRequest&, const ReplyPtr& reply);
  void Metrics(const WebRequest&, const ReplyPtr& reply);
  void Props(const WebRequest&, const ReplyPtr& reply);
  void Slots(const WebRequest&, const ReplyPtr& reply);
  void Page(const WebRequest&, const ReplyPtr& reply);
  void Api(const WebRequest&, const ReplyPtr& reply);
  Json ModelJson() const;

  // session_routes.cc
  void MakeSession(const WebRequest& request, const ReplyPtr& reply);
  void ListSessions(const WebRequest&, const ReplyPtr& reply);
  void ShowSession(const WebRequest& request, const ReplyPtr& reply);
  void DeleteSession(const WebRequest& request, const ReplyPtr& reply);
  void SaveSession(const WebRequest& request, const ReplyPtr& reply);
  void ServeSession(Call call, const ReplyPtr& reply);
  void CheckSessionCall(const Call& call, const KvForm& form) const;
  std::vector<int32_t> NextTurn(const Call& call) const;
  std::vector<int32_t> NextText(const Call& call, const LongText& text, bool begun) const;

  // text_routes.cc
  void Tokenize(const WebRequest& request, const ReplyPtr& reply);
  void Detokenize(const WebRequest& request, const ReplyPtr& reply);
  void TokenizerInfo(const WebRequest&, const ReplyPtr& reply);
  void ApplyTemplate(const WebRequest& request, const ReplyPtr& reply);
  /// The talk of a call through the model's template. Errors: ApiError where there is none; those of the template.
  jinja::Text Rendered(const Call& call) const;
  std::vector<int32_t> TalkIds(const Call& call) const;

  // completions.cc
  void Completions(const WebRequest& request, const ReplyPtr& reply);
  void Chat(const WebRequest& request, const ReplyPtr& reply);
  /// A prompt that is text. Errors: ApiError where it has no tokens.
  std::vector<int32_t> TextIds(const std::string& text) const;
  void Serve(Call call, std::vector<std::vector<int32_t>> prompts, const std::vector<std::string>& texts,
             const ReplyPtr& reply);
  void CheckModel(const Call& call) const;
  KvForm FormOf(Call* call, int64_t longest) const;
  KeepRule KeepOf(const Call& call) const;
  int64_t MaxNew(const Call& call, const KvForm& form, int64_t prompt) const;
  /// `before`: tokens that the cache has seen already.
  Request RequestOf(const Call& call, const KvForm& form, std::vector<int32_t> prompt, int64_t before = 0);
  Frame FrameOf(const Call& call) const;
  void Submit(std::vector<Request> requests, const std::shared_ptr<Answer>& answer, const ReplyPtr& reply);
};

}  // namespace hawser
