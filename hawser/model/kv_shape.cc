#include "hawser/model/kv_shape.h"

#include <utility>

#include "hawser/model/fold_rules.h"

namespace hawser {

KvShape KvShapeOf(const ModelSpec& spec, DType activations) {
  KvShape shape{.vocab = spec.vocab,
                .kv_heads = spec.kv_heads,
                .head_dim = spec.head_dim,
                .heads = spec.heads,
                .score_scale = AttentionScale(spec),
                .score_cap = spec.attn_cap,
                .dtype = QkvDType(spec, activations),
                .standard_softmax = spec.softmax == SoftmaxSpec(),
                .segments = spec.segments};
  if (spec.places == Places::kAlibi) shape.alibi = spec.alibi;
  const LayeredPattern own = OwnPattern(spec);
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    KvLayerShape& of = shape.layers.emplace_back();
    of.window = own.OfLayer(layer, spec.layers).window;
    if (Rotates(spec, layer)) of.rope = RopeOf(spec, layer);
  }
  return shape;
}

KvCache NewKvCache(Backend* backend, const ModelSpec& spec, const KvForm& form, std::vector<uint8_t> separators,
                   DType activations, int64_t max_length) {
  if (spec.rope.fold.active()) CheckFold(spec, AttnPattern{});
  return KvCache(backend, KvShapeOf(spec, activations), form, std::move(separators), max_length);
}

}  // namespace hawser
