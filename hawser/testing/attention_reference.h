// testing/attention_reference.h - attention by its formula, in double, with a predicate for the mask. O(N M D).
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace hawser::testing {

struct NaiveAttention {
  // q [N, H, D], k and v [M, G, D].
  int64_t rows, keys;
  int heads, kv_heads, dim;
  double scale;
  std::function<bool(int64_t row, int64_t key)> visible;
  std::vector<double> q, k, v;

  std::vector<double> out;  // [N, H, D]
  std::vector<double> lse;  // [N, H], nats

  double Score(int64_t row, int head, int64_t key) const {
    const double* a = &q[(row * heads + head) * dim];
    const double* b = &k[(key * kv_heads + head / (heads / kv_heads)) * dim];
    double sum = 0;
    for (int d = 0; d < dim; ++d) sum += a[d] * b[d];
    return scale * sum;
  }

  void Forward() {
    out.assign(static_cast<size_t>(rows * heads * dim), 0.0);
    out_size = out;
    lse.assign(static_cast<size_t>(rows * heads), -std::numeric_limits<double>::infinity());
    std::vector<double> s(static_cast<size_t>(keys));
    for (int64_t row = 0; row < rows; ++row) {
      for (int head = 0; head < heads; ++head) {
        double top = -std::numeric_limits<double>::infinity();
        for (int64_t key = 0; key < keys; ++key) {
          if (visible(row, key)) top = std::max(top, s[key] = Score(row, head, key));
        }
        if (std::isinf(top)) continue;
        double sum = 0;
        double* o = &out[(row * heads + head) * dim];
        double* size = &out_size[(row * heads + head) * dim];
        for (int64_t key = 0; key < keys; ++key) {
          if (!visible(row, key)) continue;
          const double p = std::exp(s[key] - top);
          sum += p;
          const double* value = &v[(key * kv_heads + head / (heads / kv_heads)) * dim];
          for (int d = 0; d < dim; ++d) o[d] += p * value[d], size[d] += p * std::abs(value[d]);
        }
        for (int d = 0; d < dim; ++d) o[d] /= sum, size[d] /= sum;
        lse[row * heads + head] = top + std::log(sum);
      }
    }
  }

  std::vector<double> dq, dk, dv;
  std::vector<double> dq_size, dk_size, dv_size;  // sums of the absolute values of what is added up, for tolerances
  std::vector<double> out_size;

  /// The derivative of Forward, term by term: ds = p (dp - sum over keys of p dp).
  void Backward(const std::vector<double>& dout) {
    dq.assign(q.size(), 0.0);
    dk.assign(k.size(), 0.0);
    dv.assign(v.size(), 0.0);
    dq_size = dq, dk_size = dk, dv_size = dv;
    std::vector<double> p(static_cast<size_t>(keys)), dp(static_cast<size_t>(keys));
    for (int64_t row = 0; row < rows; ++row) {
      for (int head = 0; head < heads; ++head) {
        const int64_t at = (row * heads + head) * dim;
        double mean = 0, mean_size = 0;
        for (int d = 0; d < dim; ++d) mean_size += std::abs(dout[at + d]) * out_size[at + d];
        for (int64_t key = 0; key < keys; ++key) {
          p[key] = visible(row, key) ? std::exp(Score(row, head, key) - lse[row * heads + head]) : 0.0;
          dp[key] = 0;
          const int64_t other = (key * kv_heads + head / (heads / kv_heads)) * dim;
          for (int d = 0; d < dim; ++d) dp[key] += dout[at + d] * v[other + d];
          mean += p[key] * dp[key];
        }
        for (int64_t key = 0; key < keys; ++key) {
          if (p[key] == 0.0) continue;
          const int64_t other = (key * kv_heads + head / (heads / kv_heads)) * dim;
          const double ds = p[key] * (dp[key] - mean) * scale;
          double dp_size = mean_size;
          for (int d = 0; d < dim; ++d) dp_size += std::abs(dout[at + d] * v[other + d]);
          const double ds_size = p[key] * dp_size * scale;
          for (int d = 0; d < dim; ++d) {
            dv_size[other + d] += p[key] * std::abs(dout[at + d]);
            dk_size[other + d] += ds_size * std::abs(q[at + d]);
            dq_size[at + d] += ds_size * std::abs(k[other + d]);
            dv[other + d] += p[key] * dout[at + d];
            dk[other + d] += ds * q[at + d];
            dq[at + d] += ds * k[other + d];
          }
        }
      }
    }
  }
};

}  // namespace hawser::testing
