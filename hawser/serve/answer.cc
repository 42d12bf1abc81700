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
  last_.emplace_back();
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
  if (lease_ != nullptr) lease_->Begin();
  if (over_ || reply_->gone()) return false;
  try {
    return TakeOne(index, event);
  } catch (const std::exception& error) {  // out of memory, say
    return Refuse(OwnFault(error));
  }
}

bool Answer::TakeOne(size_t index, const Event& event) {
  if (event.kind == Event::Kind::kError) return TakeError(*event.error);
  if (event.kind == Event::Kind::kProgress) return TakeProgress(event);
  Measure(index, event);
  if (event.kind == Event::Kind::kEnd) {
    usage_.Add(event, index % static_cast<size_t>(call_.n) == 0);
    if (call_.show_cache) view_ = View(event);
  }
  bool listens = true;
  for (const Json& piece : choices_[index].Take(event)) {
    if (!call_.stream) continue;
    Open();
    listens = listens && reply_->Write(ServerSentEvent(Chunk(Json::array({piece}))));
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

Json Answer::Chunk(Json choices) const {
  Json chunk = frame_.Json(call_, true, std::move(choices));
  if (call_.include_usage) chunk["usage"] = nullptr;
  return chunk;
}

bool Answer::TakeProgress(const Event& event) {
  if (!call_.stream) return true;
  Open();
  const auto time = std::chrono::duration_cast<std::chrono::milliseconds>(Clock::now() - begun_);
  Json chunk = Chunk(Json::array());
  chunk["prompt_progress"] = {{"total", event.prompt_tokens},
                              {"cache", event.cached_tokens},
                              {"processed", event.read_tokens},
                              {"time_ms", time.count()}};
  return reply_->Write(ServerSentEvent(chunk));
}

bool Answer::TakeError(const Error& error) {
  const bool leaves = error.kind() == ErrorKind::kIo;
  const bool theirs = error.kind() == ErrorKind::kFormat || error.kind() == ErrorKind::kUnsupported;  // a grammar's
  const ApiError answer = leaves   ? ApiError(503, "unavailable_error", error.what())
                          : theirs ? ApiError(400, "invalid_request_error", error.what(), call_.format.param)
                                   : OwnFault(error);
  if (lease_ == nullptr) return Refuse(answer);
  over_ = true;
  lease_->Finish([self = shared_from_this(), answer](const Error*) { self->Refuse(answer); });
  return false;
}

/// The answer ends here, for all its choices.
bool Answer::Refuse(const ApiError& error) {
  over_ = true;
  if (open_) {
    reply_->Write("data: " + error.Body() + "\n\n");
    reply_->End();
  } else {
    context_.replies->Refuse(*reply_, error);
  }
  return false;
}

void Answer::Measure(size_t index, const Event& event) {
  Meters& meters = *context_.meters;
  if (event.kind == Event::Kind::kToken) {
    const auto now = Clock::now();
    Clock::time_point& last = last_[index];
    const bool first = last == Clock::time_point{};
    const double seconds = std::chrono::duration<double>(now - (first ? begun_ : last)).count();
    (first ? meters.first_token : meters.between_tokens).Add(seconds);
    last = now;
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
    Json chunk = Chunk(Json::array());
    chunk["usage"] = std::move(usage);
    reply_->Write(ServerSentEvent(chunk));
  }
  reply_->Write("data: [DONE]\n\n");
  reply_->End();
}

}  // namespace hawser
