// model/spec.h - what the network is: the declarative block of a decoder-only transformer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hawser/attn/pattern.h"
#include "hawser/attn/softmax.h"
#include "hawser/pos/scheme.h"
#include "hawser/pos/segments.h"

namespace hawser {

/// x += Wo attention(norm(x)); x += Wdown swiglu(Wgate_up norm(x)); logits = Whead norm(x). Families that differ only
/// in these fields are rows (families.h), never classes.
struct ModelSpec {
  std::string family = "llama";  // model_type of config.json
  int32_t vocab = 0;             // V
  int32_t width = 0;             // C
  int32_t layers = 0;            // L
  int32_t heads = 0;             // H
  int32_t kv_heads = 0;          // G
  int32_t head_dim = 0;          // D
  int32_t mlp_width = 0;         // F
  float norm_eps = 1e-5f;
  bool tie_embeddings = false;
  int64_t context = 0;  // tokens the model is meant for (max_position_embeddings)
  RopeSpec rope;
  SoftmaxSpec softmax;
  SegmentSpec segments;                   // bilevel positions
  int32_t sliding_window = 0;             // tokens, self included; 0: none (mistral)
  std::vector<int32_t> full_layers = {};  // ascending: these see everything in spite of sliding_window
  int32_t bos = -1;
  std::vector<int32_t> eos;

  bool operator==(const ModelSpec&) const = default;
};

/// Every field in range and consistent; 8 <= D <= 256, H % G == 0. Errors: kFormat naming the field and its bounds.
void Validate(const ModelSpec& spec);

/// What the model's own windows let each layer see, as a pattern that narrows others (PatternsOfLayers).
AttnPattern OwnPattern(const ModelSpec& spec);

/// The dtype of queries, keys and values, cached ones too: f32 where rope.numerics.qk is, else that of activations.
/// Errors: kUnsupported for a rotation in other formats than f32 and bf16, and a qk that is neither f32 nor the dtype
/// of activations (those are emulated, see eval/drift.h).
DType QkvDType(const ModelSpec& spec, DType activations);

int64_t NumParameters(const ModelSpec& spec);

/// Useful FLOPs of one training step (forward and backward, recompute not counted): 6 * (parameters in matrix products)
/// a token, the head included, plus 12 * D * H * L a visible (query, key) pair: forward 4, backward 8 useful.
/// `pairs`: visible pairs of one layer.
double TrainingFlops(const ModelSpec& spec, int64_t tokens, int64_t pairs);

}  // namespace hawser
