// infer/prefix_cache.h - caches of texts that were read, so that a prompt which begins like one of them is read from
// where it differs.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "hawser/kv/cache.h"

namespace hawser {

/// Not for several threads at once.
class PrefixCache {
 public:
  /// `bytes`: of keys and values that are kept at most, what several of them share counted once; the least recently
  /// used go first. 0: nothing is kept.
  explicit PrefixCache(int64_t bytes) : limit_(bytes) {}

  struct Hit {
    std::unique_ptr<KvCache> cache;  // null: nothing to begin with
    int64_t length = 0;              // tokens of the prompt that it has seen
  };
  /// A fork of what is kept for the longest beginning of `ids`, at least one token short of it. Of caches that have
  /// dropped or moved keys only such as have seen nothing but a beginning of `ids` serve. `form`: text of the policy.
  Hit Find(const std::string& form, std::span<const int32_t> ids);

  /// Keeps a cache that has seen `ids`. Takes the place of those whose ids are a beginning of it, where it serves for
  /// them too.
  void Keep(const std::string& form, std::vector<int32_t> ids, std::unique_ptr<KvCache> cache);

  /// Tokens that `seen` and `prompt` begin with alike and a fork of `cache`, which has seen `seen`, could serve: 0
  /// where there is none.
  static int64_t Shared(const KvCache& cache, std::span<const int32_t> seen, std::span<const int32_t> prompt);

  int64_t bytes() const { return bytes_; }
  size_t size() const { return entries_.size(); }
  int64_t queries() const { return queries_; }
  int64_t hits() const { return hits_; }
  void Clear();

 private:
  struct Entry {
    std::string form;
    std::vector<int32_t> ids;
    std::unique_ptr<KvCache> cache;
  };
  void Count();

  int64_t limit_;
  int64_t bytes_ = 0, queries_ = 0, hits_ = 0;
  std::list<Entry> entries_;  // the most recently used first
};

}  // namespace hawser
