// base/hash.h - a checksum of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace hawser {

/// FNV-1a over 64-bit words: the seed, the bytes (the last word padded with zeros), their number.
class Hasher64 {
 public:
  explicit Hasher64(uint64_t seed = 0) { AddWord(seed); }

  /// The next bytes: whole words of 8, but for the last ones.
  void Add(std::span<const std::byte> bytes) {
    size_t at = 0;
    for (; at + 8 <= bytes.size(); at += 8) {
      uint64_t word;
      std::memcpy(&word, bytes.data() + at, 8);
      AddWord(word);
    }
    if (at < bytes.size()) std::memcpy(&rest_, bytes.data() + at, bytes.size() - at);
    size_ += bytes.size();
  }
  uint64_t Finish() {
    AddWord(rest_);
    AddWord(size_);
    return hash_;
  }

 private:
  void AddWord(uint64_t word) {
    hash_ = (hash_ ^ word) * 0x100000001b3ull;
    hash_ ^= hash_ >> 32;  // the multiply moves bits up only
  }

  uint64_t hash_ = 0xcbf29ce484222325ull;
  uint64_t rest_ = 0, size_ = 0;
};

inline uint64_t Hash64(std::span<const std::byte> bytes, uint64_t seed = 0) {
  Hasher64 hasher(seed);
  hasher.Add(bytes);
  return hasher.Finish();
}

}  // namespace hawser
