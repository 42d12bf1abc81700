// base/python_random.h - the numbers of CPython's `random` and of NumPy's legacy generator, draw for draw, so that data
// and few-shot examples are those of evaluations written in Python. For anything else use rng.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace hawser {

/// The Mersenne Twister MT19937 (Matsumoto and Nishimura 1998).
class MersenneTwister {
 public:
  /// init_genrand.
  explicit MersenneTwister(uint32_t seed);
  /// init_by_array. REQUIRES: key not empty.
  explicit MersenneTwister(std::span<const uint32_t> key);

  uint32_t Bits();

 private:
  static constexpr size_t kWords = 624;
  std::array<uint32_t, kWords> state_;
  size_t next_ = kWords;  // of the state's words: the first not yet handed out
};

/// random.Random(seed) of an integer seed. Copyable: a copy draws the same numbers.
class PythonRandom {
 public:
  explicit PythonRandom(uint64_t seed);

  /// random(): in [0, 1), 53 bits.
  double Random();
  /// getrandbits(bits). REQUIRES: 0 < bits <= 128.
  unsigned __int128 RandBits(int bits);
  /// randrange(n): uniform in [0, n). REQUIRES: n > 0.
  uint64_t RandBelow(uint64_t n);
  /// randrange(begin, end): uniform in [begin, end). REQUIRES: begin < end.
  int64_t RandRange(int64_t begin, int64_t end) {
    return begin + static_cast<int64_t>(RandBelow(static_cast<uint64_t>(end) - static_cast<uint64_t>(begin)));
  }
  /// randint(low, high): uniform in [low, high]. REQUIRES: low <= high.
  int64_t RandInt(int64_t low, int64_t high) { return RandRange(low, high + 1); }
  /// uniform(low, high).
  double Uniform(double low, double high) { return low + (high - low) * Random(); }
  /// str(uuid.UUID(int=getrandbits(128), version=4)).
  std::string Uuid4();

  /// choice(items). REQUIRES: not empty.
  template <class Items>
  const auto& Choice(const Items& items) {
    return items[static_cast<size_t>(RandBelow(std::size(items)))];
  }

  /// choices(items, k=count): with replacement. REQUIRES: items not empty.
  template <class T>
  std::vector<T> Choices(std::span<const T> items, size_t count) {
    std::vector<T> out(count);
    for (T& item : out) item = items[static_cast<size_t>(Random() * static_cast<double>(items.size()))];
    return out;
  }

  /// shuffle(items).
  template <class T>
  void Shuffle(std::vector<T>& items) {
    for (size_t i = items.size(); i-- > 1;) {
      const auto j = static_cast<size_t>(RandBelow(i + 1));
      if (i != j) std::swap(items[i], items[j]);
    }
  }

  /// sample(range(n), count), in the order drawn. REQUIRES: count <= n.
  std::vector<size_t> SampleIndices(size_t n, size_t count);

  /// sample(items, count), in the order drawn. REQUIRES: count <= items.size().
  template <class T>
  std::vector<T> Sample(const std::vector<T>& items, size_t count) {
    std::vector<T> out;
    out.reserve(count);
    for (const size_t i : SampleIndices(items.size(), count)) out.push_back(items[i]);
    return out;
  }

 private:
  MersenneTwister bits_;
};

/// numpy.random.RandomState(seed).
class NumpyRandom {
 public:
  explicit NumpyRandom(uint32_t seed) : bits_(seed) {}

  /// randint(low, high): uniform in [low, high). REQUIRES: 0 < high - low < 2^32.
  int64_t RandInt(int64_t low, int64_t high);

 private:
  MersenneTwister bits_;
};

}  // namespace hawser
