// model/spec.h - what the network is: the declarative block of a decoder-only transformer.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "hawser/attn/pattern.h"
#include "hawser/attn/softmax.h"
#include "hawser/ops/kinds.h"
#include "hawser/pos/alibi.h"
#include "hawser/pos/scheme.h"
#include "hawser/pos/segments.h"

namespace hawser {

/// How the two branches of a block meet the stream x. A = attention's branch, M = the mlp's, N1, N2 their norms:
///   kSequential         m = x + A(N1 x);  y = m + M(N2 m)
///   kParallelOneNorm    y = x + A(N1 x) + M(N1 x)          (Falcon 7B, Phi)
///   kParallelTwoNorms   y = x + A(N1 x) + M(N2 x)          (GPT-NeoX, Falcon 40B)
enum class Residual : uint8_t { kSequential, kParallelOneNorm, kParallelTwoNorms };

/// A norm of queries and keys before they are rotated: of each head by itself (weight [D], Qwen3, Gemma 3), or of all
/// heads as one row (weights [H*D] and [G*D], OLMo 2).
enum class QkNorm : uint8_t { kNone, kHead, kWidth };

/// What distinguishes the blocks of families; the defaults are Llama's.
struct BlockSpec {
  NormKind norm = NormKind::kRms;
  bool norm_bias = false;
  bool norm_plus_one = false;  // a norm multiplies by 1 + w (Gemma)
  bool pre_norms = true;       // N1 and N2; without them branches read the stream itself (OLMo 2)
  bool post_norms = false;     // a norm of each branch's result, before it is added (Gemma 2 and 3, OLMo 2)
  Residual residual = Residual::kSequential;
  bool qkv_bias = false, out_bias = false, mlp_bias = false;
  QkNorm qk_norm = QkNorm::kNone;
  bool gated = true;  // M(n) = Wdown (act(Wgate n) * Wup n), else Wdown act(Wup n)
  Act act = Act::kSilu;
  float qkv_clip = 0;  // queries, keys and values are clipped to [-clip, clip]; 0: not (MPT)

  bool operator==(const BlockSpec&) const = default;
};

/// How tokens get their places: a rotation of queries and keys, a bias of scores (ALiBi), or not at all.
enum class Places : uint8_t { kRope, kAlibi, kNone };

/// A decoder-only transformer: logits = scale * Whead N(blocks(embedding)). Families that differ only in these fields
/// are rows, never classes.
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
  BlockSpec block;
  Places places = Places::kRope;
  AlibiSpec alibi;                            // of kAlibi
  std::optional<RopeSpec> local_rope;         // of the layers with a window; none: rope (Gemma 3)
  std::vector<int32_t> unplaced_layers = {};  // ascending: these know no places (SmolLM3)
  bool embedding_norm = false;                // of embeddings, before the first block (BLOOM)
  float embedding_scale = 1;
  float attn_scale = 0;  // of scores; 0: 1 / sqrt(D)
  float attn_cap = 0;    // scores become cap tanh(score / cap); 0: they stay (Gemma 2)
  float logit_scale = 1;
  float logit_cap = 0;  // of logits, likewise
  SoftmaxSpec softmax;
  SegmentSpec segments;                   // bilevel positions
  int32_t sliding_window = 0;             // tokens, self included; 0: none (mistral)
  std::vector<int32_t> full_layers = {};  // ascending: these see everything in spite of sliding_window
  int32_t bos = -1;
  std::vector<int32_t> eos;

  bool operator==(const ModelSpec&) const = default;
};

/// Every field in range and consistent; 1 <= D <= 256, H % G == 0. Errors: kFormat naming the field and its bounds.
void Validate(const ModelSpec& spec);
/// Its part for the number of layers: what reads a file asks before it goes through them. Errors: kFormat.
void ValidateLayers(int32_t layers);

/// Whether keys and queries of a layer are rotated, and the rope that does it.
bool Rotates(const ModelSpec& spec, int32_t layer);
const RopeSpec& RopeOf(const ModelSpec& spec, int32_t layer);

/// Whether the queries of a layer are multiplied by the scale of its rope.
bool ScalesQueries(const ModelSpec& spec, int32_t layer);

/// Of scores: attn_scale, or 1 / sqrt(D).
float AttentionScale(const ModelSpec& spec);

/// What the model's own windows let each layer see, as a pattern that narrows others (PatternsOfLayers).
LayeredPattern OwnPattern(const ModelSpec& spec);

/// The dtype of queries, keys and values, cached ones too: f32 where rope.numerics.qk is, else that of activations.
/// Errors: kUnsupported for a rotation in other formats than f32 and bf16, and a qk that is neither f32 nor the dtype
/// of activations (those are emulated, see eval/drift.h).
DType QkvDType(const ModelSpec& spec, DType activations);

int64_t NumParameters(const ModelSpec& spec);
/// Those in matrix products, the head included.
int64_t MatrixParameters(const ModelSpec& spec);

/// Useful FLOPs of one training step (forward and backward, recompute not counted): 6 * (parameters in matrix products)
/// a token, the head included, plus 12 * D * H * L a visible (query, key) pair: forward 4, backward 8 useful.
/// `pairs`: visible pairs of one layer.
double TrainingFlops(const ModelSpec& spec, int64_t tokens, int64_t pairs);

}  // namespace hawser
