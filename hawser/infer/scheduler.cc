#include "hawser/infer/scheduler.h"

#include <algorithm>
#include <new>
#include <utility>

#include "hawser/base/out_of_memory.h"
#include "hawser/base/parallel.h"
#include "hawser/model/kv_shape.h"
#include "hawser/tok/separators.h"

namespace hawser {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int64_t kMostRows = 1024;    // of a step in which no text waits for its next token
constexpr int64_t kLogitRows = 64;     // whose logits are held at once
constexpr int64_t kWorthWaiting = 32;  // tokens that another prompt is about to read

/// What a text is told of the exception that is being caught. Others than those of ours and of memory go on.
Error Caught() {
  const auto memory = [] { return Error(ErrorKind::kIo, "there is not enough memory for this text now"); };
  try {
    throw;
  } catch (const OutOfMemory&) {
    return memory();
  } catch (const std::bad_alloc&) {
    return memory();
  } catch (const Error& error) {
    return error;
  }
}

double Seconds(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

/// A letter for each token that the first layer has seen (Event::held).
std::string HeldBy(const KvCache& cache) {
  std::string held(static_cast<size_t>(cache.seen()), '-');
  held.replace(0, static_cast<size_t>(cache.prefix_tokens()), static_cast<size_t>(cache.prefix_tokens()), 'i');
  const std::span<const SlotInfo> slots = cache.slots();
  const AttnPattern pattern = cache.policy().Pattern();
  for (const SlotInfo& slot : slots) {
    const bool recent = slot.index > slots.back().index - pattern.window;
    const bool separator = slot.settled || (slot.separator && !recent);
    const bool first = slot.index < cache.policy().initial();
    held[static_cast<size_t>(slot.index)] = first ? 'a' : separator ? 's' : 'w';
  }
  return held;
}

/// Of an indexed prefix, what its reads had to read, in the mean.
double ShareRead(const SqueezedReader& reader) {
  double keys = 0, queries = 0;
  for (const bool prompt : {true, false}) {
    keys += static_cast<double>(reader.usage(prompt).keys);
    queries += static_cast<double>(reader.usage(prompt).queries);
  }
  return queries > 0 ? keys / queries / static_cast<double>(reader.tokens()) : 0;
}

}  // namespace

struct Scheduler::Slot {
  uint64_t id = 0;
  Request request;
  EventSink sink;
  KvForm form;
  std::string form_text;
  std::string shares_as;  // caches of the same have prefixes in common
  bool indexed = false;   // it begins behind the indexed prefix
  int64_t reserved = 0;   // bytes of keys and values
  std::unique_ptr<Continuation> text;
  std::unique_ptr<KvCache> cache;
  std::vector<int32_t> fed;      // what the cache has seen
  std::vector<int32_t> to_feed;  // in this pass
  int64_t cached = 0;            // tokens of the prompt that did not have to be read
  int64_t before = 0;            // tokens that the cache had seen when the request began
  int64_t left_over = 0;         // of the prompt: tokens that were pending
  int32_t next = -1;             // drawn and not fed yet
  std::string lead;              // text that an earlier request held back
  bool over = false, cancelled = false, prefills = false;
  Clock::time_point submitted, begun, answered;

  bool reading() const { return next < 0; }
  /// What of a dense prompt stays hangs on where it began and ended.
  bool shares() const { return request.share && request.behind == nullptr && form.prefill == KvPrefill::kSparse; }
  bool apart() const { return !shares(); }
  int64_t prompt_tokens() const { return static_cast<int64_t>(request.prompt.size()) - left_over; }
  std::span<const int32_t> rest() const {
    return std::span<const int32_t>(request.prompt).subspan(std::min(fed.size(), request.prompt.size()));
  }
};

/// Draws from the rows that end a prompt or a text so far, and takes log-probabilities of the others.
class Scheduler::Sink : public RowSink {
 public:
  Sink(Scheduler* scheduler, std::span<Slot* const> slots) : s_(scheduler), slots_(slots) {}

  void Rows(std::span<const Row> rows, ConstMat hidden) override {
    for (size_t begin = 0, n = 0; begin < rows.size(); begin += n) {
      n = Together(rows.subspan(begin));
      const auto count = static_cast<int64_t>(n);
      if (s_->logits_.rows() < count) s_->logits_ = Matrix(count, s_->decoder_->spec().vocab);
      s_->decoder_->Logits(hidden.Rows(static_cast<int64_t>(begin), count), s_->logits_.view().Rows(0, count));
      Take(rows.subspan(begin, n));
    }
  }

 private:
  struct Result {
    std::optional<Event> event;
    std::optional<Error> error;
  };

  /// How many of the first rows go into one product with the head: as DecodeChunk::apart has it for the others.
  size_t Together(std::span<const Row> rows) const {
    const bool apart = slots_[rows[0].chunk]->apart();
    const auto of_one = [&](size_t i) { return i + 1 < rows.size() && rows[i + 1].chunk == rows[i].chunk; };
    const bool several = apart && of_one(0);
    const auto most = static_cast<size_t>(apart && !several ? kAlikeRows : kLogitRows);
    size_t n = 1;
    for (; n < std::min(rows.size(), most); ++n) {
      const bool same = rows[n].chunk == rows[0].chunk;
      if (several ? !same : slots_[rows[n].chunk]->apart() != apart || (apart && of_one(n))) break;
    }
    return n;
  }

  void Take(std::span<const Row> rows) {
    std::vector<Result> results(rows.size());
    ParallelFor(static_cast<int64_t>(rows.size()), [&](int64_t r) {
      Result& result = results[static_cast<size_t>(r)];
      try {
        const ConstMat logits = s_->logits_.view();
        result.event = OfRow(rows[static_cast<size_t>(r)], {logits.Row<float>(r), static_cast<size_t>(logits.cols)});
      } catch (...) {
        result.error = Caught();
      }
    });
    for (size_t r = 0; r < rows.size(); ++r) {
      Slot* slot = slots_[rows[r].chunk];
      if (slot->over) continue;
      if (results[r].error) {  // the pass still has its cache
        slot->next = -1;
        s_->Tell(slot, {.kind = Event::Kind::kError, .error = results[r].error});
        slot->over = true;
      } else if (results[r].event) {
        s_->Tell(slot, *results[r].event);
      }
    }
  }

  static std::optional<Event> OfRow(const Row& row, Slot* slot, std::span<const float> logits);
  std::optional<Event> OfRow(const Row& row, std::span<const float> logits) const {
    return OfRow(row, slots_[row.chunk], logits);
  }

  Scheduler* s_;
  std::span<Slot* const> slots_;
};

std::optional<Event> Scheduler::Sink::OfRow(const Row& row, Slot* slot, std::span<const float> logits) {
  if (slot->over) return std::nullopt;
  const Request& request = slot->request;
  const size_t after = slot->fed.size() + static_cast<size_t>(row.token) + 1;  // tokens of the text up to this row
  if (after < request.prompt.size()) {
    return Event{.kind = Event::Kind::kPromptToken,
                 .token = LogprobOf(logits, request.prompt[after], std::max(0, request.top_logprobs))};
  }
  if (slot->text->end()) return std::nullopt;
  Event event{.kind = Event::Kind::kToken};
  event.text = std::exchange(slot->lead, {}) + slot->text->Push(logits);
  slot->next = slot->text->drawn();
  event.token.id = slot->next;
  if (request.top_logprobs >= 0) event.token = LogprobOf(logits, slot->next, request.top_logprobs);
  return event;
}

Scheduler::Scheduler(Backend* backend, Decoder* decoder, const Tokenizer* tokenizer, DType dtype,
                     SchedulerOptions options)
    : backend_(backend),
      decoder_(decoder),
      tokenizer_(tokenizer),
      dtype_(dtype),
      options_(std::move(options)),
      prefixes_(options_.prefix_bytes) {
  HAWSER_CHECK(options_.slots > 0 && options_.rows > 0);
  const auto cache = NewCache(options_.kv);  // its errors belong here
  if (options_.prefix != nullptr) cache->CheckFollow();
}

Scheduler::~Scheduler() = default;

std::unique_ptr<KvCache> Scheduler::NewCache(const KvForm& form) const {
  const ModelSpec& spec = decoder_->spec();
  std::vector<uint8_t> flags;
  {
    const std::lock_guard lock(separators_mutex_);
    auto known = separators_.find(form.separator_set);
    if (known == separators_.end()) {
      known =
          separators_.emplace(form.separator_set, ModelSeparators(tokenizer_, form.separator_set, spec.vocab)).first;
    }
    flags = known->second;
  }
  return std::make_unique<KvCache>(NewKvCache(backend_, spec, form, std::move(flags), dtype_, 0));
}

std::unique_ptr<KvCache> Scheduler::NewIndexedCache(const KvForm& form, std::optional<KeepRule> keep) const {
  std::unique_ptr<KvCache> cache = NewCache(form);
  cache->Follow(std::make_shared<SqueezedReader>(*options_.prefix, keep.value_or(options_.prefix->rule())));
  return cache;
}

bool Scheduler::BeginsIndexed(const Request& request, const KvForm& form) const {
  if (options_.prefix == nullptr || request.behind != nullptr || request.prompt_logprobs || !form.keeps_all()) {
    return false;
  }
  const std::vector<int32_t>& ids = options_.prefix->index().ids;
  return request.prompt.size() > ids.size() && std::equal(ids.begin(), ids.end(), request.prompt.begin());
}

uint64_t Scheduler::Submit(Request request, EventSink sink) {
  const ModelSpec& spec = decoder_->spec();
  LongText* behind = request.behind.get();
  HAWSER_CHECK(behind == nullptr || behind->cache != nullptr);
  const std::span<const int32_t> pending =
      behind != nullptr ? std::span<const int32_t>(behind->state.pending) : std::span<const int32_t>();
  if (request.prompt.empty() && pending.empty()) Fail(ErrorKind::kUsage, "a prompt needs at least one token");
  for (size_t i = 0; i < request.prompt.size(); ++i) {
    if (request.prompt[i] < 0 || request.prompt[i] >= spec.vocab) {
      Fail(ErrorKind::kUsage, "token {} of the prompt has id {}, the vocabulary has ids 0 to {}", i, request.prompt[i],
           spec.vocab - 1);
    }
  }
  auto slot = std::make_unique<Slot>();
  slot->form = behind != nullptr ? behind->cache->form() : request.kv.value_or(options_.kv);
  slot->form_text = slot->shares_as = ToString(slot->form);
  slot->indexed = BeginsIndexed(request, slot->form);
  if (slot->indexed) {
    slot->shares_as += " behind the prefix, keep " + ToString(request.keep.value_or(options_.prefix->rule()));
  }
  slot->before = behind != nullptr ? behind->cache->seen() : 0;
  const int64_t prompt = slot->before + static_cast<int64_t>(pending.size() + request.prompt.size());
  const int64_t most = std::max<int64_t>(0, request.generate.max_new);
  if (slot->form.keeps_all() && most > options_.context - prompt) {
    Fail(ErrorKind::kUsage, "the context holds {} tokens; the prompt has {} and asks for {} more", options_.context,
         prompt, most);
  }
  const std::unique_ptr<KvCache> fresh = behind != nullptr ? nullptr
                                         : slot->indexed   ? NewIndexedCache(slot->form, request.keep)
                                                           : NewCache(slot->form);
  const KvCache& cache = behind != nullptr ? *behind->cache : *fresh;
  slot->reserved = cache.BytesFor(prompt - cache.seen(), std::min(most, int64_t{1} << 40));
  if (options_.kv_bytes > 0 && slot->reserved > options_.kv_bytes) {
    Fail(ErrorKind::kUsage, "keys and values of {} tokens take {} bytes, and {} are allowed", prompt + most,
         slot->reserved, options_.kv_bytes);
  }
  slot->text = std::make_unique<Continuation>(request.generate, tokenizer_, spec.vocab, request.prompt,
                                              behind != nullptr ? &behind->state : nullptr);
  slot->lead = slot->text->Begin(/*prompt_follows=*/!request.prompt.empty());
  slot->prefills = !request.prompt.empty() || pending.size() > 1;  // a single token left over is no prompt
  slot->left_over = static_cast<int64_t>(pending.size());
  request.prompt.insert(request.prompt.begin(), pending.begin(), pending.end());
  slot->request = std::move(request);
  slot->sink = std::move(sink);
  slot->submitted = Clock::now();
  const std::lock_guard lock(mutex_);
  if (closed_) Fail(ErrorKind::kIo, "no more requests are taken");
  if (waiting_.size() >= options_.queue) return 0;
  slot->id = next_id_++;
  const uint64_t id = slot->id;
  const auto later = [&](const std::unique_ptr<Slot>& other) {
    return other->request.priority < slot->request.priority;
  };
  waiting_.insert(std::ranges::find_if(waiting_, later), std::move(slot));
  stats_.waiting = static_cast<int64_t>(waiting_.size());
  wake_.notify_one();
  return id;
}

void Scheduler::Cancel(uint64_t id) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
  wake_.notify_one();
}

void Scheduler::Wait(std::chrono::milliseconds most) {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, most, [&] { return !waiting_.empty() || !cancelled_.empty(); });
}

/// Ends what was cancelled or has run out of time, under way or waiting.
void Scheduler::Collect() {
  std::vector<uint64_t> cancelled;
  std::vector<std::unique_ptr<Slot>> ended;
  const auto now = Clock::now();
  {
    const std::lock_guard lock(mutex_);
    cancelled.swap(cancelled_);
    const auto marked = [&](Slot& slot) {
      slot.cancelled = std::ranges::find(cancelled, slot.id) != cancelled.end();
      const auto timeout = slot.request.timeout;
      return slot.cancelled || (timeout.count() > 0 && now - slot.submitted > timeout);
    };
    for (auto& slot : waiting_) {
      if (marked(*slot)) ended.push_back(std::move(slot));
    }
    std::erase(waiting_, nullptr);
    for (auto& slot : slots_) {
      if (marked(*slot)) ended.push_back(std::move(slot));
    }
    std::erase(slots_, nullptr);
  }
  for (const auto& slot : ended) {
    if (slot->cancelled) {
      slot->text->Cancel();
      For(slot.get(), [&] { End(slot.get()); });
    } else {
      Fault(slot.get(),
            Error(ErrorKind::kIo, fmt::format("the request has run out of its {} ms", slot->request.timeout.count())));
    }
  }
}

/// Whether another prompt under way is about to read what this one begins with.
bool Scheduler::Postponed(const Slot& slot) const {
  if (!slot.shares() || slot.request.prompt_logprobs || !slot.form.keeps_all()) return false;
  int64_t have = 0, coming = 0;
  for (const auto& other : slots_) {
    if (!other->shares() || other->shares_as != slot.shares_as || !other->cache->holds_all()) continue;
    const std::vector<int32_t>& ids = other->request.prompt;
    const int64_t common = std::ranges::mismatch(ids, slot.request.prompt).in1 - ids.begin();
    have = std::max(have, std::min(common, other->cache->seen()));
    coming = std::max(coming, common);
  }
  return coming - have >= kWorthWaiting;
}

void Scheduler::Admit() {
  while (static_cast<int64_t>(slots_.size()) < options_.slots) {
    int64_t reserved = 0;
    for (const auto& slot : slots_) reserved += slot->reserved;
    std::unique_ptr<Slot> slot;
    {
      const std::lock_guard lock(mutex_);
      const auto found = std::ranges::find_if(waiting_, [&](const auto& s) { return !Postponed(*s); });
      if (found == waiting_.end()) return;
      if (options_.kv_bytes > 0 && reserved + (*found)->reserved > options_.kv_bytes) return;  // its turn will come
      slot = std::move(*found);
      waiting_.erase(found);
    }
    Begin(std::move(slot));
  }
}

/// Begins with what an earlier or another request has read already.
void Scheduler::FindPrefix(Slot* slot, PrefixCache* prefixes, const std::vector<std::unique_ptr<Slot>>& slots) {
  PrefixCache::Hit hit = prefixes->Find(slot->shares_as, slot->request.prompt);
  const Slot* source = nullptr;
  for (const auto& other : slots) {
    if (!other->shares() || other->shares_as != slot->shares_as || !other->form.keeps_all()) continue;
    const int64_t shared = PrefixCache::Shared(*other->cache, other->fed, slot->request.prompt);
    if (shared <= hit.length) continue;
    hit.length = shared;
    source = other.get();
  }
  if (source != nullptr) hit.cache = source->cache->Fork(hit.length);
  if (hit.cache == nullptr) return;
  slot->cache = std::move(hit.cache);
  slot->cached = hit.length;
  slot->fed.assign(slot->request.prompt.begin(), slot->request.prompt.begin() + hit.length);
}

void Scheduler::Begin(std::unique_ptr<Slot> slot) {
  Slot* s = slot.get();
  s->begun = Clock::now();
  For(s, [&] {
    if (s->request.behind != nullptr) s->cache = std::move(s->request.behind->cache);
    if (s->shares() && !s->request.prompt_logprobs) FindPrefix(s, &prefixes_, slots_);
    if (s->cache == nullptr && s->indexed) {
      s->cache = NewIndexedCache(s->form, s->request.keep);
      s->cached = s->cache->prefix_tokens();
      s->fed.assign(s->request.prompt.begin(), s->request.prompt.begin() + s->cached);
    }
    if (s->cache == nullptr) s->cache = NewCache(s->form);
    if (s->prefills) s->cache->BeginPrefill(static_cast<int64_t>(s->rest().size()));
  });
  if (s->over) return;
  slots_.push_back(std::move(slot));
  const int64_t prompt = s->prompt_tokens();
  Tell(s, {.kind = Event::Kind::kStart, .prompt_tokens = prompt, .cached_tokens = s->cached, .read_tokens = s->cached});
  if (s->request.prompt_logprobs) {
    Tell(s, {.kind = Event::Kind::kPromptToken, .token = {.id = s->request.prompt.front()}});
  }
}

/// Tokens of its prompt that a slot reads in a step which has room for `rows`.
int64_t Scheduler::Piece(const Slot& slot, int64_t rows) const {
  const int64_t rest = std::ssize(slot.rest()), n = std::min(rest, slot.apart() ? options_.rows : rows);
  if (n > rows) return 0;  // its pieces do not depend on what else there is to read
  if (slot.cache->prefix() == nullptr || slot.apart() || n == rest) return n;
  // Nor do the tiles in which it chooses what to read of the prefix, where a step has room for one.
  const int64_t odd = (slot.cache->seen() - slot.cache->prefix_tokens() + n) % SqueezedReader::kTile;
  return odd < n ? n - odd : rows < options_.rows ? 0 : n;
}

bool Scheduler::Step() {
  Collect();
  Admit();
  std::vector<Slot*> pass, reading;
  for (const auto& slot : slots_) (slot->reading() ? reading : pass).push_back(slot.get());
  std::ranges::stable_partition(pass, &Slot::shares);  // products of many rows are of those that follow one another
  for (Slot* slot : pass) slot->to_feed = {slot->next};
  int64_t rows = pass.empty() ? kMostRows : options_.rows;
  std::ranges::stable_sort(reading, std::greater(), [](const Slot* s) { return s->request.priority; });
  for (Slot* slot : reading) {
    if (rows == 0) break;
    const std::span<const int32_t> rest = slot->rest();
    const int64_t n = Piece(*slot, rows);
    if (n == 0) continue;
    slot->to_feed.assign(rest.begin(), rest.begin() + n);
    rows -= n;
    pass.push_back(slot);
  }
  if (pass.empty()) {
    Publish();
    return false;
  }
  RunPass(pass);
  for (Slot* slot : pass) {
    if (!slot->over) {
      For(slot, [&] { AfterPass(slot); });
    } else {  // nobody listens to it any more
      slot->fed.insert(slot->fed.end(), slot->to_feed.begin(), slot->to_feed.end());
    }
    if (slot->over) For(slot, [&] { GiveBack(slot); });
  }
  std::erase_if(slots_, [](const auto& slot) { return slot->over; });
  Publish();
  return true;
}

/// One pass with all, or where that fails one with each, so that only those end whose own it was.
void Scheduler::RunPass(std::span<Slot* const> slots) {
  std::vector<DecodeChunk> chunks;
  for (Slot* slot : slots) {
    const bool ends = slot->reading() && slot->to_feed.size() == slot->rest().size();
    const Wanted wanted = slot->reading() && slot->request.prompt_logprobs ? Wanted::kAll
                          : slot->reading() && !ends                       ? Wanted::kNone
                                                                           : Wanted::kLast;
    chunks.push_back({.cache = slot->cache.get(), .tokens = slot->to_feed, .wanted = wanted, .apart = slot->apart()});
  }
  Sink sink(this, slots);
  std::optional<Error> failed;
  try {
    decoder_->Run(chunks, &sink);
    return;
  } catch (...) {
    failed = Caught();
  }
  for (Slot* slot : slots) {
    if (slot->over) continue;
    const bool untouched = slot->cache->seen() == slot->before + static_cast<int64_t>(slot->fed.size());
    if (untouched && slots.size() > 1) {
      RunPass({&slot, 1});
      continue;
    }
    if (!untouched) slot->cache.reset();  // nobody knows what it has seen
    Fault(slot, *failed);
  }
}

void Scheduler::AfterPass(Slot* slot) {
  const bool was_reading = slot->fed.size() < slot->request.prompt.size();
  slot->fed.insert(slot->fed.end(), slot->to_feed.begin(), slot->to_feed.end());
  {
    const std::lock_guard lock(mutex_);
    if (was_reading) stats_.prompt_tokens += static_cast<int64_t>(slot->to_feed.size());
  }
  if (was_reading) {
    const auto prompt = static_cast<int64_t>(slot->request.prompt.size());
    const auto read = static_cast<int64_t>(slot->fed.size());
    if (slot->request.progress) {
      Tell(slot, {.kind = Event::Kind::kProgress,
                  .prompt_tokens = prompt,
                  .cached_tokens = slot->cached,
                  .read_tokens = read});
    }
    if (read < prompt || slot->over) return;
    slot->answered = Clock::now();
    if (std::exchange(slot->prefills, false)) slot->cache->EndPrefill();
    const bool snapshot = slot->shares() && !slot->cache->holds_all() && options_.prefix_bytes > 0;
    if (snapshot) prefixes_.Keep(slot->shares_as, slot->request.prompt, slot->cache->Fork());
  }
  if (slot->text->end()) End(slot);
}

void Scheduler::Tell(Slot* slot, const Event& event) {
  if (slot->over) return;
  if (event.kind == Event::Kind::kToken) {
    const std::lock_guard lock(mutex_);
    ++stats_.new_tokens;
  }
  try {
    if (!slot->sink(event)) slot->over = true;
  } catch (const std::exception&) {
    slot->over = true;
  }
}

template <class What>
void Scheduler::For(Slot* slot, const What& what) {
  try {
    what();
  } catch (...) {
    Fault(slot, Caught());
  }
}

/// The text behind which a request went on is whole again, with what was read and drawn.
void Scheduler::GiveBack(Slot* slot) {
  LongText* behind = slot->request.behind.get();
  if (behind == nullptr || slot->cache == nullptr) return;
  if (slot->cache->seen() != slot->before + static_cast<int64_t>(slot->fed.size())) return;
  if (std::exchange(slot->prefills, false)) slot->cache->EndPrefill();
  slot->text->Save(&behind->state);
  const std::span<const int32_t> rest = slot->rest();
  behind->state.pending.assign(rest.begin(), rest.end());
  const bool unread = slot->next >= 0 && slot->text->end() != StopReason::kEos;
  if (rest.empty() && unread) behind->state.pending = {slot->next};
  behind->cache = std::move(slot->cache);
}

void Scheduler::End(Slot* slot) {
  const auto now = Clock::now();
  Event event{.kind = Event::Kind::kEnd, .prompt_tokens = slot->prompt_tokens(), .cached_tokens = slot->cached};
  event.text = std::exchange(slot->lead, {}) + slot->text->Finish();
  event.stop = slot->text->end().value_or(StopReason::kCancelled);
  event.new_tokens = static_cast<int64_t>(slot->text->ids().size());
  if (slot->cache != nullptr) {
    const KvUsage usage = slot->cache->usage();
    event.kept_tokens = static_cast<int64_t>(usage.final_mean);
    event.evicted_tokens = slot->cache->seen() - slot->cache->prefix_tokens() - event.kept_tokens;
    event.kv_bytes = slot->cache->bytes();
    if (const SqueezedReader* prefix = slot->cache->prefix()) {
      event.indexed_tokens = prefix->tokens();
      event.indexed_share = ShareRead(*prefix);
    }
    if (slot->request.show_cache) {
      event.seen = slot->fed;
      event.held = HeldBy(*slot->cache).substr(static_cast<size_t>(slot->before));
    }
    const auto answered = slot->answered == Clock::time_point{} ? now : slot->answered;
    event.prompt_seconds = Seconds(slot->begun, answered);
    event.decode_seconds = Seconds(answered, now);
    const std::lock_guard lock(mutex_);
    stats_.cached_tokens += slot->cached;
    stats_.indexed += slot->indexed ? 1 : 0;
    stats_.evicted_tokens += event.evicted_tokens;
  }
  GiveBack(slot);
  Tell(slot, event);
  slot->over = true;
  const bool keep = slot->cache != nullptr && slot->shares() && options_.prefix_bytes > 0 &&
                    slot->fed.size() >= slot->request.prompt.size();
  if (keep) prefixes_.Keep(slot->shares_as, std::move(slot->fed), std::move(slot->cache));
}

void Scheduler::Fault(Slot* slot, const Error& error) {
  try {
    GiveBack(slot);
  } catch (const std::exception&) {  // the text behind which it went on has lost its cache
  }
  Tell(slot, {.kind = Event::Kind::kError, .error = error});
  slot->over = true;
}

void Scheduler::EndAll(const Error& error) {
  std::deque<std::unique_ptr<Slot>> waiting;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    waiting.swap(waiting_);
  }
  for (const auto& slot : waiting) Fault(slot.get(), error);
  for (const auto& slot : slots_) Fault(slot.get(), error);
  slots_.clear();
  Publish();
}

void Scheduler::Publish() {
  std::map<std::string, std::vector<const KvCache*>> caches;  // only those of a form have pages in common
  for (const auto& slot : slots_) caches[slot->form_text].push_back(slot->cache.get());
  std::map<std::string, int64_t> of;
  int64_t bytes = 0;
  for (const auto& [form, some] : caches) bytes += of[form] = HeldBytes(some);
  const std::lock_guard lock(mutex_);
  stats_.kv_bytes_of = std::move(of);
  ++stats_.steps;
  stats_.running = static_cast<int64_t>(slots_.size());
  stats_.waiting = static_cast<int64_t>(waiting_.size());
  stats_.kv_bytes = bytes;
  stats_.prefix_bytes = prefixes_.bytes();
  stats_.prefix_queries = prefixes_.queries();
  stats_.prefix_hits = prefixes_.hits();
}

SchedulerStats Scheduler::stats() const {
  const std::lock_guard lock(mutex_);
  return stats_;
}

}  // namespace hawser
