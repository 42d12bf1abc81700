#include "hawser/infer/prefix_cache.h"

#include <algorithm>
#include <utility>

namespace hawser {
namespace {

int64_t Common(std::span<const int32_t> a, std::span<const int32_t> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

}  // namespace

int64_t PrefixCache::Shared(const KvCache& cache, std::span<const int32_t> seen, std::span<const int32_t> prompt) {
  const int64_t common = Common(seen, prompt);
  const int64_t most = std::min(common, static_cast<int64_t>(prompt.size()) - 1);
  if (most == static_cast<int64_t>(seen.size()) || cache.holds_all()) return std::max<int64_t>(most, 0);
  return 0;
}

PrefixCache::Hit PrefixCache::Find(const std::string& form, std::span<const int32_t> ids) {
  ++queries_;
  auto best = entries_.end();
  int64_t length = 0;
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (entry->form != form) continue;
    const int64_t shared = Shared(*entry->cache, entry->ids, ids);
    if (shared <= length) continue;
    length = shared;
    best = entry;
  }
  if (best == entries_.end()) return {};
  ++hits_;
  entries_.splice(entries_.begin(), entries_, best);
  return {best->cache->Fork(length), length};
}

void PrefixCache::Keep(const std::string& form, std::vector<int32_t> ids, std::unique_ptr<KvCache> cache) {
  const int64_t bytes = cache->bytes() + static_cast<int64_t>(ids.size() * sizeof(int32_t));
  if (ids.empty() || bytes > limit_) return;
  std::erase_if(entries_, [&](const Entry& entry) {
    return entry.form == form && entry.ids.size() <= ids.size() &&
           Common(entry.ids, ids) == static_cast<int64_t>(entry.ids.size()) &&
           (cache->holds_all() || entry.ids.size() == ids.size());
  });
  entries_.push_front({form, std::move(ids), std::move(cache)});
  for (Count(); bytes_ > limit_; Count()) entries_.pop_back();
}

void PrefixCache::Count() {
  std::vector<const KvCache*> caches;
  bytes_ = 0;
  for (const Entry& entry : entries_) {
    caches.push_back(entry.cache.get());
    bytes_ += static_cast<int64_t>(entry.ids.size() * sizeof(int32_t));
  }
  bytes_ += HeldBytes(caches);
}

void PrefixCache::Clear() {
  entries_.clear();
  bytes_ = 0;
}

}  // namespace hawser
