#include "hawser/base/python_random.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <unordered_set>

#include "hawser/base/error.h"

namespace hawser {
namespace {

constexpr size_t kMiddle = 397;

/// The words of an integer seed, least significant first: one for a seed below 2^32.
std::array<uint32_t, 2> SeedWords(uint64_t seed) {
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
}

}  // namespace

MersenneTwister::MersenneTwister(uint32_t seed) {
  state_[0] = seed;
  for (size_t i = 1; i < kWords; ++i) {
    state_[i] = 1812433253u * (state_[i - 1] ^ (state_[i - 1] >> 30)) + static_cast<uint32_t>(i);
  }
}

MersenneTwister::MersenneTwister(std::span<const uint32_t> key) : MersenneTwister(19650218u) {
  size_t i = 1, j = 0;
  const auto step = [&] {
    if (++i < kWords) return;
    state_[0] = state_[kWords - 1];
    i = 1;
  };
  const auto mixed = [&](uint32_t factor) { return state_[i] ^ ((state_[i - 1] ^ (state_[i - 1] >> 30)) * factor); };
  for (size_t k = std::max(kWords, key.size()); k > 0; --k) {
    state_[i] = mixed(1664525u) + key[j] + static_cast<uint32_t>(j);
    step();
    j = (j + 1) % key.size();
  }
  for (size_t k = kWords - 1; k > 0; --k) {
    state_[i] = mixed(1566083941u) - static_cast<uint32_t>(i);
    step();
  }
  state_[0] = 0x80000000u;
}

uint32_t MersenneTwister::Bits() {
  if (next_ == kWords) {
    for (size_t i = 0; i < kWords; ++i) {
      const uint32_t y = (state_[i] & 0x80000000u) | (state_[(i + 1) % kWords] & 0x7fffffffu);
      state_[i] = state_[(i + kMiddle) % kWords] ^ (y >> 1) ^ ((y & 1) ? 0x9908b0dfu : 0u);
    }
    next_ = 0;
  }
  uint32_t y = state_[next_++];
  y ^= y >> 11;
  y ^= (y << 7) & 0x9d2c5680u;
  y ^= (y << 15) & 0xefc60000u;
  return y ^ (y >> 18);
}

PythonRandom::PythonRandom(uint64_t seed)
    : bits_(std::span<const uint32_t>(SeedWords(seed)).first(seed >> 32 == 0 ? 1 : 2)) {}

double PythonRandom::Random() {
  const uint32_t high = bits_.Bits() >> 5;
  const uint32_t low = bits_.Bits() >> 6;
  return (high * 67108864.0 + low) * (1.0 / 9007199254740992.0);
}

unsigned __int128 PythonRandom::RandBits(int bits) {
  HAWSER_CHECK(bits > 0 && bits <= 128);
  unsigned __int128 value = 0;
  for (int done = 0; done < bits; done += 32) {
    const uint32_t word = bits_.Bits();
    value |= static_cast<unsigned __int128>(word >> std::max(0, 32 - (bits - done))) << done;
  }
  return value;
}

uint64_t PythonRandom::RandBelow(uint64_t n) {
  HAWSER_CHECK(n > 0);
  const int bits = std::bit_width(n);
  for (;;) {
    const unsigned __int128 value = RandBits(bits);
    if (value < n) return static_cast<uint64_t>(value);
  }
}

std::string PythonRandom::Uuid4() {
  const unsigned __int128 bits = RandBits(128);
  const uint64_t high = (static_cast<uint64_t>(bits >> 64) & ~uint64_t{0xf000}) | 0x4000;
  const uint64_t low = (static_cast<uint64_t>(bits) & ~(uint64_t{3} << 62)) | (uint64_t{1} << 63);
  return fmt::format("{:08x}-{:04x}-{:04x}-{:04x}-{:012x}", high >> 32, (high >> 16) & 0xffff, high & 0xffff, low >> 48,
                     low & 0xffffffffffffull);
}

std::vector<size_t> PythonRandom::SampleIndices(size_t n, size_t count) {
  HAWSER_CHECK(count <= n);
  std::vector<size_t> out(count);
  size_t pool_size = 21;  // up to which a list of all is cheaper than a set of those taken
  if (count > 5) {
    size_t power = 1;
    while (power < 3 * count) power *= 4;
    pool_size += power;
  }
  if (n <= pool_size) {
    std::vector<size_t> pool(n);
    std::iota(pool.begin(), pool.end(), size_t{0});
    for (size_t i = 0; i < count; ++i) {
      const auto j = static_cast<size_t>(RandBelow(n - i));
      out[i] = pool[j];
      pool[j] = pool[n - i - 1];
    }
    return out;
  }
  std::unordered_set<size_t> taken;
  for (size_t& index : out) {
    do {
      index = static_cast<size_t>(RandBelow(n));
    } while (!taken.insert(index).second);
  }
  return out;
}

int64_t NumpyRandom::RandInt(int64_t low, int64_t high) {
  HAWSER_CHECK(low < high && static_cast<uint64_t>(high) - static_cast<uint64_t>(low) <= uint64_t{1} << 32);
  const auto range = static_cast<uint32_t>(static_cast<uint64_t>(high) - static_cast<uint64_t>(low) - 1);
  if (range == 0) return low;  // without a draw
  const auto mask = static_cast<uint32_t>((uint64_t{1} << std::bit_width(range)) - 1);
  uint32_t value;
  do {
    value = bits_.Bits() & mask;
  } while (value > range);
  return low + value;
}

}  // namespace hawser
