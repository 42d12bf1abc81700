#include <algorithm>
#include <deque>
#include <utility>

#include "hawser/infer/scheduler_slot.h"

namespace hawser {
namespace {

double Seconds(std::chrono::steady_clock::duration time) { return std::chrono::duration<double>(time).count(); }

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

/// Ends what was cancelled or has run out of time, under way or waiting.
void Scheduler::Collect() {
  std::vector<uint64_t> cancelled;
  std::vector<std::unique_ptr<Slot>> ended;
  const auto now = Slot::Clock::now();
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

/// The text behind which a request went on is whole again, with what was read and drawn.
void Scheduler::GiveBack(Slot* slot) {
  LongText* behind = slot->request.behind.get();
  if (behind == nullptr || (slot->cache == nullptr && slot->spare == nullptr)) return;
  const bool prompt = slot->prefills;
  if (slot->spare != nullptr && !slot->rest().empty()) {
    slot->cache = std::move(slot->spare);
    slot->fed.clear();
    slot->prefills = false;
  }
  if (slot->cache == nullptr || slot->cache->seen() != slot->before + static_cast<int64_t>(slot->fed.size())) return;
  slot->EndPrefill();
  slot->text->Save(&behind->state);
  const std::span<const int32_t> rest = slot->rest();
  behind->state.pending.assign(rest.begin(), rest.end());
  behind->state.unread = prompt && !rest.empty();
  const bool unread = slot->next >= 0 && slot->text->end() != StopReason::kEos;
  if (rest.empty() && unread) behind->state.pending = {slot->next};
  behind->cache = std::move(slot->cache);
}

void Scheduler::End(Slot* slot) {
  const auto now = Slot::Clock::now();
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
    const auto answered = slot->answered == Slot::Clock::time_point{} ? now : slot->answered;
    event.prompt_seconds = Seconds(answered - slot->begun);
    event.decode_seconds = Seconds(now - answered);
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

}  // namespace hawser
