#include "hawser/quant/fit.h"

#include <algorithm>
#include <array>
#include <cmath>

#include "hawser/quant/k_scales.h"

namespace hawser {
namespace {

constexpr int kGroup = 32;
constexpr int kGroups = 256 / kGroup;

AffineFit FitGroup(const float* x, int levels) {
  float squares = 0;
  for (int l = 0; l < kGroup; ++l) squares += x[l] * x[l];
  const float typical = std::sqrt(squares / kGroup);
  std::array<float, kGroup> weight;
  for (int l = 0; l < kGroup; ++l) weight[static_cast<size_t>(l)] = typical + std::fabs(x[l]);
  return FitAffine(x, weight.data(), kGroup, levels);
}

}  // namespace

AffineFit FitAffine(const float* x, const float* weight, int n, int levels) {
  const auto [least, most] = std::minmax_element(x, x + n);
  const double low = std::min(*least, 0.0f), high = *most;
  if (!(high > low)) return {0, static_cast<float>(-low)};
  double best = INFINITY, scale = 0, offset = 0;
  for (int step = -10; step <= 10; ++step) {
    const double inverse = (levels + 0.1 * step) / (high - low);
    double w = 0, q1 = 0, q2 = 0, x1 = 0, xq = 0, x2 = 0;
    for (int i = 0; i < n; ++i) {
      const double q = std::clamp<double>(std::nearbyint((x[i] - low) * inverse), 0, levels);
      w += weight[i], q1 += weight[i] * q, q2 += weight[i] * q * q;
      x1 += weight[i] * x[i], xq += weight[i] * x[i] * q, x2 += static_cast<double>(weight[i]) * x[i] * x[i];
    }
    const double determinant = w * q2 - q1 * q1;
    if (!(determinant > 0)) continue;
    double s = (w * xq - x1 * q1) / determinant, b = (q2 * x1 - q1 * xq) / determinant;
    if (b > 0) b = 0, s = xq / q2;  // a minimum below zero cannot be stored
    const double error = x2 + s * s * q2 + b * b * w - 2 * (s * xq + b * x1 - s * b * q1);
    if (s > 0 && error < best) best = error, scale = s, offset = b;
  }
  if (best == INFINITY) return {static_cast<float>((high - low) / levels), static_cast<float>(-low)};
  return {static_cast<float>(scale), static_cast<float>(-offset)};
}

void FitKBlock(const float* from, int levels, std::byte* to, uint8_t* q) {
  std::array<AffineFit, kGroups> fits;
  float scale = 0, minimum = 0;
  for (int k = 0; k < kGroups; ++k) {
    fits[static_cast<size_t>(k)] = FitGroup(from + k * kGroup, levels);
    scale = std::max(scale, fits[static_cast<size_t>(k)].scale);
    minimum = std::max(minimum, fits[static_cast<size_t>(k)].minimum);
  }
  std::fill(to, to + 16, std::byte{0});
  const float d = PutHalf(scale / 63.0f, to), m = PutHalf(minimum / 63.0f, to + 2);
  const auto six_bits = [](float x, float unit) {
    return unit > 0 ? std::clamp(static_cast<int>(std::nearbyint(x / unit)), 0, 63) : 0;
  };
  for (int k = 0; k < kGroups; ++k) {
    const AffineFit& fit = fits[static_cast<size_t>(k)];
    const KScale s = {six_bits(fit.scale, d), six_bits(fit.minimum, m)};
    PackKScale(s, k, to + 4);
    const float step = d * static_cast<float>(s.scale), below = m * static_cast<float>(s.minimum);
    for (int i = k * kGroup; i < (k + 1) * kGroup; ++i) {
      const float level = step > 0 ? std::nearbyint((from[i] + below) / step) : 0.0f;
      q[i] = static_cast<uint8_t>(std::clamp(level, 0.0f, static_cast<float>(levels)));
    }
  }
}

float FitSymmetric(const float* x, int n, int levels) {
  const float most = *std::max_element(x, x + n, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  if (most == 0) return 0;
  double best = -1, scale = 0;
  for (int step = -9; step <= 9; ++step) {
    const double inverse = -(levels + 0.1 * step) / most;
    double xq = 0, qq = 0;
    for (int i = 0; i < n; ++i) {
      const double q = std::clamp<double>(std::nearbyint(x[i] * inverse), -levels, levels - 1);
      const double weight = static_cast<double>(x[i]) * x[i];
      xq += weight * x[i] * q, qq += weight * q * q;
    }
    if (qq > 0 && xq * xq > best * qq) best = xq * xq / qq, scale = xq / qq;  // error = sum w x^2 - best
  }
  return static_cast<float>(scale);
}

}  // namespace hawser
