// model/decoder.h - one transformer block for training, scoring and decoding: what was trained is what is served.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hawser/attn/schedule.h"
#include "hawser/model/kv_cache.h"
#include "hawser/model/params.h"
#include "hawser/model/weights.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// Rows of one or more packed sequences, concatenated. `sequences[b]` are rows [begin, begin + layout.size).
struct Batch {
  struct Sequence {
    int64_t begin = 0;
    TokenLayout layout;
  };
  std::vector<int32_t> ids;        // [N]
  std::vector<int64_t> positions;  // [N] rotary positions; a model with bilevel ones (pos/segments.h) counts its own
  std::vector<int32_t> targets;    // [N]; -1: none
  std::vector<float> weights;      // [N] loss weights
  // Further targets of rows, for a row that predicts several tokens: row extra_rows[e], ascending, has also the target
  // extra_targets[e] with its loss weight. [E] each
  std::vector<int32_t> extra_rows, extra_targets;
  std::vector<float> extra_weights;
  std::vector<Sequence> sequences;
  AttnPattern pattern;  // may differ between layers

  int64_t rows() const { return static_cast<int64_t>(ids.size()); }
};

/// kNone keeps every activation; kLayer keeps each layer's input, attention output and lse, and recomputes the rest in
/// backward (attention is never run twice forward).
enum class Recompute : uint8_t { kNone, kLayer };

struct StepStats {
  double loss = 0;            // sum of weight * nll, extra targets included
  double weight = 0;          // sum of weights, likewise
  int64_t visible_pairs = 0;  // summed over sequences, mean over layers
  int64_t causal_pairs = 0;
};

class Decoder {
 public:
  /// What the weights view outlives the decoder, and so does the backend.
  Decoder(Backend* backend, Weights weights);
  Decoder(Backend* backend, const ParamStore* weights) : Decoder(backend, Weights(*weights)) {}
  ~Decoder();

  const ModelSpec& spec() const;

  /// Negative log-likelihood of every target: nll [N] nats (0 where the target is -1; extra targets count in the loss
  /// alone). Memory grows linearly with N.
  StepStats Score(const Batch& batch, float* nll);

  /// Forward and backward, for weights that are those of a ParamStore; gradients of grad_scale * loss are added to
  /// `grads` (F32), which may hold some of the parameters only: the others' are not computed. Groups (ContinuesGroup)
  /// are there as a whole or not at all.
  StepStats ForwardBackward(const Batch& batch, float grad_scale, Recompute recompute, ParamStore* grads);

  /// Runs `tokens` against and into the cache, in as few chunks as its policy allows. `logits`, if given, is F32:
  /// [1, V] receives the row of the last token, [tokens, V] every row. `nll`, if given, receives for each token the
  /// nats of the token after it in `targets` [tokens] (-1: 0), without ever holding logits of more than a chunk.
  void Extend(std::span<const int32_t> tokens, KvCache* cache, Mat logits);
  void ExtendScore(std::span<const int32_t> tokens, std::span<const int32_t> targets, KvCache* cache, float* nll);

  /// One token for each of several streams, in one pass over the weights: token r goes to caches[r], all different, and
  /// its logits to row r of `logits` [R, V]. Streams may be of any lengths and policies: each gets what it would get
  /// alone, but for the rounding of products of several rows.
  void Step(std::span<const int32_t> tokens, std::span<KvCache* const> caches, Mat logits);

  /// Bytes of activations the last ForwardBackward or Score held at its peak.
  int64_t activation_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace hawser
