// The routes of sessions, and requests that go on behind one.
#include <fmt/format.h>

#include <algorithm>
#include <utility>
#include <variant>

#include "hawser/infer/generation.h"
#include "hawser/serve/service_impl.h"

namespace hawser {
namespace {

constexpr std::string_view kSessions = "/v1/sessions/";

std::string SessionOf(const WebRequest& request) {
  const std::string rest = request.path.substr(kSessions.size());
  return rest.substr(0, rest.find('/'));
}

[[noreturn]] void Refused(const std::string& param, const std::string& message) {
  throw ApiError(400, "invalid_request_error", message, param);
}

/// A prompt that begins with the indexed prefix goes on from where its session stands; false: this one does not.
/// Errors: ApiError where nothing stands behind the prefix.
bool GoBehindPrefix(const KvCache& cache, std::vector<int32_t>* prompt) {
  const std::vector<int32_t>& ids = cache.prefix()->index().ids;
  if (prompt->size() < ids.size() || !std::equal(ids.begin(), ids.end(), prompt->begin())) return false;
  if (prompt->size() == ids.size()) Refused("prompt", "this is the indexed prefix and no more; say how it goes on");
  prompt->erase(prompt->begin(), prompt->begin() + std::ssize(ids));
  return true;
}

}  // namespace

void Service::Impl::MakeSession(const WebRequest& request, const ReplyPtr& reply) {
  const Json body = request.body.empty() ? Json::object() : Body(request);
  if (!body.is_object()) Refused("", "the body must be a JSON object");
  const auto text = [&](const char* key) {
    const Json value = body.value(key, Json());
    if (!value.is_null() && !value.is_string()) Refused(key, fmt::format("\"{}\" must be text", key));
    return value.is_null() ? std::string() : value.get<std::string>();
  };
  const std::string kv = text("kv"), from = text("from");
  const bool copies = !body.value("from", Json()).is_null(), own = !body.value("kv", Json()).is_null();
  if (own && copies) Refused("kv", "\"kv\" beside \"from\": a copy has the cache of its original");
  const Json index = body.value("index", Json());
  if (!index.is_null() && !index.is_boolean()) Refused("index", "\"index\" must be true or false");
  const bool indexed = index.is_boolean() && index.get<bool>();
  if (indexed && copies) Refused("index", "\"index\" beside \"from\": a copy goes on where its original stands");
  if (indexed && scheduler.prefix() == nullptr) {
    Refused("index", "this server has no indexed prefix; start it with --index FILE");
  }
  const KvForm form = own ? ParseKvForm(kv) : options.scheduler.kv;
  const std::string id = copies ? sessions.CreateFrom(from) : sessions.Create(form, indexed);
  replies.Json(*reply, sessions.Json(id));
}

void Service::Impl::ListSessions(const WebRequest&, const ReplyPtr& reply) {
  replies.Json(*reply, sessions.ListJson());
}

void Service::Impl::ShowSession(const WebRequest& request, const ReplyPtr& reply) {
  replies.Json(*reply, sessions.Json(SessionOf(request)));
}

void Service::Impl::DeleteSession(const WebRequest& request, const ReplyPtr& reply) {
  const std::string id = SessionOf(request);
  sessions.Delete(id);
  replies.Json(*reply, {{"id", id}, {"object", "session.deleted"}, {"deleted", true}});
}

void Service::Impl::SaveSession(const WebRequest& request, const ReplyPtr& reply) {
  const std::string id = SessionOf(request);
  sessions.Save(id);
  replies.Json(*reply, sessions.Json(id));
}

void Service::Impl::CheckSessionCall(const Call& call, const KvForm& form) const {
  if (call.n != 1) Refused("n", "a session goes on in one way: \"n\" must be 1");
  if (!call.chat && call.prompts.size() != 1) Refused("prompt", "a session goes on in one way: give one prompt");
  if (call.echo) Refused("echo", "\"echo\" does not go with a session");
  if (call.continues) Refused("continue_final_message", "\"continue_final_message\" does not go with a session");
  if (!call.kv.empty() && ParseKvForm(call.kv) != form) {
    Refused("hawser.kv", fmt::format("the session has a cache of its own, {}", ToString(form)));
  }
  if (!call.keep.empty()) Refused("hawser.keep", "a session reads the indexed prefix as the server says");
}

/// The tokens of new messages, behind the end of the turn before them. What the template writes there stands behind the
/// answer in a talk of which nothing else matters.
std::vector<int32_t> Service::Impl::NextTurn(const Call& call) const {
  constexpr std::string_view kAnswer = "hawser-session-turn";
  Call talk = call;
  talk.messages =
      Json::array({{{"role", "user"}, {"content", "hello"}}, {{"role", "assistant"}, {"content", kAnswer}}});
  for (const Json& message : call.messages) talk.messages.push_back(message);
  const jinja::Text text = Rendered(talk);
  const size_t at = text.bytes().find(kAnswer);
  if (at == std::string::npos) Refused("messages", "the model's template does not show earlier answers as they are");
  return chat_template->Encode(text.Part(at + kAnswer.size()), /*goes_on=*/true);
}

std::vector<int32_t> Service::Impl::NextText(const Call& call, const LongText& text, bool begun) const {
  const Prompt& prompt = call.prompts.front();
  if (const auto* ids = std::get_if<std::vector<int32_t>>(&prompt)) return *ids;
  const auto& words = std::get<std::string>(prompt);
  if (!begun) return TextIds(words);
  return tokenizer.Encode(words, /*parse_special=*/true, /*goes_on=*/!text.state.at_start);
}

void Service::Impl::ServeSession(Call call, const ReplyPtr& reply) {
  CheckModel(call);
  std::unique_ptr<Sessions::Lease> lease = sessions.Take(*call.session);
  const std::shared_ptr<LongText> text = lease->text();
  const KvForm form = text->cache->form();
  CheckSessionCall(call, form);
  call.kv.clear();
  const bool begun = lease->begun();
  std::vector<int32_t> prompt = !call.chat ? NextText(call, *text, begun) : begun ? NextTurn(call) : TalkIds(call);
  if (!begun && text->cache->prefix() != nullptr && !GoBehindPrefix(*text->cache, &prompt) && !call.chat) {
    prompt = NextText(call, *text, /*begun=*/true);
  }
  const auto pending = static_cast<int64_t>(text->state.pending.size());
  if (prompt.empty() && pending == 0) {
    Refused(call.chat ? "messages" : "prompt", "the text of the session has come to its end; say how it goes on");
  }
  std::vector<Request> requests;
  requests.push_back(RequestOf(call, form, std::move(prompt), text->cache->seen() + pending));
  Request& request = requests.back();
  request.behind = text;
  request.share = false;
  request.generate.hold = !call.chat;
  request.generate.reseed = call.seeded;
  Frame frame = FrameOf(call);
  const auto answer =
      std::make_shared<Answer>(answer_context(), std::move(call), std::move(frame), ToString(form), reply);
  answer->AddChoice("");
  answer->SetSession(std::move(lease));
  Submit(std::move(requests), answer, reply);
}

}  // namespace hawser
