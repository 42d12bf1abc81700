#include "hawser/cpu/optim.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "hawser/base/rng.h"
#include "hawser/testing/cpu_runs.h"

namespace hawser {
namespace {

std::vector<float> Random(int64_t n, uint64_t seed, double deviation = 1.0) {
  Rng rng{.seed = seed};
  std::vector<float> values;
  for (int64_t i = 0; i < n; ++i) values.push_back(static_cast<float>(deviation * rng.Normal()));
  return values;
}

struct State {
  explicit State(int64_t n) : w(Random(n, 1)), grad(Random(n, 2, 0.1)), m(n), v(n), low(n) {}
  AdamWArgs Args(int64_t step) {
    return {.w = w.data(),
            .grad = grad.data(),
            .m = m.data(),
            .v = v.data(),
            .low = low.data(),
            .n = static_cast<int64_t>(w.size()),
            .step = step,
            .lr = 0.01f,
            .beta1 = 0.9f,
            .beta2 = 0.95f,
            .eps = 1e-8f,
            .decay = 0.1f,
            .grad_scale = 0.5f};
  }
  std::vector<float> w, grad, m, v;
  std::vector<bf16> low;
};

TEST(AdamW, FollowsTheRecurrenceOverSteps) {
  testing::ForEachTarget([] {
    for (int64_t n : {1, 7, 64, 1001}) {
      State s(n);
      s.grad[0] = 0.0f;  // 0 / (0 + eps), not NaN
      const std::vector<float> start = s.w;
      for (int64_t step = 1; step <= 5; ++step) AdamW(s.Args(step));
      for (int64_t i = 0; i < n; ++i) {
        double w = start[i], m = 0.0, v = 0.0;
        const double g = 0.5 * s.grad[i];
        for (int step = 1; step <= 5; ++step) {
          m = 0.9f * m + (1.0 - 0.9f) * g;
          v = 0.95f * v + (1.0 - 0.95f) * g * g;
          const double mhat = m / (1.0 - std::pow(0.9f, step)), vhat = v / (1.0 - std::pow(0.95f, step));
          w -= 0.01f * (mhat / (std::sqrt(vhat) + 1e-8f) + 0.1f * w);
        }
        ASSERT_NEAR(s.w[i], w, 1e-6 * (1.0 + std::abs(w)));
        ASSERT_NEAR(s.m[i], m, 1e-6 * std::abs(m));
        ASSERT_NEAR(s.v[i], v, 1e-6 * v);
        ASSERT_EQ(s.low[i].bits, ToBF16(s.w[i]).bits);
      }
    }
  });
}

TEST(AdamW, SameForAnyNumberOfThreads) {
  testing::ExpectSameForAnyThreads([] {
    State s(50001);
    for (int64_t step = 1; step <= 3; ++step) AdamW(s.Args(step));
    const char* data = reinterpret_cast<const char*>(s.w.data());
    return std::vector<char>(data, data + s.w.size() * sizeof(float));
  });
}

TEST(SumSquares, AddsInF64) {
  testing::ForEachTarget([] {
    for (int64_t n : {0, 1, 15, 16, 17, 1000, 40000}) {
      const std::vector<float> x = Random(n, 3);
      double want = 0.0;
      for (float v : x) want += static_cast<double>(v) * v;
      EXPECT_NEAR(SumSquares(x.data(), n), want, 1e-12 * want) << n;
    }
    const std::vector<float> large(3, 3e38f);
    EXPECT_NEAR(SumSquares(large.data(), 3), 27e76, 1e71);
  });
}

TEST(SumSquares, ShowsWhatIsNotFinite) {
  for (int64_t at : {0, 5, 20000, 39999}) {
    std::vector<float> x = Random(40000, 4);
    x[at] = std::numeric_limits<float>::quiet_NaN();
    EXPECT_TRUE(std::isnan(SumSquares(x.data(), 40000)));
    x[at] = -std::numeric_limits<float>::infinity();
    EXPECT_TRUE(std::isinf(SumSquares(x.data(), 40000)));
  }
}

TEST(SumSquares, SameForAnyNumberOfThreads) {
  const std::vector<float> x = Random(5000001, 5);
  testing::ExpectSameForAnyThreads([&] {
    const double sum = SumSquares(x.data(), static_cast<int64_t>(x.size()));
    const char* data = reinterpret_cast<const char*>(&sum);
    return std::vector<char>(data, data + sizeof(double));
  });
}

}  // namespace
}  // namespace hawser
