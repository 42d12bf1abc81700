#include "hawser/infer/scheduler.h"

#include <algorithm>
#include <map>
#include <new>
#include <utility>

#include "hawser/base/out_of_memory.h"
#include "hawser/infer/scheduler_slot.h"
#include "hawser/model/kv_shape.h"
#include "hawser/tok/separators.h"

namespace hawser {
namespace {

constexpr int64_t kMostRows = 1024;    // of a step in which no text waits for its next token
constexpr size_t kSeparatorSets = 64;  // that are known at once: a client may name any

}  // namespace

Error CaughtError() {
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
      if (separators_.size() >= kSeparatorSets) separators_.clear();
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

void Scheduler::Cancel(uint64_t id) {
  const std::lock_guard lock(mutex_);
  cancelled_.push_back(id);
  wake_.notify_one();
}

void Scheduler::Wait(std::chrono::milliseconds most) {
  std::unique_lock lock(mutex_);
  wake_.wait_for(lock, most, [&] { return !waiting_.empty() || !cancelled_.empty(); });
}

bool Scheduler::Step() {
  Collect();
  Admit();
  std::vector<Slot*> pass, reading;
  for (const auto& slot : slots_) (slot->reading() ? reading : pass).push_back(slot.get());
  // Products of many rows are of those that follow one another.
  std::stable_partition(pass.begin(), pass.end(), std::mem_fn(&Slot::shares));
  for (Slot* slot : pass) slot->to_feed = {slot->next};
  int64_t rows = pass.empty() ? std::max(kMostRows, options_.rows) : options_.rows;
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

void Scheduler::Publish() {
  std::map<std::string, std::vector<const KvCache*>> caches;  // only those of a form have pages in common
  for (const auto& slot : slots_) {
    caches[slot->form_text].push_back(slot->cache.get());
    if (slot->spare != nullptr) caches[slot->form_text].push_back(slot->spare.get());
  }
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
