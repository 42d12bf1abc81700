// base/rng.h - counter-based randomness: a value depends on (seed, stream, counter) alone, so that resuming at counter
// n equals never having stopped, whatever the number of threads.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace hawser {

/// 64 bits from three words: two rounds of the splitmix64 finaliser (Steele, Lea, Flood 2014) over their mixture.
inline uint64_t RandomBits(uint64_t seed, uint64_t stream, uint64_t counter) {
  const auto mix = [](uint64_t z) {
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return z ^ (z >> 31);
  };
  const uint64_t key = mix(seed + 0x9e3779b97f4a7c15ull) + mix(stream ^ 0xd1b54a32d192ed03ull) * 0x9e3779b97f4a7c15ull;
  return mix(mix(key + counter * 0x9e3779b97f4a7c15ull) ^ key);
}

/// A stream of random values; copyable, and `counter` is its whole state.
struct Rng {
  uint64_t seed = 0;
  uint64_t stream = 0;
  uint64_t counter = 0;

  uint64_t Bits() { return RandomBits(seed, stream, counter++); }
  /// Uniform in [0, 1), 53 bits.
  double Uniform() { return static_cast<double>(Bits() >> 11) * 0x1p-53; }
  /// Uniform in [0, n) by the multiply-high method; n > 0.
  uint64_t Below(uint64_t n) { return static_cast<uint64_t>((static_cast<unsigned __int128>(Bits()) * n) >> 64); }
  /// Standard normal (Box-Muller; two draws a value).
  double Normal() {
    const double u = 1.0 - Uniform();
    return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * Uniform());
  }
};

}  // namespace hawser
