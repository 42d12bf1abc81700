// infer/scheduler.h - many texts at once over one decoder: continuous batching. Each step is one pass over the weights
// with a token of every text under way and pieces of the prompts that wait.
// THREADS: Step, Idle and stats from one thread; Submit and Cancel from any. Events come from the thread of Step. A
// text for which there is not enough memory ends with an error (kIo) and takes no other with it.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/infer/continuation.h"
#include "hawser/infer/prefix_cache.h"
#include "hawser/kv/squeezed.h"
#include "hawser/model/decoder.h"

namespace hawser {

/// A text that goes on from request to request.
struct LongText {
  /// Null while a request has it, and where one ended within a pass so that nobody knows what it has seen.
  std::unique_ptr<KvCache> cache;
  TextState state;
};

struct Request {
  std::vector<int32_t> prompt;          // at least one token, but behind a text with one that is pending
  GenerateOptions generate;             // of it `cancelled` is not used; max_new 0: the prompt alone
  int32_t top_logprobs = -1;            // of each new token; -1: no log-probabilities
  bool prompt_logprobs = false;         // of the prompt's tokens too, with as many of the most probable
  bool progress = false;                // tells how much of the prompt is read
  std::optional<KvForm> kv;             // none: that of the scheduler
  std::optional<KeepRule> keep;         // what is read of the indexed prefix; none: as the scheduler says
  int32_t priority = 0;                 // higher ones first
  std::chrono::milliseconds timeout{};  // from Submit; 0: none
  bool show_cache = false;              // kEnd tells which tokens are held
  /// Goes on behind this text, under its form; nothing is shared then. It is the request's until its sink is destroyed,
  /// and holds all of it when kEnd comes. What was not read of a prompt is pending: a dense one that was not read to
  /// its end is all of it.
  std::shared_ptr<LongText> behind = nullptr;
  /// Begins with what earlier prompts have in common, and is kept for later ones. Without, and behind a text, all of it
  /// is the same to the bit whoever else is served: its tokens are multiplied apart (DecodeChunk::apart), prompts in
  /// pieces of SchedulerOptions::rows.
  bool share = true;
};

struct Event {
  enum class Kind : uint8_t { kStart, kProgress, kPromptToken, kToken, kEnd, kError };
  Kind kind = Kind::kToken;
  int64_t prompt_tokens = 0, cached_tokens = 0, read_tokens = 0;  // of the prompt; read_tokens with what was cached
  TokenLogprob token;  // kPromptToken (of the first: no logprob), kToken; without log-probabilities the id alone
  std::string text;    // kToken: that is certain now; kEnd: the rest
  StopReason stop = StopReason::kLength;                      // kEnd
  std::optional<Error> error;                                 // kError: the request is over
  int64_t new_tokens = 0;                                     // kEnd
  int64_t kept_tokens = 0, evicted_tokens = 0, kv_bytes = 0;  // kEnd: of the cache, mean of the layers
  int64_t indexed_tokens = 0;                                 // kEnd: of the indexed prefix; 0: it is not behind one
  double indexed_share = 0;                                   // kEnd: of these, what was read, mean of all reads
  double prompt_seconds = 0, decode_seconds = 0;              // kEnd
  /// kEnd where asked: what the cache has seen, and of each token what holds it in the first layer ('a' among the
  /// initial ones, 's' a separator, 'w' a recent one, 'i' of the indexed prefix, '-' forgotten).
  std::vector<int32_t> seen;
  std::string held;
};
/// False, or an exception: nobody listens any more; the request is cancelled and hears nothing further.
using EventSink = std::function<bool(const Event&)>;

struct SchedulerOptions {
  int32_t slots = 4;            // texts under way at most
  int64_t rows = 256;           // of a step that prompts may take, beside a token of each text under way
  size_t queue = 64;            // requests that wait at most, beside those that have a free slot
  int64_t kv_bytes = 0;         // of keys and values of texts under way at most; 0: no limit
  int64_t prefix_bytes = 0;     // of the prefix cache
  int64_t context = INT64_MAX;  // tokens of prompt and answer that a cache which keeps everything may hold
  KvForm kv;
  /// An indexed prefix, or null. Prompts that begin with it and have more behind go on from there without reading it,
  /// where the cache keeps everything and no log-probabilities of the prompt are wanted.
  std::shared_ptr<const SqueezedReader> prefix = nullptr;
};

struct SchedulerStats {
  int64_t running = 0, waiting = 0;
  int64_t prompt_tokens = 0, cached_tokens = 0, new_tokens = 0, evicted_tokens = 0, steps = 0;
  int64_t kv_bytes = 0, prefix_bytes = 0, prefix_queries = 0, prefix_hits = 0;
  int64_t indexed = 0;                         // texts that began behind the indexed prefix
  std::map<std::string, int64_t> kv_bytes_of;  // by the form of the caches, under way
};

class Scheduler {
 public:
  /// Pointers outlive it. Errors: those of caches of the form, and of KvCache::CheckFollow.
  Scheduler(Backend* backend, Decoder* decoder, const Tokenizer* tokenizer, DType dtype, SchedulerOptions options);
  ~Scheduler();

  /// Takes a request; its events come during later Steps. Returns its number, or 0 where the queue is full and nothing
  /// was taken. Errors: kUsage (no prompt, an id outside the vocabulary, more tokens than the context or the memory for
  /// keys holds, options out of bounds, a form for other layers), kIo after EndAll.
  uint64_t Submit(Request request, EventSink sink);
  /// The request ends at the next step, with kEnd by StopReason::kCancelled. Nothing if it is over.
  void Cancel(uint64_t id);

  /// One pass. False: there was nothing to do.
  bool Step();
  /// Waits until there is something to do, for `most` at longest.
  void Wait(std::chrono::milliseconds most);
  /// Every request ends with an error of this text, those that wait too.
  void EndAll(const Error& error);

  SchedulerStats stats() const;  // from any thread, as of the last step
  /// An empty cache as requests have them. THREADS: any. Errors: those of KvCache.
  std::unique_ptr<KvCache> NewCache(const KvForm& form) const;
  /// The same behind the indexed prefix, which is there. Errors: also those of KvCache::CheckFollow.
  std::unique_ptr<KvCache> NewIndexedCache(const KvForm& form, std::optional<KeepRule> keep = std::nullopt) const;
  const SqueezedReader* prefix() const { return options_.prefix.get(); }  // null: there is none

 private:
  struct Slot;
  class Sink;

  void Collect();
  void Admit();
  bool Postponed(const Slot& slot) const;
  void Begin(std::unique_ptr<Slot> slot);
  static void FindPrefix(Slot* slot, PrefixCache* prefixes, const std::vector<std::unique_ptr<Slot>>& slots);
  bool BeginsIndexed(const Request& request, const KvForm& form) const;
  int64_t Piece(const Slot& slot, int64_t rows) const;
  void RunPass(std::span<Slot* const> slots);
  /// Something for one text, which ends where that throws.
  template <class What>
  void For(Slot* slot, const What& what);
  void AfterPass(Slot* slot);
  void Tell(Slot* slot, const Event& event);
  void End(Slot* slot);
  static void GiveBack(Slot* slot);
  void Fault(Slot* slot, const Error& error);
  void Publish();

  Backend* backend_;
  Decoder* decoder_;
  const Tokenizer* tokenizer_;
  DType dtype_;
  SchedulerOptions options_;
  PrefixCache prefixes_;
  std::vector<std::unique_ptr<Slot>> slots_;  // under way, the oldest first
  Matrix logits_;                             // of some rows of a pass [.., V]

  mutable std::mutex separators_mutex_;
  mutable std::map<std::string, std::vector<uint8_t>> separators_;  // flags of token ids, by their text form

  mutable std::mutex mutex_;  // of what follows
  std::condition_variable wake_;
  std::deque<std::unique_ptr<Slot>> waiting_;
  std::vector<uint64_t> cancelled_;
  bool closed_ = false;
  uint64_t next_id_ = 1;
  SchedulerStats stats_;
};

}  // namespace hawser
