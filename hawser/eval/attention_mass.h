// eval/attention_mass.h - where attention goes: the weight that queries give to kinds of keys, by layer and head.
//   mass[l, h, c]   mean over query rows t of the sum over visible keys j of kind c of P[l, h][t, j]
//   keys[l, c]      mean over t of (visible keys of kind c) / (visible keys): what mass would be if P were even
// Each of all keys, and of far keys alone, those that a window of the last n tokens does not hold: t - j >= n. P is the
// softmax over all that the model itself sees, far or near.
// Every key's kind c stands as value with a one in channel c, so the model's own kernel adds up P for all kinds at
// once.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "hawser/model/weights.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// A text to read from its beginning, and what kind each of its tokens is of.
struct KindText {
  std::vector<int32_t> ids;
  std::vector<int32_t> kinds;  // [ids], in [0, number of kinds)
};

/// Means over all rows of all texts.
struct AttentionMass {
  int32_t layers = 0, heads = 0, kinds = 0;
  int64_t rows = 0;
  std::vector<double> mass, far_mass;  // [layers * heads * kinds]
  std::vector<double> keys, far_keys;  // [layers * kinds]

  /// Mean over heads.
  double LayerMass(int32_t layer, int32_t kind, bool far) const;
  double LayerKeys(int32_t layer, int32_t kind, bool far) const;
};

struct AttentionMassOptions {
  int32_t kinds = 1;    // at most the head dimension of the model
  int64_t window = 64;  // n >= 1
  /// Called with layers done so far, of texts * layers.
  std::function<void(int64_t)> on_layer;
};

/// Errors: kUsage (no texts, ids or kinds out of range), kUnsupported (another softmax than the standard one, folded
/// distances).
AttentionMass MeasureAttentionMass(Backend* backend, const Weights& weights, std::span<const KindText> texts,
                                   const AttentionMassOptions& options);

}  // namespace hawser
