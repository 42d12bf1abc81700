// serve/sessions.h - texts that stay with the server from request to request, in memory and in files.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <thread>

#include "hawser/infer/scheduler.h"
#include "hawser/model/weights.h"

namespace hawser {

struct SessionOptions {
  std::filesystem::path folder;       // ID.session each, a state of kv/state.h; empty: in memory alone
  int64_t most = 64;                  // sessions
  int64_t memory = int64_t{1} << 30;  // bytes of keys and values of sessions that rest; beyond them: files alone
  std::chrono::seconds expiry{7 * 24 * 60 * 60};  // without a request, then a session is deleted; 0: never
};

/// THREADS: any.
class Sessions {
 public:
  /// Finds the sessions in the folder; those of other models stay where they are and are told in the log. Pointers
  /// outlive it. Errors: kIo where the folder cannot be made.
  Sessions(const Scheduler* scheduler, const Weights* weights, SessionOptions options);
  /// Saves what is waiting for it.
  ~Sessions();

  /// A session while a request has it.
  class Lease {
   public:
    Lease(Sessions* sessions, std::string id, std::shared_ptr<LongText> text, bool begun)
        : sessions_(sessions), id_(std::move(id)), text_(std::move(text)), begun_(begun) {}
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;

    const std::shared_ptr<LongText>& text() const { return text_; }
    bool begun() const { return begun_; }  // something came before
    /// From here on the text changes. A lease that ends before leaves the session as it was.
    void Begin() { changes_ = true; }
    /// The session rests again, once it is saved; `then` is called when it is, from another thread, with its error.
    void Finish(std::function<void(const Error*)> then);

   private:
    Sessions* sessions_;
    std::string id_;
    std::shared_ptr<LongText> text_;
    bool begun_, changes_ = false;
  };

  /// Errors, of all: ApiError. 404 for an id that is not there, 409 while a request has it, 429 for too many.
  /// `indexed`: it begins behind the indexed prefix, which the scheduler has.
  std::string Create(const KvForm& form, bool indexed);
  /// A session that goes on from where another one stands.
  std::string CreateFrom(const std::string& id);
  std::unique_ptr<Lease> Take(const std::string& id);
  void Delete(const std::string& id);
  nlohmann::ordered_json Json(const std::string& id);
  nlohmann::ordered_json ListJson();
  /// Writes it now. Errors: 400 where there is no folder.
  void Save(const std::string& id);

 private:
  struct Session {
    std::string form;
    int64_t created = 0, used = 0;               // seconds since 1970
    int64_t tokens = 0, bytes = 0, indexed = 0;  // indexed: tokens of the prefix that it goes on behind
    bool busy = false, saved = false, begun = false;
    std::shared_ptr<LongText> text;  // null: in its file alone, or a request has it
  };
  struct Job {
    std::string id;
    std::shared_ptr<LongText> text;
    std::function<void(const Error*)> then;
  };
  using Map = std::map<std::string, Session>;

  std::filesystem::path FileOf(const std::string& id) const { return options_.folder / (id + ".session"); }
  void Find();
  void FindOne(const std::filesystem::path& path);
  std::string Add(std::shared_ptr<LongText> text, bool begun);
  Map::iterator At(const std::string& id);
  nlohmann::ordered_json JsonOf(const std::string& id, const Session& session) const;
  void CheckRoom();
  void Expire();
  void Evict();
  std::unique_ptr<KvCache> NewCache(const KvForm& form, bool indexed) const;
  std::shared_ptr<LongText> Load(const std::string& id, const std::string& form, bool indexed) const;
  void Write(const std::string& id, const Session& session, const LongText& text) const;
  std::optional<Error> TryWrite(const std::string& id, const Session& session, const LongText& text) const;
  void Return(Job job);
  void Release(const std::string& id);
  void RunSaver();

  const Scheduler* scheduler_;
  const Weights* weights_;
  const uint64_t model_;  // fingerprint, where there is a folder
  const SessionOptions options_;
  std::mutex mutex_;  // of what follows
  Map sessions_;
  std::deque<Job> jobs_;
  std::condition_variable wake_;
  bool ends_ = false;
  std::thread saver_;  // where there is a folder
};

}  // namespace hawser
