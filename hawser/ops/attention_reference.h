// ops/attention_reference.h - attention by its formula, in double, with a predicate for the mask: the twin that kernels
// are held against, by tests and before `hawser bench` times anything. O(N M D).
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <vector>

namespace hawser {

struct NaiveAttention {
  // q [N, H, D], k and v [M, G, D].
  int64_t rows, keys;
  int heads, kv_heads, dim;
  double scale;
  std::function<bool(int64_t row, int64_t key)> visible;
  std::vector<double> q, k, v;
  double softcap = 0;                                             // of AttnShape
  std::vector<double> slopes = {};                                // [H], or none
  std::function<double(int64_t row, int64_t key)> distance = {};  // place of the query - place of the key; with slopes

  std::vector<double> q_far = {};  // [N, H, D], read instead of q where a key is far; forward only
  std::function<bool(int64_t row, int64_t key)> far = {};

  std::vector<double> out = {};  // [N, H, D]
  std::vector<double> lse = {};  // [N, H], nats

  /// scale * <q, k>.
  double Product(int64_t row, int head, int64_t key) const {
    const std::vector<double>& queries = !q_far.empty() && far(row, key) ? q_far : q;
    const double* a = &queries[(row * heads + head) * dim];
    const double* b = &k[KeyAt(head, key)];
    double sum = 0;
    for (int d = 0; d < dim; ++d) sum += a[d] * b[d];
    return scale * sum;
  }
  double Score(int64_t row, int head, int64_t key) const {
    const double product = Product(row, head, key);
    const double capped = softcap > 0 ? softcap * std::tanh(product / softcap) : product;
    return slopes.empty() ? capped : capped - slopes[head] * distance(row, key);
  }
  /// The derivative of a score by its product.
  double ScoreSlope(int64_t row, int head, int64_t key) const {
    if (softcap == 0) return 1;
    const double t = std::tanh(Product(row, head, key) / softcap);
    return 1 - t * t;
  }

  std::vector<int64_t> VisibleKeys(int64_t row) const {
    std::vector<int64_t> seen;
    for (int64_t key = 0; key < keys; ++key) {
      if (visible(row, key)) seen.push_back(key);
    }
    return seen;
  }
  int64_t KeyAt(int head, int64_t key) const { return (key * kv_heads + head / (heads / kv_heads)) * dim; }

  void Forward() {
    out.assign(static_cast<size_t>(rows * heads * dim), 0.0);
    out_size = out;
    lse.assign(static_cast<size_t>(rows * heads), -std::numeric_limits<double>::infinity());
    std::vector<double> s;
    for (int64_t row = 0; row < rows; ++row) {
      const std::vector<int64_t> seen = VisibleKeys(row);
      for (int head = 0; head < heads && !seen.empty(); ++head) {
        double top = -std::numeric_limits<double>::infinity();
        s.clear();
        for (const int64_t key : seen) top = std::max(top, s.emplace_back(Score(row, head, key)));
        double sum = 0;
        double* o = &out[(row * heads + head) * dim];
        double* size = &out_size[(row * heads + head) * dim];
        for (size_t i = 0; i < seen.size(); ++i) {
          const double p = std::exp(s[i] - top);
          const double* value = &v[KeyAt(head, seen[i])];
          sum += p;
          for (int d = 0; d < dim; ++d) o[d] += p * value[d], size[d] += p * std::abs(value[d]);
        }
        for (int d = 0; d < dim; ++d) o[d] /= sum, size[d] /= sum;
        lse[row * heads + head] = top + std::log(sum);
      }
    }
  }

  std::vector<double> dq, dk, dv;
  // Sums of the absolute values of what is added up in each result: the measure of its rounding errors.
  std::vector<double> dq_size, dk_size, dv_size, out_size;

  /// The derivative of Forward, term by term: ds = p (dp - sum over keys of p dp).
  void Backward(const std::vector<double>& dout) {
    dq.assign(q.size(), 0.0);
    dk.assign(k.size(), 0.0);
    dv.assign(v.size(), 0.0);
    dq_size = dq, dk_size = dk, dv_size = dv;
    std::vector<double> p, dp;
    for (int64_t row = 0; row < rows; ++row) {
      const std::vector<int64_t> seen = VisibleKeys(row);
      for (int head = 0; head < heads; ++head) {
        const int64_t at = (row * heads + head) * dim;
        double mean = 0, mean_size = 0;
        for (int d = 0; d < dim; ++d) mean_size += std::abs(dout[at + d]) * out_size[at + d];
        p.clear(), dp.clear();
        for (const int64_t key : seen) {
          double sum = 0;
          for (int d = 0; d < dim; ++d) sum += dout[at + d] * v[KeyAt(head, key) + d];
          p.push_back(std::exp(Score(row, head, key) - lse[row * heads + head]));
          dp.push_back(sum);
          mean += p.back() * sum;
        }
        for (size_t i = 0; i < seen.size(); ++i) {
          const int64_t other = KeyAt(head, seen[i]);
          const double slope = ScoreSlope(row, head, seen[i]) * scale;
          const double ds = p[i] * (dp[i] - mean) * slope;
          double dp_size = mean_size;
          for (int d = 0; d < dim; ++d) dp_size += std::abs(dout[at + d] * v[other + d]);
          // A cap multiplies a difference that has been rounded to delta.
          const double ds_size = p[i] * dp_size * (softcap > 0 ? scale : slope);
          for (int d = 0; d < dim; ++d) {
            dv[other + d] += p[i] * dout[at + d];
            dk[other + d] += ds * q[at + d];
            dq[at + d] += ds * k[other + d];
            dv_size[other + d] += p[i] * std::abs(dout[at + d]);
            dk_size[other + d] += ds_size * std::abs(q[at + d]);
            dq_size[at + d] += ds_size * std::abs(k[other + d]);
          }
        }
      }
    }
  }
};

}  // namespace hawser
