#include "hawser/base/q8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "hawser/base/dtype.h"
#include "hawser/base/rng.h"

namespace hawser {
namespace {

std::vector<float> RoundTrip(const std::vector<float>& x) {
  const auto n = static_cast<int64_t>(x.size());
  std::vector<std::byte> bytes(static_cast<size_t>(Q8Bytes(n)) + 1, std::byte{0x5a});
  QuantizeQ8(x.data(), n, bytes.data());
  EXPECT_EQ(bytes.back(), std::byte{0x5a});  // not a byte too many
  std::vector<float> back(x.size());
  DequantizeQ8(bytes.data(), n, back.data());
  return back;
}

TEST(Q8, SizesOfWholeAndShortBlocks) {
  EXPECT_EQ(Q8Bytes(0), 0);
  EXPECT_EQ(Q8Bytes(8), 10);
  EXPECT_EQ(Q8Bytes(32), 34);
  EXPECT_EQ(Q8Bytes(33), 37);
  EXPECT_EQ(Q8Bytes(64), 68);
  EXPECT_EQ(Q8Bytes(100), 108);
}

TEST(Q8, EveryValueIsWithinHalfAStep) {
  Rng rng{.seed = 3, .stream = 1};
  for (int trial = 0; trial < 4000; ++trial) {
    const auto n = static_cast<int64_t>(1 + rng.Below(100));
    const double size = std::ldexp(1.0, static_cast<int>(rng.Below(55)) - 38);  // subnormal scales, too
    std::vector<float> x(static_cast<size_t>(n));
    for (float& value : x) value = static_cast<float>(size * rng.Normal());
    const std::vector<float> back = RoundTrip(x);
    for (int64_t begin = 0; begin < n; begin += kQ8Block) {
      const int64_t end = std::min(begin + kQ8Block, n);
      double most = 0;
      for (int64_t i = begin; i < end; ++i) most = std::max(most, std::abs(static_cast<double>(x[i])));
      const double d = F16ToF32(F32ToF16(static_cast<float>(most / 127)));
      const double bound = d / 2 * (1 + 1e-4) + (d < 0x1p-14 ? 127 * 0x1p-25 : 0);
      for (int64_t i = begin; i < end; ++i) ASSERT_NEAR(back[i], x[i], bound) << "block of " << most;
    }
  }
}

TEST(Q8, LevelsComeBackExactly) {
  std::vector<float> x;
  for (int q = -127; q <= 127; q += 2) x.push_back(0.25f * static_cast<float>(q));
  for (size_t i = 0; i < x.size(); i += kQ8Block) x[i] = 0.25f * 127;
  EXPECT_EQ(RoundTrip(x), x);
  EXPECT_EQ(RoundTrip(RoundTrip(x)), x);
}

TEST(Q8, ZerosStayZeros) {
  for (const float zero : {0.0f, -0.0f, 1e-30f}) {
    for (const float value : RoundTrip(std::vector<float>(40, zero))) EXPECT_EQ(value, 0.0f);
  }
}

TEST(Q8, WhatIsNotFiniteTakesItsBlockWithIt) {
  for (const float odd : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity(), 1e7f, std::numeric_limits<float>::max()}) {
    std::vector<float> x(70, 0.5f);
    x[40] = odd;
    const std::vector<float> back = RoundTrip(x);
    for (size_t i = 0; i < x.size(); ++i) {
      EXPECT_EQ(std::isnan(back[i]), i >= 32 && i < 64) << odd << " at " << i;
    }
    EXPECT_NEAR(back[0], 0.5f, 0.002f);
  }
  EXPECT_NEAR(RoundTrip({8e6f, 1e6f})[0], 8e6f, 4e4f);  // the last size that an f16 scale holds
}

}  // namespace
}  // namespace hawser
