// testing/model_reference.h - the block of every family (model/spec.h) written naively in f64 from its formulas, with a
// T x T mask taken straight from Visible(): the twin of model/decoder.h.
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
    for (int32_t layer = 0; layer < spec_.layers; ++layer) {
      frequencies_.push_back(Rotates(spec_, layer) ? ComputeFrequencies(RopeOf(spec_, layer), spec_.context)
                                                   : RopeFrequencies());
    }
    if (spec_.places == Places::kAlibi) slopes_ = AlibiSlopes(spec_.alibi, spec_.heads);
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
                 const LayeredPattern& pattern) const {
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
    const int32_t C = spec_.width, H = spec_.heads, G = spec_.kv_heads, D = spec_.head_dim;
    const BlockSpec& block = spec_.block;
    Output out;
    std::vector<std::vector<double>> x(T, std::vector<double>(C));
    int32_t place = 0;
    for (int32_t t = 0; t < T; ++t) {
      for (int32_t c = 0; c < C; ++c) x[t][c] = spec_.embedding_scale * At(Role::kEmbedding, -1, ids[t], c);
      if (spec_.segments.places > 0) {
        const int32_t row = std::min(place, spec_.segments.places - 1);
        for (int32_t c = 0; c < C; ++c) x[t][c] += At(Role::kPlaces, -1, row, c);
        place = std::ranges::count(spec_.segments.separators, ids[t]) > 0 ? 0 : place + 1;
      }
      if (spec_.embedding_norm) x[t] = Stored(Norm(Stored(x[t]), Role::kEmbeddingNorm, -1));
    }
    for (int32_t layer = 0; layer < spec_.layers; ++layer) {
      out.hidden.push_back(x);
      const std::vector<std::vector<double>> input = x;
      std::vector<std::vector<double>> q(T), k(T), v(T);
      for (int32_t t = 0; t < T; ++t) {
        const std::vector<double> n = block.pre_norms ? Stored(Norm(x[t], Role::kAttnNorm, layer)) : x[t];
        q[t] = Stored(Shaped(Stored(Linear(n, Role::kQuery, layer)), Role::kQueryNorm, layer));
        k[t] = Stored(Shaped(Stored(Linear(n, Role::kKey, layer)), Role::kKeyNorm, layer));
        v[t] = Clipped(Stored(Linear(n, Role::kValue, layer)));
      }
      for (int32_t t = 0; t < T; ++t) {
        std::vector<double> attention(static_cast<size_t>(H) * D, 0.0);
        for (int32_t h = 0; h < H; ++h) {
          const int32_t g = h / (H / G);
          const std::vector<double> rotated_q = Rotate(layer, &q[t][static_cast<size_t>(h) * D], position(t, t));
          std::vector<double> score;
          std::vector<int32_t> seen;
          for (int32_t s = 0; s <= t; ++s) {
            if (!visible(layer, t, s)) continue;
            const std::vector<double> rotated_k = Rotate(layer, &k[s][static_cast<size_t>(g) * D], position(t, s));
            double dot = 0;
            for (int32_t d = 0; d < D; ++d) dot += rotated_q[d] * rotated_k[d];
            if (ScalesQueries(spec_, layer)) {
              dot *= double{RopeOf(spec_, layer).query_scale.At(static_cast<int64_t>(position(t, t)))};
            }
            dot *= spec_.attn_scale > 0 ? spec_.attn_scale : 1 / std::sqrt(static_cast<double>(D));
            if (!slopes_.empty()) dot -= slopes_[static_cast<size_t>(h)] * (position(t, t) - position(t, s));
            score.push_back(Capped(dot, spec_.attn_cap));
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
        AddBranch(&x[t], Linear(Stored(std::move(attention)), Role::kAttnOut, layer), Role::kAttnPostNorm, layer);
      }
      for (int32_t t = 0; t < T; ++t) {
        const std::vector<double>& in = block.residual == Residual::kSequential ? x[t] : input[t];
        const Role norm = block.residual == Residual::kParallelOneNorm ? Role::kAttnNorm : Role::kMlpNorm;
        const std::vector<double> n = block.pre_norms ? Stored(Norm(in, norm, layer)) : in;
        std::vector<double> hidden = Stored(Linear(n, Role::kUp, layer));
        if (block.gated) {
          const std::vector<double> gate = Stored(Linear(n, Role::kGate, layer));
          for (size_t f = 0; f < hidden.size(); ++f) hidden[f] *= Activated(gate[f]);
        } else {
          for (double& value : hidden) value = Activated(value);
        }
        AddBranch(&x[t], Linear(Stored(std::move(hidden)), Role::kDown, layer), Role::kMlpPostNorm, layer);
      }
    }
    out.hidden.push_back(x);
    for (int32_t t = 0; t < T; ++t) {
      std::vector<double> logits =
          Linear(Stored(Norm(x[t], Role::kFinalNorm, -1)), spec_.tie_embeddings ? Role::kEmbedding : Role::kHead, -1);
      for (double& value : logits) value = Capped(value * spec_.logit_scale, spec_.logit_cap);
      out.logits.push_back(std::move(logits));
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

  double At(Role role, int32_t layer, int64_t r, int64_t c, Part part = Part::kWeight) const {
    const ParamInfo& info = layout_.Find(role, layer, part);
    return w_[static_cast<size_t>(info.offset + r * info.cols + c)];
  }
  double BiasAt(Role role, int32_t layer, int64_t c) const {
    return layout_.TryFind(role, layer, Part::kBias) != nullptr ? At(role, layer, 0, c, Part::kBias) : 0.0;
  }
  std::vector<double> Linear(const std::vector<double>& in, Role role, int32_t layer) const {
    const ParamInfo& info = layout_.Find(role, layer);
    std::vector<double> out(static_cast<size_t>(info.rows), 0.0);
    for (int64_t r = 0; r < info.rows; ++r) {
      const double* row = &w_[static_cast<size_t>(info.offset + r * info.cols)];
      for (int64_t c = 0; c < info.cols; ++c) out[r] += row[c] * in[c];
      out[r] += BiasAt(role, layer, r);
    }
    return out;
  }
  std::vector<double> Norm(const std::vector<double>& in, Role role, int32_t layer) const {
    double mean = 0, sum = 0;
    for (double value : in) mean += value / static_cast<double>(in.size());
    if (spec_.block.norm == NormKind::kRms) mean = 0;
    for (double value : in) sum += (value - mean) * (value - mean);
    const double rstd = 1.0 / std::sqrt(sum / static_cast<double>(in.size()) + static_cast<double>(spec_.norm_eps));
    std::vector<double> out(in.size());
    for (size_t i = 0; i < in.size(); ++i) {
      const auto c = static_cast<int64_t>(i);
      const double weight = At(role, layer, 0, c) + (spec_.block.norm_plus_one ? 1.0 : 0.0);
      out[i] = (in[i] - mean) * rstd * weight + BiasAt(role, layer, c);
    }
    return out;
  }
  std::vector<double> Clipped(std::vector<double> x) const {
    const double clip = spec_.block.qkv_clip;
    if (clip > 0) std::ranges::transform(x, x.begin(), [&](double value) { return std::clamp(value, -clip, clip); });
    return x;
  }
  /// Queries or keys after clip and norm.
  std::vector<double> Shaped(std::vector<double> x, Role norm, int32_t layer) const {
    x = Clipped(std::move(x));
    if (spec_.block.qk_norm == QkNorm::kNone) return x;
    const size_t piece = spec_.block.qk_norm == QkNorm::kHead ? static_cast<size_t>(spec_.head_dim) : x.size();
    for (size_t begin = 0; begin < x.size(); begin += piece) {
      const auto first = x.begin() + static_cast<std::ptrdiff_t>(begin);
      const std::vector<double> normed = Norm({first, first + static_cast<std::ptrdiff_t>(piece)}, norm, layer);
      std::ranges::copy(normed, first);
    }
    return x;
  }
  static double Capped(double x, double cap) { return cap > 0 ? cap * std::tanh(x / cap) : x; }
  double Activated(double z) const {
    switch (spec_.block.act) {
      case Act::kSilu:
        return z / (1 + std::exp(-z));
      case Act::kGelu:
        return z / 2 * (1 + std::erf(z / std::sqrt(2.0)));
      case Act::kGeluTanh:
        return z / 2 * (1 + std::tanh(std::sqrt(2 / M_PI) * (z + 0.044715 * z * z * z)));
      case Act::kRelu:
        return std::max(z, 0.0);
    }
    return 0;
  }
  void AddBranch(std::vector<double>* x, std::vector<double> branch, Role post_norm, int32_t layer) const {
    branch = Stored(std::move(branch));
    if (spec_.block.post_norms) branch = Stored(Norm(branch, post_norm, layer));
    Accumulate(x, branch);
  }
  std::vector<double> Rotate(int32_t layer, const double* x, double position) const {
    std::vector<double> out(x, x + spec_.head_dim);
    const RopeFrequencies& frequencies = frequencies_[static_cast<size_t>(layer)];
    const auto half = static_cast<int32_t>(frequencies.inv_freq.size());
    for (int32_t i = 0; i < half; ++i) {
      const bool adjacent = RopeOf(spec_, layer).pairing == RopePairing::kAdjacent;
      const int32_t a = adjacent ? 2 * i : i, b = adjacent ? 2 * i + 1 : i + half;
      const double angle = position * frequencies.inv_freq[static_cast<size_t>(i)];
      const double c = frequencies.multiplier * std::cos(angle), s = frequencies.multiplier * std::sin(angle);
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
  std::vector<RopeFrequencies> frequencies_;  // [L]; empty where the layer does not rotate
  std::vector<float> slopes_;
};

}  // namespace hawser::testing
