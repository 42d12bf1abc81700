// tok/word_cache.h - the ids of words that were met before: one cache line a word, no allocation after the first.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

namespace hawser {

/// A word goes where its hash says, in place of the one that was there. Long words and those of many ids are not kept.
class WordCache {
 public:
  /// For a text of `bytes`: small texts get small caches.
  explicit WordCache(size_t bytes)
      : words_(std::bit_ceil(std::clamp<size_t>(bytes / kBytesPerWord, kLeastWords, kMostWords))) {}

  /// Where `word` is or would be.
  struct Slot {
    size_t at;
    bool found;
  };
  Slot Find(std::string_view word) const {
    const size_t at = Hash(word) & (words_.size() - 1);
    const Word& there = words_[at];
    const bool same =
        !word.empty() && there.length == word.size() && std::memcmp(there.text, word.data(), word.size()) == 0;
    return {at, same};
  }
  std::span<const int32_t> Ids(const Slot& slot) const { return {words_[slot.at].ids, words_[slot.at].count}; }
  void Put(const Slot& slot, std::string_view word, std::span<const int32_t> ids) {
    if (word.size() > kMostText || ids.size() > kMostIds) return;
    Word& there = words_[slot.at];
    there.length = static_cast<uint8_t>(word.size());
    there.count = static_cast<uint8_t>(ids.size());
    std::copy(word.begin(), word.end(), there.text);
    std::copy(ids.begin(), ids.end(), there.ids);
  }

 private:
  static constexpr size_t kBytesPerWord = 8, kLeastWords = 64, kMostWords = 1 << 15;
  static constexpr size_t kMostText = 30, kMostIds = 8;

  struct alignas(64) Word {
    uint8_t length = 0;  // 0: free
    uint8_t count = 0;
    char text[kMostText];
    int32_t ids[kMostIds];
  };

  /// Eight bytes at a time, multiplied and folded.
  static size_t Hash(std::string_view word) {
    constexpr uint64_t kOdd = 0x9e3779b97f4a7c15;
    uint64_t hash = word.size() * kOdd;
    for (size_t at = 0; at < word.size(); at += sizeof(uint64_t)) {
      uint64_t part = 0;
      std::memcpy(&part, word.data() + at, std::min(sizeof(part), word.size() - at));
      hash = (hash ^ part) * kOdd;
      hash ^= hash >> 32;
    }
    return static_cast<size_t>(hash ^ hash >> 17);
  }

  std::vector<Word> words_;
};

}  // namespace hawser
