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

/// One piece of NormArgs; `bias` may be empty.
inline Values ReferenceNorm(const Values& x, const Values& w, double eps, NormKind kind = NormKind::kRms,
                            bool plus_one = false, const Values& bias = {}) {
  const auto size = static_cast<double>(x.size());
  double mean = 0.0, squares = 0.0;
  for (double v : x) mean += v / size;
  if (kind == NormKind::kRms) mean = 0.0;
  for (double v : x) squares += (v - mean) * (v - mean);
  const double root = std::sqrt(squares / size + eps);
  Values y(x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    y[i] = (x[i] - mean) * (w[i] + (plus_one ? 1.0 : 0.0)) / root + (bias.empty() ? 0.0 : bias[i]);
  }
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

inline double ReferenceAct(Act act, double z) {
  switch (act) {
    case Act::kSilu:
      return z / (1.0 + std::exp(-z));
    case Act::kGelu:
      return z * std::erfc(-z * std::sqrt(0.5)) / 2.0;
    case Act::kGeluTanh:  // 1 + tanh(w) = 2 / (1 + e^-2w)
      return z / (1.0 + std::exp(-2.0 * std::sqrt(2.0 / std::acos(-1.0)) * (z + 0.044715 * z * z * z)));
    case Act::kRelu:
      return std::max(z, 0.0);
  }
  return 0.0;
}

/// scale * logit, capped where cap > 0.
inline double ReferenceCap(double logit, double scale, double cap) {
  return cap > 0.0 ? cap * std::tanh(scale * logit / cap) : scale * logit;
}

/// log sum exp(l) - l[target] of one row, l = x W^T scaled and capped; w holds V rows of x.size().
inline double ReferenceNll(const Values& x, const Values& w, int32_t target, double logit_scale = 1.0,
                           double logit_cap = 0.0) {
  const size_t width = x.size(), vocab = w.size() / width;
  Values logits(vocab);
  for (size_t v = 0; v < vocab; ++v) {
    for (size_t i = 0; i < width; ++i) logits[v] += x[i] * w[v * width + i];
    logits[v] = ReferenceCap(logits[v], logit_scale, logit_cap);
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
