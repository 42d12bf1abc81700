// testing/model_reference.h - the Llama block written naively in f64 from its formulas, with a T x T mask taken
// straight from Visible(): the twin of model/decoder.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "hawser/attn/pattern.h"
#include "hawser/model/params.h"
#include "hawser/pos/scheme.h"

namespace hawser::testing {

class ReferenceModel {
 public:
  explicit ReferenceModel(const ParamStore& params)
      : spec_(params.spec()), layout_(params.layout()), w_(static_cast<size_t>(params.size())) {
    const float* from = params.arena().Row<float>(0);
    for (size_t i = 0; i < w_.size(); ++i) w_[i] = from[i];
    inv_freq_ = ComputeFrequencies(spec_.rope, spec_.context).inv_freq;
    multiplier_ = ComputeFrequencies(spec_.rope, spec_.context).multiplier;
  }

  using Visibility = std::function<bool(int32_t q, int32_t k)>;
  using LayerVisibility = std::function<bool(int32_t layer, int32_t q, int32_t k)>;
  using KeyPosition =
      std::function<double(int32_t q, int32_t k)>;  // rotary position of key k (or q itself) seen from q

  struct Output {
    std::vector<std::vector<double>> logits;               // [T][V]
    std::vector<std::vector<std::vector<double>>> hidden;  // [L+1][T][C]: input of each layer, then the last output
  };

  Output Forward(const std::vector<int32_t>& ids, const std::vector<int64_t>& positions, const TokenLayout& layout,
                 const AttnPattern& pattern) const {
    std::vector<AttnPattern> of;
    for (int32_t layer = 0; layer < spec_.layers; ++layer) of.push_back(pattern.OfLayer(layer, spec_.layers));
    return ForwardLayers(
        ids, [&](int32_t layer, int32_t q, int32_t k) { return Visible(of[layer], layout, q, k); },
        [&](int32_t, int32_t k) { return static_cast<double>(positions[k]); });
  }

  Output Forward(const std::vector<int32_t>& ids, const Visibility& visible, const KeyPosition& position) const {
    return ForwardLayers(
        ids, [&](int32_t, int32_t q, int32_t k) { return visible(q, k); }, position);
  }

  Output ForwardLayers(const std::vector<int32_t>& ids, const LayerVisibility& visible,
                       const KeyPosition& position) const {
    const auto T = static_cast<int32_t>(ids.size());
    const int32_t C = spec_.width, H = spec_.heads, G = spec_.kv_heads, D = spec_.head_dim, F = spec_.mlp_width;
    Output out;
    std::vector<std::vector<double>> x(T, std::vector<double>(C));
    int32_t place = 0;
    for (int32_t t = 0; t < T; ++t) {
      for (int32_t c = 0; c < C; ++c) x[t][c] = At(Role::kEmbedding, -1, ids[t], c);
      if (spec_.segments.places == 0) continue;
      const int32_t row = std::min(place, spec_.segments.places - 1);
      for (int32_t c = 0; c < C; ++c) x[t][c] += At(Role::kPlaces, -1, row, c);
      place = std::ranges::count(spec_.segments.separators, ids[t]) > 0 ? 0 : place + 1;
    }
    for (int32_t layer = 0; layer < spec_.layers; ++layer) {
      out.hidden.push_back(x);
      std::vector<std::vector<double>> q(T), k(T), v(T);
      for (int32_t t = 0; t < T; ++t) {
        const std::vector<double> n = Stored(Norm(x[t], Role::kAttnNorm, layer));
        q[t] = Stored(Stored(Linear(n, Role::kQuery, layer)));  // before and after the rotation
        k[t] = Stored(Stored(Linear(n, Role::kKey, layer)));
        v[t] = Stored(Linear(n, Role::kValue, layer));
      }
      for (int32_t t = 0; t < T; ++t) {
        std::vector<double> attention(static_cast<size_t>(H) * D, 0.0);
        for (int32_t h = 0; h < H; ++h) {
          const int32_t g = h / (H / G);
          const std::vector<double> rotated_q = Rotate(&q[t][static_cast<size_t>(h) * D], position(t, t));
          std::vector<double> score;
          std::vector<int32_t> seen;
          for (int32_t s = 0; s <= t; ++s) {
            if (!visible(layer, t, s)) continue;
            const std::vector<double> rotated_k = Rotate(&k[s][static_cast<size_t>(g) * D], position(t, s));
            double dot = 0;
            for (int32_t d = 0; d < D; ++d) dot += rotated_q[d] * rotated_k[d];
            score.push_back(dot / std::sqrt(static_cast<double>(D)));
            seen.push_back(s);
          }
          const std::vector<double> weights = Stored(Weights(score));
          for (size_t i = 0; i < seen.size(); ++i) {
            for (int32_t d = 0; d < D; ++d) {
              attention[static_cast<size_t>(h) * D + d] += weights[i] * v[seen[i]][static_cast<size_t>(g) * D + d];
            }
          }
        }
        q[t].clear();  // done with; out of the next rows' way
        Accumulate(&x[t], Stored(Linear(Stored(std::move(attention)), Role::kAttnOut, layer)));
      }
      for (int32_t t = 0; t < T; ++t) {
        const std::vector<double> n = Stored(Norm(x[t], Role::kMlpNorm, layer));
        const std::vector<double> gate = Stored(Linear(n, Role::kGate, layer)),
                                  up = Stored(Linear(n, Role::kUp, layer));
        std::vector<double> hidden(F);
        for (int32_t f = 0; f < F; ++f) hidden[f] = gate[f] / (1 + std::exp(-gate[f])) * up[f];
        Accumulate(&x[t], Stored(Linear(Stored(std::move(hidden)), Role::kDown, layer)));
      }
    }
    out.hidden.push_back(x);
    for (int32_t t = 0; t < T; ++t) {
      out.logits.push_back(
          Linear(Stored(Norm(x[t], Role::kFinalNorm, -1)), spec_.tie_embeddings ? Role::kEmbedding : Role::kHead, -1));
    }
    return out;
  }

  static double Nll(const std::vector<double>& logits, int32_t target) {
    double top = -INFINITY, sum = 0;
    for (double value : logits) top = std::max(top, value);
    for (double value : logits) sum += std::exp(value - top);
    return top + std::log(sum) - logits[target];
  }

  std::vector<double>& arena() { return w_; }

  /// Applied to every value that an engine of a narrower dtype stores on its way; empty: values stay as they are.
  std::function<double(double)> store;

 private:
  /// The formulas of attn/softmax.h.
  std::vector<double> Weights(std::vector<double> z) const {
    const SoftmaxSpec& softmax = spec_.softmax;
    double top = -INFINITY, lo = 0, hi = 0, sum = 0;
    for (double x : z) top = std::max(top, x), lo = std::min(lo, x), hi = std::max(hi, x);
    hi += softmax.denominator_bias;
    for (double x : z) sum += std::exp(x - top);
    for (double& x : z) {
      const double p = std::exp(x - top) / sum;
      x = softmax.kind == SoftmaxKind::kStandard     ? p
          : softmax.kind == SoftmaxKind::kSelfAdjust ? p * (x - lo + softmax.numerator_bias) / (hi - lo)
                                                     : p * x;
    }
    return z;
  }

  double At(Role role, int32_t layer, int64_t r, int64_t c) const {
    const ParamInfo& info = layout_.Find(role, layer);
    return w_[static_cast<size_t>(info.offset + r * info.cols + c)];
  }
  std::vector<double> Linear(const std::vector<double>& in, Role role, int32_t layer) const {
    const ParamInfo& info = layout_.Find(role, layer);
    std::vector<double> out(static_cast<size_t>(info.rows), 0.0);
    for (int64_t r = 0; r < info.rows; ++r) {
      const double* row = &w_[static_cast<size_t>(info.offset + r * info.cols)];
      for (int64_t c = 0; c < info.cols; ++c) out[r] += row[c] * in[c];
    }
    return out;
  }
  std::vector<double> Norm(const std::vector<double>& in, Role role, int32_t layer) const {
    double sum = 0;
    for (double value : in) sum += value * value;
    const double rstd = 1.0 / std::sqrt(sum / static_cast<double>(in.size()) + static_cast<double>(spec_.norm_eps));
    std::vector<double> out(in.size());
    for (size_t c = 0; c < in.size(); ++c) out[c] = in[c] * rstd * At(role, layer, 0, static_cast<int64_t>(c));
    return out;
  }
  std::vector<double> Rotate(const double* x, double position) const {
    std::vector<double> out(x, x + spec_.head_dim);
    const int32_t half = spec_.rope.rotary_dim / 2;
    for (int32_t i = 0; i < half; ++i) {
      const bool adjacent = spec_.rope.pairing == RopePairing::kAdjacent;
      const int32_t a = adjacent ? 2 * i : i, b = adjacent ? 2 * i + 1 : i + half;
      const double c = multiplier_ * std::cos(position * inv_freq_[i]),
                   s = multiplier_ * std::sin(position * inv_freq_[i]);
      out[a] = x[a] * c - x[b] * s;
      out[b] = x[a] * s + x[b] * c;
    }
    return out;
  }
  std::vector<double> Stored(std::vector<double> values) const {
    if (store) std::transform(values.begin(), values.end(), values.begin(), std::ref(store));
    return values;
  }
  void Accumulate(std::vector<double>* x, const std::vector<double>& y) const {
    for (size_t i = 0; i < x->size(); ++i) (*x)[i] += y[i];
    *x = Stored(std::move(*x));
  }

  ModelSpec spec_;
  ParamLayout layout_;
  std::vector<double> w_;
  std::vector<double> inv_freq_;
  double multiplier_ = 1;
};

}  // namespace hawser::testing
