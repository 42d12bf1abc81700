// cpu/loss.h - the fused head and cross-entropy; contract in ops/backend.h. Validated by the caller.
// Logits exist in tiles of tokens x vocabulary. Where gradients are wanted a tile has whole rows: product, softmax and
// both gradients follow one another (as arXiv:2410.10989 does on GPUs), and every tile reads and writes the gradient of
// the head once, so it has at least kFewTokens tokens: 8 MB of logits where that is enough, up to 128 MB where not. A
// vocabulary beyond that is walked twice, panel by panel: first for the running log sum exp, then, logits made again at
// a third more arithmetic, for the gradients (arXiv:2411.09009). Scoring alone folds panels of at most 8 MB.
#pragma once

#include "hawser/cpu/matmul.h"
#include "hawser/cpu/scratch.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// Holds scratch for logits; one call at a time.
class CrossEntropyEngine {
 public:
  CrossEntropyResult Run(const CrossEntropyArgs& args, MatMulEngine& matmul);

 private:
  struct Row;
  Scratch logits_, rows_, dx_, head_;
};

/// Tokens and vocabulary entries of a tile; depends on the sizes alone. tokens * panel <= 2 Mi elements, and with
/// whole rows for gradients <= 32 Mi.
struct CrossEntropyTile {
  int64_t tokens, panel;
};
CrossEntropyTile ChooseCrossEntropyTile(int64_t tokens, int64_t vocab, bool gradients);

}  // namespace hawser
