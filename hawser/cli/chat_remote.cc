// A talk with a server that answers as OpenAI's API does.
#include <fmt/format.h>

#include <algorithm>
#include <cstdlib>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/printable.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/base/utf8.h"
#include "hawser/cli/line_input.h"
#include "hawser/cli/talker.h"
#include "hawser/io/event_stream.h"
#include "hawser/io/http.h"
#include "hawser/io/json.h"
#include "hawser/io/ordered_json.h"

namespace hawser {
namespace {

class RemoteTalker : public Talker {
 public:
  RemoteTalker(const ChatOptions& options, const CommonOptions& common) : options_(options), common_(common) {
    base_ = options.url;
    while (base_.ends_with('/')) base_.pop_back();
    if (!base_.ends_with("/v1")) base_ += "/v1";
    std::string key = options.api_key;
    if (const char* named = std::getenv("HAWSER_API_KEY"); key.empty() && named != nullptr) key = named;
    if (key.find_first_of("\r\n") != key.npos) Fail(ErrorKind::kUsage, "the API key holds a line end");
    headers_ = {"Content-Type: application/json", "Expect:"};
    if (!key.empty()) headers_.push_back("Authorization: Bearer " + key);
    model_ = options.model.model.string();
    NeedUtf8("the name of the model", model_);
    NeedUtf8("--kv", options.kv);
    for (const std::string& stop : options.stops) NeedUtf8("--stop", stop);
    ReadFormat();
    const Json models = Ask("GET", "/models", {});
    const bool listed = models.is_object() && models.contains("data") && models["data"].is_array() &&
                        !models["data"].empty() && models["data"][0].is_object();
    const Json first = listed ? models["data"][0].value("id", Json()) : Json();
    if (model_.empty() && first.is_string()) model_ = first.get<std::string>();
    if (options.in_session) OpenSession(options.session);
  }
  ~RemoteTalker() override {
    try {
      CloseSession();
    } catch (const Error&) {  // it will expire
    }
  }

  const Json& messages() const override { return messages_; }
  void SetMessages(Json messages) override {
    if (!session_.empty()) Fail(ErrorKind::kUsage, "a session has its talk already: begin one without --session");
    Check(messages);
    const bool has_system = !messages.empty() && messages[0]["role"] == "system";
    system_ = has_system ? messages[0]["content"].get<std::string>() : "";
    messages_ = std::move(messages);
  }
  const std::string& system() const override { return system_; }
  void SetSystem(std::string text) override {
    NeedUtf8("the system message", text);
    const bool has_system = !messages_.empty() && messages_[0]["role"] == "system";
    if (has_system) messages_.erase(messages_.begin());
    system_ = std::move(text);
    said_system_ = false;
    if (!system_.empty()) messages_.insert(messages_.begin(), Json{{"role", "system"}, {"content", system_}});
  }
  void Reset() override {
    messages_ = Json::array();
    SetSystem(std::move(system_));
    if (session_.empty()) return;
    CloseSession();
    OpenSession("");
  }

  TalkAnswer Answer(const std::string& text, const std::function<void(std::string_view)>& show) override {
    NeedUtf8("the message", text);
    const Json user = {{"role", "user"}, {"content", text}};
    Json talk = messages_;
    talk.push_back(user);
    Json fresh = talk;
    if (!session_.empty()) {  // the server has the rest
      fresh = Json::array({user});
      if (!said_system_ && !system_.empty()) {
        fresh.insert(fresh.begin(), Json{{"role", "system"}, {"content", system_}});
      }
    }
    TalkAnswer answer = Stream(Body(fresh), show);
    said_system_ = true;
    if (answer.stop == StopReason::kCancelled && answer.text.empty()) return answer;
    talk.push_back({{"role", "assistant"}, {"content", answer.text}});
    messages_ = std::move(talk);
    return answer;
  }

  std::string Stats() const override {
    std::string text = fmt::format("{}, {}: read {}, {} of them known already; wrote {}\n", base_, model_,
                                   Counted(read_, "token"), known_, Counted(written_, "token"));
    if (last_.is_object() && last_.contains("cache")) {
      text += fmt::format("cache {}, {} kept, {} forgotten\n", last_["cache"].dump(), Number(last_, "kept_tokens"),
                          Number(last_, "evicted_tokens"));
    }
    if (!session_.empty()) text += "session " + session_ + "\n";
    return text;
  }

 private:
  /// Errors: kUsage. The API speaks JSON, which holds nothing else.
  static void NeedUtf8(std::string_view what, std::string_view text) {
    if (!IsUtf8(text)) Fail(ErrorKind::kUsage, "{} is not UTF-8", what);
  }

  static void Check(const Json& messages) {
    const auto good = [](const Json& m) {
      return m.is_object() && m.contains("role") && m["role"].is_string() && m.contains("content") &&
             m["content"].is_string();
    };
    if (!messages.is_array() || !std::ranges::all_of(messages, good)) {
      Fail(ErrorKind::kFormat, "a talk is a list of messages with a text \"role\" and a text \"content\"");
    }
  }

  void OpenSession(const std::string& id) {
    Json wanted = Json::object();
    if (!options_.kv.empty()) wanted["kv"] = options_.kv;
    const Json session = id.empty() ? Ask("POST", "/sessions", wanted.dump()) : Ask("GET", "/sessions/" + id, {});
    if (!session.is_object() || !session.contains("id") || !session["id"].is_string()) {
      Fail(ErrorKind::kIo, "{}: the server told no session", base_);
    }
    session_ = session["id"].get<std::string>();
    own_ = id.empty();
    said_system_ = false;
    LogLine("session " + PrintableLine(session_));
  }
  /// A session of this talk in which nothing was said, or whose talk begins anew, is none to come back to.
  void CloseSession() {
    if (session_.empty() || !own_ || messages_.size() > (system_.empty() ? 0 : 1)) return;
    Ask("DELETE", "/sessions/" + session_, {});
  }

  /// What answers are to be, in the words of the API.
  void ReadFormat() {
    const FormatOptions& format = options_.format;
    if (!format.grammar.empty()) {
      const std::string text = ReadFile(format.grammar);
      if (!IsUtf8(text)) Fail(ErrorKind::kFormat, "{}: it is not UTF-8", format.grammar.string());
      format_ = {{"grammar", text}};
    }
    if (format.schema.empty()) return;
    const Json schema = WithFrame(format.schema.string(), [&] { return ParseOrderedJson(ReadFile(format.schema)); });
    format_ = {
        {"response_format",
         {{"type", "json_schema"}, {"json_schema", {{"name", "answer"}, {"strict", true}, {"schema", schema}}}}}};
  }

  [[noreturn]] void Refused(const HttpResponse& response, const std::string& body) const {
    std::string told;
    try {
      const nlohmann::json json = ParseJson(body);
      told = json.at("error").at("message").get<std::string>();
    } catch (const std::exception&) {
      told = body.substr(0, 200);
    }
    const bool ours = response.status >= 400 && response.status < 500;
    Fail(ours ? ErrorKind::kUsage : ErrorKind::kIo, "{}: status {}: {}", base_, response.status, told);
  }

  Json Ask(const std::string& method, const std::string& path, std::string body) const {
    std::string got;
    constexpr size_t kMost = size_t{64} << 20;
    HttpRequest request{.url = base_ + path, .headers = headers_, .method = method, .body = std::move(body)};
    const HttpResponse response = Http(request, [&](const HttpResponse&, std::string_view piece) {
      got += piece;
      return got.size() < kMost;
    });
    if (!response.failure.empty()) Fail(ErrorKind::kIo, "{}: {}", base_, response.failure);
    if (response.status != 200) Refused(response, got);
    return WithFrame(base_ + path, [&] { return ParseOrderedJson(got); });
  }

  Json Body(const Json& messages) const {
    const SamplerOptions& s = options_.sampler;
    Json body = {{"model", model_},
                 {"messages", messages},
                 {"max_tokens", options_.max_new},
                 {"temperature", s.temperature},
                 {"top_p", s.top_p},
                 {"stream", true},
                 {"stream_options", {{"include_usage", true}}}};
    // What only some servers know goes along where it says something.
    if (s.top_k != 0) body["top_k"] = s.top_k;
    if (s.min_p != 0) body["min_p"] = s.min_p;
    if (s.repeat_penalty != 1) body["repetition_penalty"] = s.repeat_penalty;
    if (s.frequency_penalty != 0) body["frequency_penalty"] = s.frequency_penalty;
    if (s.presence_penalty != 0) body["presence_penalty"] = s.presence_penalty;
    if (!options_.stops.empty()) body["stop"] = options_.stops;
    if (options_.seeded) body["seed"] = common_.seed;
    body.update(format_);
    if (!session_.empty()) {
      body["hawser"]["session"] = session_;
    } else if (!options_.kv.empty()) {
      body["hawser"]["kv"] = options_.kv;
    }
    return body;
  }

  TalkAnswer Stream(const Json& body, const std::function<void(std::string_view)>& show) {
    TalkAnswer answer;
    std::string refused, finish;
    Json usage;
    bool done = false;
    EventStream events;
    const auto take = [&](const std::string& data) {
      if (data == "[DONE]") {
        done = true;
        return;
      }
      const Json chunk = WithFrame(base_, [&] { return ParseOrderedJson(data); });
      if (!chunk.is_object()) Fail(ErrorKind::kIo, "{}: an event is no object", base_);
      if (chunk.contains("error")) {
        const Json& error = chunk["error"];
        Fail(ErrorKind::kIo, "{}: {}", base_, error.is_object() ? error.value("message", Json()).dump() : error.dump());
      }
      if (chunk.contains("usage") && chunk["usage"].is_object()) usage = chunk["usage"];
      const Json choices = chunk.value("choices", Json::array());
      if (!choices.is_array() || choices.empty() || !choices[0].is_object()) return;
      const Json reason = choices[0].value("finish_reason", Json());
      if (reason.is_string()) finish = reason.get<std::string>();
      const Json delta = choices[0].value("delta", Json::object());
      const Json content = delta.is_object() ? delta.value("content", Json()) : Json();
      if (!content.is_string()) return;
      answer.text += content.get_ref<const std::string&>();
      show(content.get_ref<const std::string&>());
    };
    HttpRequest request{.url = base_ + "/chat/completions",
                        .headers = headers_,
                        .follow = false,
                        .body = body.dump(),
                        .patience = 0,  // a long prompt takes its time
                        .cancelled = InterruptCatcher::Came};
    const HttpResponse response = Http(request, [&](const HttpResponse& head, std::string_view piece) {
      if (head.status == 200) {
        events.Push(piece, take);
      } else {
        refused += piece;
      }
      return !done && refused.size() < (1 << 20);
    });
    const bool cancelled = InterruptCatcher::Came();
    if (!cancelled && !response.failure.empty()) Fail(ErrorKind::kIo, "{}: {}", base_, response.failure);
    if (!cancelled && response.status != 200) Refused(response, refused);
    if (!cancelled && !done && finish.empty()) Fail(ErrorKind::kIo, "{}: the answer broke off", base_);
    answer.stop = cancelled ? StopReason::kCancelled : finish == "length" ? StopReason::kLength : StopReason::kEos;
    Count(usage);
    answer.json = {{"text", answer.text}, {"stop", Name(answer.stop)}, {"usage", nlohmann::json(usage)}};
    if (!session_.empty()) answer.json["session"] = session_;
    return answer;
  }
  /// A count that a server told; 0 where it is none.
  static int64_t Number(const Json& object, const char* key) {
    constexpr double kMost = 0x1p50;
    const Json value = object.is_object() ? object.value(key, Json()) : Json();
    const bool counts = value.is_number_integer() && value.get<double>() >= 0 && value.get<double>() < kMost;
    return counts ? value.get<int64_t>() : 0;
  }
  void Count(const Json& usage) {
    read_ += Number(usage, "prompt_tokens");
    written_ += Number(usage, "completion_tokens");
    if (!usage.is_object()) return;
    known_ += Number(usage.value("prompt_tokens_details", Json()), "cached_tokens");
    last_ = usage.value("hawser", Json());
  }

  const ChatOptions& options_;
  const CommonOptions& common_;
  std::string base_, model_, session_, system_;
  std::vector<std::string> headers_;
  bool own_ = false, said_system_ = false;
  Json messages_ = Json::array(), last_, format_ = Json::object();
  int64_t read_ = 0, written_ = 0, known_ = 0;
};

}  // namespace

std::unique_ptr<Talker> MakeRemoteTalker(const ChatOptions& options, const CommonOptions& common) {
  return std::make_unique<RemoteTalker>(options, common);
}

}  // namespace hawser
