#include <algorithm>
#include <utility>

#include "hawser/infer/scheduler_slot.h"

namespace hawser {
namespace {

constexpr int64_t kWorthWaiting = 32;  // tokens that another prompt is about to read

}  // namespace

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
  slot->text = std::make_unique<Continuation>(request.generate, tokenizer_, spec.vocab, request.prompt,
                                              behind != nullptr ? &behind->state : nullptr);
  slot->lead = slot->text->Begin(/*prompt_follows=*/!request.prompt.empty());
  slot->prefills = !request.prompt.empty() || behind->state.unread;  // a drawn token left over is no prompt
  slot->left_over = static_cast<int64_t>(pending.size());
  request.prompt.insert(request.prompt.begin(), pending.begin(), pending.end());
  slot->request = std::move(request);
  slot->reserved = cache.BytesFor(prompt - cache.seen(), most) + (slot->keeps_spare() ? cache.bytes() : 0);
  if (options_.kv_bytes > 0 && slot->reserved > options_.kv_bytes) {
    Fail(ErrorKind::kUsage, "keys and values of {} tokens and {} more take {} bytes, and {} are allowed", prompt, most,
         slot->reserved, options_.kv_bytes);
  }
  slot->sink = std::move(sink);
  slot->submitted = Slot::Clock::now();
  const std::lock_guard lock(mutex_);
  if (closed_) Fail(ErrorKind::kIo, "no more requests are taken");
  const auto free = static_cast<size_t>(std::max<int64_t>(0, options_.slots - stats_.running));
  if (waiting_.size() >= options_.queue + free) return 0;
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
      ++stats_.running;
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
  s->begun = Slot::Clock::now();
  For(s, [&] {
    if (s->request.behind != nullptr) s->cache = std::move(s->request.behind->cache);
    if (s->shares() && !s->request.prompt_logprobs) FindPrefix(s, &prefixes_, slots_);
    if (s->cache == nullptr && s->indexed) {
      s->cache = NewIndexedCache(s->form, s->request.keep);
      s->cached = s->cache->prefix_tokens();
      s->fed.assign(s->request.prompt.begin(), s->request.prompt.begin() + s->cached);
    }
    if (s->cache == nullptr) s->cache = NewCache(s->form);
    if (s->keeps_spare()) s->spare = s->cache->Fork();
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

}  // namespace hawser
