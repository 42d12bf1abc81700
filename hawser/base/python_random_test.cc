#include "hawser/base/python_random.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {
namespace {

// The numbers are those that CPython 3.11 and NumPy 1.24 print.

std::vector<int> Range(int n) {
  std::vector<int> range(static_cast<size_t>(n));
  std::iota(range.begin(), range.end(), 0);
  return range;
}

TEST(PythonRandom, Random) {
  PythonRandom zero(0), seeded(42), wide((uint64_t{1} << 40) + 7);
  EXPECT_EQ(zero.Random(), 0.8444218515250481);
  EXPECT_EQ(zero.Random(), 0.7579544029403025);
  EXPECT_EQ(seeded.Random(), 0.6394267984578837);
  EXPECT_EQ(wide.Random(), 0.6137037779936511);
}

TEST(PythonRandom, Bits) {
  PythonRandom zero(0);
  EXPECT_EQ(static_cast<uint64_t>(zero.RandBits(32)), 3626764237u);
  EXPECT_EQ(static_cast<uint64_t>(zero.RandBits(32)), 1654615998u);
  PythonRandom seeded(42), wide((uint64_t{1} << 40) + 7);
  seeded.Random(), wide.Random();
  const auto text = [](unsigned __int128 value) {
    std::string digits;
    for (; value > 0; value /= 10) digits.insert(digits.begin(), static_cast<char>('0' + static_cast<int>(value % 10)));
    return digits;
  };
  EXPECT_EQ(text(seeded.RandBits(70)), "327273841618135227089");
  EXPECT_EQ(text(wide.RandBits(70)), "1124106443655682611893");
  EXPECT_EQ(seeded.RandBelow(1'000'000'000'000), 245864938384u);
  EXPECT_EQ(wide.RandBelow(1'000'000'000'000), 629811958337u);
  EXPECT_EQ(seeded.RandInt(-5, 5), -3);
  EXPECT_EQ(wide.RandInt(-5, 5), 2);
  EXPECT_EQ(PythonRandom(0).Uuid4(), "e3e70682-c209-4cac-a29f-6fbed82c07cd");
  EXPECT_EQ(PythonRandom(42).Uuid4(), "bdd640fb-0667-4ad1-9c80-317fa3b1799d");
}

TEST(PythonRandom, Integers) {
  PythonRandom random(1234);
  std::vector<int64_t> drawn;
  for (int i = 0; i < 5; ++i) drawn.push_back(random.RandInt(1000000, 9999999));
  EXPECT_EQ(drawn, (std::vector<int64_t>{8394266, 2960426, 1125686, 2520747, 1585963}));
  EXPECT_EQ(random.RandBelow(1), 0u);  // a draw all the same
}

TEST(PythonRandom, ShufflesAndChooses) {
  std::vector<int> order = Range(20);
  PythonRandom(0).Shuffle(order);
  EXPECT_EQ(order, (std::vector<int>{10, 18, 16, 14, 0, 17, 11, 2, 3, 9, 5, 7, 4, 19, 6, 15, 8, 1, 13, 12}));
  order = Range(20);
  PythonRandom(42).Shuffle(order);
  EXPECT_EQ(order, (std::vector<int>{19, 5, 14, 4, 9, 13, 15, 18, 6, 12, 17, 10, 1, 11, 2, 16, 7, 8, 0, 3}));

  PythonRandom letters(42);
  const std::string_view alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
  for (const std::string_view word : {"QAHFT", "RXCKA", "FNAFQ"}) {
    const std::vector<char> drawn = letters.Choices(std::span<const char>(alphabet), 5);
    EXPECT_EQ(std::string(drawn.begin(), drawn.end()), word);
  }
  PythonRandom choice(42);
  const std::vector<int> thousand = Range(1000);
  for (const int drawn : {654, 114, 25, 759, 281}) EXPECT_EQ(choice.Choice(thousand), drawn);
}

// Few of many, most of few, and the border between the two methods.
TEST(PythonRandom, Samples) {
  PythonRandom few(42);
  const std::vector<int> many = Range(2251);
  EXPECT_EQ(few.Sample(many, 5), (std::vector<int>{456, 102, 1126, 1003, 914}));
  EXPECT_EQ(few.Sample(many, 5), (std::vector<int>{571, 419, 2233, 356, 1728}));
  EXPECT_EQ(PythonRandom(42).Sample(Range(10), 4), (std::vector<int>{1, 0, 4, 9}));
  EXPECT_EQ(PythonRandom(42).Sample(Range(0), 0), std::vector<int>{});
  const auto sampled = [](int n, size_t count) { return PythonRandom(7).Sample(Range(n), count); };
  EXPECT_EQ(sampled(21, 5), (std::vector<int>{10, 4, 12, 1, 2}));
  EXPECT_EQ(sampled(22, 5), (std::vector<int>{10, 4, 12, 20, 1}));
  EXPECT_EQ(sampled(85, 6), (std::vector<int>{41, 19, 50, 6, 9, 68}));
  EXPECT_EQ(sampled(86, 6), (std::vector<int>{41, 19, 50, 83, 6, 9}));
  EXPECT_EQ(sampled(277, 22), (std::vector<int>{165, 77,  202, 24, 37,  48, 187, 29, 259, 109, 19,
                                                44,  222, 214, 35, 123, 46, 217, 30, 63,  114, 31}));
}

TEST(PythonRandom, DrawsAsLegacyNumpy) {
  NumpyRandom random(42);
  for (const int drawn : {25795, 10860, 86820, 64886, 16265, 92386, 47194, 97498, 54131, 70263}) {
    EXPECT_EQ(random.RandInt(10000, 99999), drawn);
  }
  EXPECT_EQ(random.RandInt(3, 4), 3);
}

}  // namespace
}  // namespace hawser
