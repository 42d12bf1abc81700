#include "hawser/serve/answer.h"

#include <algorithm>
#include <utility>

#include "hawser/infer/stream.h"

namespace hawser {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMostShown = 1 << 16;  // tokens of a cache that are shown

}  // namespace

Answer::Answer(const AnswerContext& context, Call call, Frame frame, std::string cache, std::shared_ptr<WebReply> reply)
    : context_(context),
      call_(std::move(call)),
      frame_(std::move(frame)),
      cache_(std::move(cache)),
      reply_(std::move(reply)) {}

void Answer::AddChoice(std::string prompt_text) {
  choices_.emplace_back(&call_, context_.tokenizer, static_cast<int32_t>(choices_.size()), std::move(prompt_text));
}

void Answer::Submitted(uint64_t id) {
  const std::lock_guard lock(mutex_);
  ids_.push_back(id);
}

void Answer::CancelAll() {
  std::vector<uint64_t> ids;
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
    ids = ids_;
  }
  for (const uint64_t id : ids) context_.scheduler->Cancel(id);
}

void Answer::Watch() {
  reply_->OnGone([self = weak_from_this()] {
    if (const auto answer = self.lock()) answer->CancelAll();
  });
}

bool Answer::Take(size_t index, const Event& event) {
  const std::lock_guard lock(mutex_);
  if (over_ || reply_->gone()) return false;
  if (event.kind == Event::Kind::kError) return TakeError(*event.error);
  if (event.kind == Event::Kind::kProgress) return TakeProgress(event);
  Measure(event);
  if (event.kind == Event::Kind::kEnd) {
    usage_.Add(event);
    if (call_.show_cache) view_ = View(event);
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

void Answer::Open() {
  if (open_) return;
  open_ = true;
  context_.replies->Begin(*reply_);
}

bool Answer::TakeProgress(const Event& event) {
  if (!call_.stream) return true;
  Open();
  const auto time = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun_);
  Json chunk = frame_.Json(call_, true, Json::array());
  chunk["prompt_progress"] = {{"total", event.prompt_tokens},
                              {"cache", event.cached_tokens},
                              {"processed", event.read_tokens},
                              {"time_ms", time.count()}};
  return reply_->Write(ServerSentEvent(chunk));
}

bool Answer::TakeError(const Error& error) {
  over_ = true;
  const bool leaves = error.kind() == ErrorKind::kIo;
  const bool theirs = error.kind() == ErrorKind::kFormat || error.kind() == ErrorKind::kUnsupported;  // a grammar's
  const ApiError answer(leaves   ? 503
                        : theirs ? 400
                                 : 500,
                        leaves   ? "unavailable_error"
                        : theirs ? "invalid_request_error"
                                 : "server_error",
                        error.what(), theirs ? call_.format.param : "");
  if (open_) {
    reply_->Write("data: " + answer.Body() + "\n\n");
    reply_->End();
  } else {
    context_.replies->Refuse(*reply_, answer);
  }
  return false;
}

void Answer::Measure(const Event& event) {
  Meters& meters = *context_.meters;
  if (event.kind == Event::Kind::kToken) {
    const auto now = Clock::now();
    const bool first = last_ == Clock::time_point{};
    const double seconds = std::chrono::duration<double>(now - (first ? begun_ : last_)).count();
    (first ? meters.first_token : meters.between_tokens).Add(seconds);
    last_ = now;
  }
  if (event.kind != Event::Kind::kEnd) return;
  if (event.prompt_seconds > 0) {
    meters.prompt_rate = static_cast<double>(event.prompt_tokens - event.cached_tokens) / event.prompt_seconds;
  }
  if (event.decode_seconds > 0) meters.decode_rate = static_cast<double>(event.new_tokens) / event.decode_seconds;
}

/// What the cache still holds, word for word.
Json Answer::View(const Event& event) const {
  const Tokenizer& tokenizer = *context_.tokenizer;
  Json tokens = Json::array();
  const size_t first = event.seen.size() - std::min(event.seen.size(), kMostShown);
  TextStream stream({});
  for (size_t i = first; i < event.seen.size(); ++i) {
    const int32_t id = event.seen[i];
    std::string piece = id < tokenizer.vocab_size() ? tokenizer.Piece(id) : "";
    if (piece.empty()) piece = tokenizer.Display(id);
    tokens.push_back(stream.Push(piece));
  }
  return {{"first", first}, {"tokens", std::move(tokens)}, {"held", event.held.substr(first)}};
}

void Answer::Complete() {
  over_ = true;
  if (lease_ == nullptr) return TellAll();
  lease_->Finish([self = shared_from_this()](const Error*) { self->TellAll(); });
}

/// The end of the answer; nothing changes any more.
void Answer::TellAll() {
  Json usage = usage_.Json(cache_);
  if (!view_.is_null()) usage["hawser"]["view"] = view_;
  if (!call_.stream) {
    Json list = Json::array();
    for (const Choice& choice : choices_) list.push_back(choice.Whole());
    Json json = frame_.Json(call_, false, std::move(list));
    json["usage"] = std::move(usage);
    context_.replies->Json(*reply_, json);
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

}  // namespace hawser
