// testing/tiny_model.h - small seeded models for tests.
#pragma once

#include <cstdint>

#include "hawser/model/params.h"
#include "hawser/model/spec.h"

namespace hawser {

struct TinyDims {
  int32_t vocab = 64;
  int32_t layers = 2;
  int32_t heads = 4;
  int32_t kv_heads = 2;
  int32_t head_dim = 8;
  int32_t width = 32;
  int32_t mlp_width = 48;
  int64_t context = 128;
  bool tie = false;
};

/// A valid llama spec with full rotation, theta 10000, bos 1 and eos 2.
inline ModelSpec TinySpec(const TinyDims& dims = {}) {
  ModelSpec spec;
  spec.vocab = dims.vocab;
  spec.width = dims.width;
  spec.layers = dims.layers;
  spec.heads = dims.heads;
  spec.kv_heads = dims.kv_heads;
  spec.head_dim = dims.head_dim;
  spec.mlp_width = dims.mlp_width;
  spec.tie_embeddings = dims.tie;
  spec.context = dims.context;
  spec.rope.rotary_dim = dims.head_dim;
  spec.bos = 1;
  spec.eos = {2};
  return spec;
}

/// The same tensors under a spec that `change(spec)` has changed.
template <class Change>
void ChangeSpec(ParamStore* params, Change&& change) {
  ModelSpec spec = params->spec();
  change(spec);
  *params = std::move(*params).WithSpec(std::move(spec));
}

/// TinySpec with seeded weights. Norm weights are drawn around 1 too, so that a forgotten one shows.
inline ParamStore TinyModel(const ModelSpec& spec, uint64_t seed, DType dtype = DType::kF32) {
  ParamStore params(spec, DType::kF32);
  InitializeParams(params, seed);
  for (const ParamInfo& info : params.layout().params()) {
    if (!info.vector) continue;
    float* weight = params.Get(info.role, info.layer).Row<float>(0);
    for (int64_t i = 0; i < info.cols; ++i) weight[i] += 0.1f * static_cast<float>((i * 7 + info.layer * 3) % 11 - 5);
  }
  return Cast(params, dtype);
}

/// A TinyModel with weights large enough that what a token sees shows in its logits.
inline ParamStore LoudModel(const ModelSpec& spec, uint64_t seed) {
  ParamStore params = TinyModel(spec, seed);
  for (const ParamInfo& info : params.layout().params()) {
    if (info.vector) continue;
    Mat w = params.Get(info.role, info.layer);
    for (int64_t i = 0; i < w.rows * w.cols; ++i) w.Row<float>(0)[i] *= info.role == Role::kEmbedding ? 3.5f : 1.5f;
  }
  return params;
}

}  // namespace hawser
