// testing/ops_reference.h - the formulas of ops/backend.h in f64, one element at a time. Backward ops have no twin
// here: tests differentiate these by finite differences.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <vector>

#include "hawser/ops/backend.h"

namespace hawser::testing {

using Values = std::vector<double>;

/// y = x * w / sqrt(mean(x^2) + eps), one row.
inline Values ReferenceNorm(const Values& x, const Values& w, double eps) {
  double squares = 0.0;
  for (double v : x) squares += v * v;
  const double root = std::sqrt(squares / static_cast<double>(x.size()) + eps);
  Values y(x.size());
  for (size_t i = 0; i < x.size(); ++i) y[i] = x[i] * w[i] / root;
  return y;
}

/// One head rotated: pair p by the angle whose cosine and sine (times any multiplier) are given.
inline Values ReferenceRope(const Values& head, RopePairing pairing, const Values& cos, const Values& sin) {
  Values y = head;
  const size_t half = cos.size();
  for (size_t p = 0; p < half; ++p) {
    const size_t a = pairing == RopePairing::kHalf ? p : 2 * p;
    const size_t b = pairing == RopePairing::kHalf ? p + half : 2 * p + 1;
    y[a] = head[a] * cos[p] - head[b] * sin[p];
    y[b] = head[a] * sin[p] + head[b] * cos[p];
  }
  return y;
}

/// silu(g) * u.
inline double ReferenceGlu(double g, double u) { return g / (1.0 + std::exp(-g)) * u; }

/// log sum exp(x W^T) - (x W^T)[target] of one row; w holds V rows of x.size().
inline double ReferenceNll(const Values& x, const Values& w, int32_t target) {
  const size_t width = x.size(), vocab = w.size() / width;
  Values logits(vocab);
  for (size_t v = 0; v < vocab; ++v) {
    for (size_t i = 0; i < width; ++i) logits[v] += x[i] * w[v * width + i];
  }
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0.0;
  for (double logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum) - logits[static_cast<size_t>(target)];
}

/// d f / d x by central differences.
inline Values Gradient(Values x, const std::function<double(const Values&)>& f, double h = 1e-5) {
  Values gradient(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    const double old = x[i];
    x[i] = old + h;
    const double above = f(x);
    x[i] = old - h;
    gradient[i] = (above - f(x)) / (2.0 * h);
    x[i] = old;
  }
  return gradient;
}

}  // namespace hawser::testing
