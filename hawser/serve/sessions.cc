#include "hawser/serve/sessions.h"

#include <fmt/format.h>

#include <algorithm>
#include <ctime>
#include <nlohmann/json.hpp>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/folder.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/io/json.h"
#include "hawser/kv/state.h"
#include "hawser/model/fingerprint.h"
#include "hawser/serve/openai.h"
#include "hawser/serve/random_name.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using OrderedJson = nlohmann::ordered_json;

constexpr const char* kSuffix = ".session";
constexpr const char* kPrefix = "session-";

/// As they are made here; what a client gives as an id is looked up, and never becomes a path.
bool IsId(const std::string& name) {
  return name.starts_with(kPrefix) && name.size() < 64 &&
         std::ranges::all_of(name, [](unsigned char c) { return std::isalnum(c) != 0 || c == '-'; });
}

}  // namespace

Sessions::Sessions(const Scheduler* scheduler, const Weights* weights, SessionOptions options)
    : scheduler_(scheduler),
      weights_(weights),
      model_(options.folder.empty() ? 0 : ModelFingerprint(*weights)),
      options_(std::move(options)) {
  if (options_.folder.empty()) return;
  MakeDirectories(options_.folder);
  Find();
  saver_ = std::thread([this] { RunSaver(); });
}

Sessions::~Sessions() {
  if (!saver_.joinable()) return;
  {
    const std::lock_guard lock(mutex_);
    ends_ = true;
  }
  wake_.notify_all();
  saver_.join();
}

void Sessions::Find() {
  std::error_code code;
  for (const auto& entry : fs::directory_iterator(options_.folder, code)) {
    if (entry.path().extension() != kSuffix || !IsId(entry.path().stem().string())) continue;
    try {
      FindOne(entry.path());
    } catch (const Error& error) {
      LogLine(fmt::format("note: this session is left alone: {}", error.what()));
    }
  }
  Expire();
}

void Sessions::FindOne(const fs::path& path) {
  const KvStateInfo info = ReadKvStateInfo(path);
  WithFrame(path.string(), [&] {
    if (!info.notes.is_object() || !info.notes.contains("session")) Fail(ErrorKind::kFormat, "it is no session");
    const JsonObject notes(info.notes["session"], "the saved \"session\"");
    constexpr int64_t kMost = int64_t{1} << 53;
    const SqueezedReader* prefix = scheduler_->prefix();
    if (!info.prefix.empty() && (prefix == nullptr || info.prefix != PrefixName(prefix->index()))) {
      Fail(ErrorKind::kUsage, "it goes on behind an indexed prefix, {}, which this server does not have", info.prefix);
    }
    Session session{.form = info.policy,
                    .created = notes.Int("created", 0, kMost),
                    .used = notes.Int("used", 0, kMost),
                    .tokens = info.seen,
                    .bytes = notes.Int("bytes", 0, kMost),
                    .indexed = info.prefix.empty() ? 0 : prefix->tokens(),
                    .saved = true,
                    .begun = notes.BoolOr("begun", true)};
    if (notes.String("model") != fmt::format("{:016x}", model_)) {
      Fail(ErrorKind::kUsage, "it is of another model");
    }
    sessions_.emplace(path.stem().string(), std::move(session));
  });
}

Sessions::Map::iterator Sessions::At(const std::string& id) {
  Expire();
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) {
    throw ApiError(404, "not_found_error", "there is no session of this id", "session", "session_not_found");
  }
  if (found->second.busy) {
    throw ApiError(409, "conflict_error", "another request has this session", "session", "session_busy");
  }
  return found;
}

/// Deletes what nobody used for long.
void Sessions::Expire() {
  if (options_.expiry.count() == 0) return;
  const int64_t last = std::time(nullptr) - options_.expiry.count();
  std::erase_if(sessions_, [&](const auto& row) {
    if (row.second.busy || row.second.used >= last) return false;
    if (!options_.folder.empty()) RemoveQuietly(FileOf(row.first));
    return true;
  });
}

/// Sessions that rest and are saved leave memory, those longest unused first, until the others have room.
void Sessions::Evict() {
  int64_t bytes = 0;
  std::vector<Session*> resting;
  for (auto& [id, session] : sessions_) {
    if (session.text == nullptr) continue;
    bytes += session.bytes;
    if (session.saved && !session.busy) resting.push_back(&session);
  }
  std::ranges::sort(resting, {}, &Session::used);
  for (Session* session : resting) {
    if (bytes <= options_.memory) return;
    bytes -= session->bytes;
    session->text.reset();
  }
}

void Sessions::CheckRoom() {
  int64_t bytes = 0;
  for (const auto& [id, session] : sessions_) bytes += session.text != nullptr ? session.bytes : 0;
  const bool full = static_cast<int64_t>(sessions_.size()) >= options_.most;
  if (!full && (bytes <= options_.memory || saver_.joinable())) return;
  throw ApiError(429, "rate_limit_error",
                 full ? fmt::format("there are {}, and no more are kept; delete one", Counted(options_.most, "session"))
                      : "sessions hold all the memory that they may; delete one");
}

std::string Sessions::Add(std::shared_ptr<LongText> text, bool begun) {
  std::string id = RandomName(kPrefix);
  Session session{.form = ToString(text->cache->form()),
                  .created = std::time(nullptr),
                  .used = std::time(nullptr),
                  .tokens = text->cache->seen(),
                  .bytes = text->cache->bytes(),
                  .indexed = text->cache->prefix_tokens(),
                  .begun = begun,
                  .text = std::move(text)};
  {
    const std::lock_guard lock(mutex_);
    Expire();
    CheckRoom();
    session.busy = saver_.joinable();
    sessions_.emplace(id, session);
  }
  if (!saver_.joinable()) return id;
  const std::optional<Error> failed = TryWrite(id, session, *session.text);
  const std::lock_guard lock(mutex_);
  sessions_[id].busy = false;
  sessions_[id].saved = !failed;
  if (failed) {
    sessions_.erase(id);
    throw *failed;
  }
  Evict();
  return id;
}

std::unique_ptr<KvCache> Sessions::NewCache(const KvForm& form, bool indexed) const {
  return indexed ? scheduler_->NewIndexedCache(form) : scheduler_->NewCache(form);
}

std::string Sessions::Create(const KvForm& form, bool indexed) {
  auto text = std::make_shared<LongText>();
  text->cache = NewCache(form, indexed);
  return Add(std::move(text), false);
}

std::string Sessions::CreateFrom(const std::string& id) {
  auto copy = std::make_shared<LongText>();
  const std::unique_ptr<Lease> lease = Take(id);
  copy->cache = lease->text()->cache->Fork();
  copy->state = lease->text()->state;
  return Add(std::move(copy), lease->begun());
}

std::shared_ptr<LongText> Sessions::Load(const std::string& id, const std::string& form, bool indexed) const {
  auto text = std::make_shared<LongText>();
  text->cache = NewCache(ParseKvForm(form), indexed);
  const nlohmann::json notes = LoadKvState(FileOf(id), model_, text->cache.get());
  text->state = WithFrame(FileOf(id).string(), [&] { return ParseTextState(notes, weights_->spec().vocab); });
  return text;
}

std::unique_ptr<Sessions::Lease> Sessions::Take(const std::string& id) {
  std::string form;
  std::shared_ptr<LongText> text;
  bool begun = false, indexed = false;
  {
    const std::lock_guard lock(mutex_);
    Session& session = At(id)->second;
    session.busy = true;
    session.used = std::time(nullptr);
    form = session.form;
    begun = session.begun;
    indexed = session.indexed > 0;
    text = session.text;
  }
  if (text == nullptr) {
    const auto release = [&] {
      const std::lock_guard lock(mutex_);
      sessions_[id].busy = false;
    };
    try {
      text = Load(id, form, indexed);
    } catch (const Error& error) {  // of a file of ours, not of what the client sent
      release();
      throw OwnFault(error);
    } catch (...) {
      release();
      throw;
    }
  }
  const std::lock_guard lock(mutex_);
  sessions_[id].text = text;
  return std::make_unique<Lease>(this, id, std::move(text), begun);
}

Sessions::Lease::~Lease() {
  if (text_ == nullptr) return;
  if (changes_) {
    Finish({});
  } else {
    text_.reset();
    sessions_->Release(id_);
  }
}

void Sessions::Lease::Finish(std::function<void(const Error*)> then) {
  if (text_ == nullptr) return;
  sessions_->Return({std::move(id_), std::exchange(text_, nullptr), std::move(then)});
}

void Sessions::Return(Job job) {
  {
    const std::lock_guard lock(mutex_);
    Session& session = sessions_[job.id];
    session.used = std::time(nullptr);
    if (job.text->cache == nullptr) {  // lost in an error: what was saved last is what there is
      session.text.reset();
      session.busy = false;
      if (!session.saved) sessions_.erase(job.id);
    } else {
      session.tokens = job.text->cache->seen();
      session.bytes = job.text->cache->bytes();
      session.begun = session.begun || session.tokens > session.indexed || !job.text->state.pending.empty();
      if (saver_.joinable()) {
        jobs_.push_back(std::move(job));
        wake_.notify_all();
        return;
      }
      session.busy = false;
    }
  }
  if (job.then) job.then(nullptr);
}

void Sessions::Release(const std::string& id) {
  const std::lock_guard lock(mutex_);
  sessions_[id].busy = false;
  Evict();
}

void Sessions::RunSaver() {
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return ends_ || !jobs_.empty(); });
    if (jobs_.empty()) return;
    const Job job = std::move(jobs_.front());
    jobs_.pop_front();
    const Session session = sessions_[job.id];
    lock.unlock();
    const std::optional<Error> failed = TryWrite(job.id, session, *job.text);
    if (failed) LogLine(fmt::format("session {} is not saved: {}", job.id, failed->what()));
    lock.lock();
    sessions_[job.id].saved = !failed;
    sessions_[job.id].busy = false;
    Evict();
    lock.unlock();
    try {
      if (job.then) job.then(failed ? &*failed : nullptr);
    } catch (const std::exception& error) {  // out of memory, say, while an answer is made
      LogLine(fmt::format("session {}: {}", job.id, error.what()));
    }
    lock.lock();
  }
}

void Sessions::Write(const std::string& id, const Session& session, const LongText& text) const {
  nlohmann::json notes = ToJson(text.state);
  notes["session"] = {{"created", session.created},
                      {"used", session.used},
                      {"bytes", session.bytes},
                      {"begun", session.begun},
                      {"model", fmt::format("{:016x}", model_)}};
  SaveKvState(*text.cache, model_, FileOf(id), notes);
}

/// What went wrong, whatever it was: who waits for this has a session to give back.
std::optional<Error> Sessions::TryWrite(const std::string& id, const Session& session, const LongText& text) const {
  try {
    Write(id, session, text);
  } catch (const Error& error) {
    return error;
  } catch (const std::exception& error) {
    return Error(ErrorKind::kIo, error.what());
  }
  return std::nullopt;
}

void Sessions::Delete(const std::string& id) {
  const std::lock_guard lock(mutex_);
  const auto session = At(id);
  if (!options_.folder.empty()) RemoveQuietly(FileOf(id));
  sessions_.erase(session);
}

void Sessions::Save(const std::string& id) {
  if (!saver_.joinable()) {
    throw ApiError(400, "invalid_request_error",
                   "this server keeps no sessions in files; start it with --sessions DIR");
  }
  std::mutex done_mutex;
  std::condition_variable done;
  bool over = false;
  std::optional<Error> failed;
  Take(id)->Finish([&](const Error* error) {
    const std::lock_guard lock(done_mutex);
    if (error != nullptr) failed = *error;
    over = true;
    done.notify_all();
  });
  std::unique_lock lock(done_mutex);
  done.wait(lock, [&] { return over; });
  if (failed) throw *failed;
}

OrderedJson Sessions::JsonOf(const std::string& id, const Session& session) const {
  return {{"id", id},
          {"object", "session"},
          {"created", session.created},
          {"used", session.used},
          {"kv", session.form},
          {"tokens", session.tokens},
          {"indexed_tokens", session.indexed},
          {"kv_bytes", session.bytes},
          {"busy", session.busy},
          {"saved", session.saved}};
}

OrderedJson Sessions::Json(const std::string& id) {
  const std::lock_guard lock(mutex_);
  Expire();
  const auto found = sessions_.find(id);
  if (found == sessions_.end()) {
    throw ApiError(404, "not_found_error", "there is no session of this id", "session", "session_not_found");
  }
  return JsonOf(id, found->second);
}

OrderedJson Sessions::ListJson() {
  const std::lock_guard lock(mutex_);
  Expire();
  OrderedJson list = OrderedJson::array();
  for (const auto& [id, session] : sessions_) list.push_back(JsonOf(id, session));
  return {{"object", "list"}, {"data", std::move(list)}};
}

}  // namespace hawser
