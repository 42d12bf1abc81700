// base/hash.h - a checksum of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace hawser {

/// FNV-1a over 64-bit words: the seed, the bytes (the last word padded with zeros), their number.
inline uint64_t Hash64(std::span<const std::byte> bytes, uint64_t seed = 0) {
  uint64_t hash = 0xcbf29ce484222325ull;
  const auto add = [&](uint64_t word) {
    hash = (hash ^ word) * 0x100000001b3ull;
    hash ^= hash >> 32;  // the multiply moves bits up only
  };
  add(seed);
  size_t at = 0;
  for (; at + 8 <= bytes.size(); at += 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data() + at, 8);
    add(word);
  }
  uint64_t rest = 0;
  if (at < bytes.size()) std::memcpy(&rest, bytes.data() + at, bytes.size() - at);
  add(rest);
  add(bytes.size());
  return hash;
}

}  // namespace hawser
