// The routes that make text.
#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <utility>
#include <variant>

#include "hawser/base/size.h"
#include "hawser/infer/generation.h"
#include "hawser/serve/random_name.h"
#include "hawser/serve/service_impl.h"

namespace hawser {

void Service::Impl::Completions(const WebRequest& request, const ReplyPtr& reply) {
  Call call = ParseCall(Body(request), /*chat=*/false, options.limits, vocab());
  if (call.session) return ServeSession(std::move(call), reply);
  std::vector<std::vector<int32_t>> prompts;
  std::vector<std::string> texts;
  for (const Prompt& prompt : call.prompts) {
    if (const auto* text = std::get_if<std::string>(&prompt)) {
      prompts.push_back(TextIds(*text));
      texts.push_back(*text);
    } else {
      prompts.push_back(std::get<std::vector<int32_t>>(prompt));
      texts.push_back(tokenizer.Decode(prompts.back()));
    }
    if (prompts.back().empty()) throw ApiError(400, "invalid_request_error", "a prompt has no tokens", "prompt");
  }
  Serve(std::move(call), std::move(prompts), texts, reply);
}

std::vector<int32_t> Service::Impl::TextIds(const std::string& text) const {
  if (text.empty() && TextPrefix(tokenizer, options.bos).empty()) {
    throw ApiError(400, "invalid_request_error",
                   "the prompt is empty, and this model's tokenizer puts nothing before it", "prompt");
  }
  return PromptIds(text, tokenizer, /*parse_special=*/true, options.bos);
}

void Service::Impl::Chat(const WebRequest& request, const ReplyPtr& reply) {
  Call call = ParseCall(Body(request), /*chat=*/true, options.limits, vocab());
  if (call.session) return ServeSession(std::move(call), reply);
  std::vector<int32_t> ids = TalkIds(call);
  if (ids.empty()) throw ApiError(400, "invalid_request_error", "the talk has no tokens", "messages");
  Serve(std::move(call), {std::move(ids)}, {""}, reply);
}

void Service::Impl::CheckModel(const Call& call) const {
  if (!options.strict_model || call.model.empty() || call.model == options.name) return;
  throw ApiError(404, "not_found_error",
                 fmt::format("there is no model '{}'; this server has {}", call.model, options.name), "model",
                 "model_not_found");
}

/// The cache of a call, bounded where the context does not hold it and the server was told to do so.
KvForm Service::Impl::FormOf(Call* call, int64_t longest) const {
  const KvForm form = call->kv.empty() ? options.scheduler.kv : ParseKvForm(call->kv);
  if (!form.keeps_all() || options.on_full == OnFull::kError) return form;
  if (call->max_tokens.value_or(1) <= context() - longest) return form;
  call->kv = options.on_full == OnFull::kShift
                 ? fmt::format("sink:4,{}", context() - 4)
                 : fmt::format("sep-stream:4,{},{},{}", context() / 8, context() / 4, context());
  return ParseKvForm(call->kv);
}

/// New tokens that a prompt may get. Errors: ApiError where the context does not hold them.
int64_t Service::Impl::MaxNew(const Call& call, const KvForm& form, int64_t prompt) const {
  const bool bounded = !form.keeps_all();
  const int64_t fits = bounded ? INT64_MAX : context() - prompt;
  const int64_t usual = call.chat ? (bounded ? 4096 : fits) : 16;
  const int64_t wanted = call.max_tokens.value_or(std::max<int64_t>(1, std::min(usual, fits)));
  if (wanted <= fits) return wanted;
  throw ApiError(400, "invalid_request_error",
                 fmt::format("this model's maximum context length is {} tokens; the prompt has {} and {} more are "
                             "asked for. Shorten them, or ask for a bounded cache: \"hawser\": {{\"kv\": "
                             "\"sep-stream:4,64,256,800\"}}",
                             context(), prompt, wanted),
                 call.chat ? "messages" : "prompt", "context_length_exceeded");
}

/// What a call reads of the indexed prefix. Errors: ApiError where there is none, those of ParseKeepRule.
KeepRule Service::Impl::KeepOf(const Call& call) const {
  if (scheduler.prefix() != nullptr) return ParseKeepRule(call.keep);
  throw ApiError(400, "invalid_request_error", "this server has no indexed prefix; start it with --index FILE",
                 "hawser.keep");
}

Request Service::Impl::RequestOf(const Call& call, const KvForm& form, std::vector<int32_t> prompt, int64_t before) {
  const int64_t max_new = MaxNew(call, form, before + static_cast<int64_t>(prompt.size()));
  Request request{.prompt = std::move(prompt),
                  .top_logprobs = call.logprobs,
                  .prompt_logprobs = call.echo && call.logprobs >= 0,
                  .progress = call.progress && call.stream,
                  .priority = call.priority,
                  .timeout = call.timeout,
                  .show_cache = call.show_cache,
                  .share = call.share};
  if (!call.kv.empty()) request.kv = form;
  if (!call.keep.empty()) request.keep = KeepOf(call);
  GenerateOptions& generate = request.generate;
  generate.max_new = max_new;
  generate.sampler = call.sampler;
  generate.stops = call.stops;
  generate.end_ids = EndIds(run.weights.spec(), tokenizer);
  generate.at_start = call.chat;
  generate.constraint = formats.Of(call.format);
  if (call.ignore_eos) generate.sampler.never = std::exchange(generate.end_ids, {});
  if (!call.seeded) {
    generate.sampler.seed = std::random_device{}() | static_cast<uint64_t>(std::random_device{}()) << 32;
  }
  return request;
}

Frame Service::Impl::FrameOf(const Call& call) const {
  return {.id = RandomName(call.chat ? "chatcmpl-" : "cmpl-"), .model = options.name, .created = std::time(nullptr)};
}

void Service::Impl::Serve(Call call, std::vector<std::vector<int32_t>> prompts, const std::vector<std::string>& texts,
                          const ReplyPtr& reply) {
  CheckModel(call);
  const auto most = static_cast<int64_t>(options.scheduler.queue) + options.scheduler.slots;
  if (const int64_t count = std::ssize(prompts) * call.n; count > most) {
    throw ApiError(400, "invalid_request_error",
                   fmt::format("this asks for {} at once, and the server takes {} (--queue, --parallel): ask for fewer",
                               Counted(count, "text"), most),
                   prompts.size() > 1 ? "prompt" : "n");
  }
  const auto longest = std::ranges::max_element(prompts, {}, &std::vector<int32_t>::size)->size();
  const KvForm form = FormOf(&call, static_cast<int64_t>(longest));
  std::vector<Request> requests;
  for (std::vector<int32_t>& prompt : prompts) {
    Request request = RequestOf(call, form, std::move(prompt));
    for (int32_t i = 0; i < call.n; ++i) {
      requests.push_back(request);
      ++request.generate.sampler.seed;
    }
  }
  Frame frame = FrameOf(call);
  const auto n = static_cast<size_t>(call.n);
  const auto answer =
      std::make_shared<Answer>(answer_context(), std::move(call), std::move(frame), ToString(form), reply);
  for (size_t i = 0; i < requests.size(); ++i) answer->AddChoice(texts[i / n]);
  Submit(std::move(requests), answer, reply);
}

void Service::Impl::Submit(std::vector<Request> requests, const std::shared_ptr<Answer>& answer,
                           const ReplyPtr& reply) {
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

}  // namespace hawser
