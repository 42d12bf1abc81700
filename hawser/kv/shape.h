// kv/shape.h - what a cache has to know of the network whose keys and values it holds.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "hawser/attn/pattern.h"
#include "hawser/base/dtype.h"
#include "hawser/pos/alibi.h"
#include "hawser/pos/scheme.h"
#include "hawser/pos/segments.h"

namespace hawser {

/// How a layer places its keys, and how far it sees by itself.
struct KvLayerShape {
  std::optional<RopeSpec> rope;        // none: keys are not rotated
  int32_t window = AttnPattern::kAll;  // the model's own, in tokens, self included

  bool operator==(const KvLayerShape&) const = default;
};

struct KvShape {
  int32_t vocab = 0;
  int32_t kv_heads = 0, head_dim = 0;  // G, D
  int32_t heads = 0;                   // H of queries; as score_scale and score_cap read where these choose keys
  float score_scale = 0, score_cap = 0;
  DType dtype = DType::kF32;  // of queries, and of keys and values as they come: F32 or BF16
  std::vector<KvLayerShape> layers;
  bool standard_softmax = true;
  std::optional<AlibiSpec> alibi;  // scores are biased by distance; then nothing is rotated
  SegmentSpec segments;            // bilevel positions
};

}  // namespace hawser
