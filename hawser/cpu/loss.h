// cpu/loss.h - the fused head and cross-entropy; contract in ops/backend.h. Validated by the caller.
// Logits exist in tiles of tokens x vocabulary of at most 8 MB. A small vocabulary is one panel: product, softmax and
// both gradients follow one another (as arXiv:2410.10989 does on GPUs). A large one is walked twice, panel by panel:
// first for the running log sum exp, then, logits made again, for the gradients (arXiv:2411.09009). The second product
// costs a third more arithmetic, but blocks of many tokens read and write the gradient of the head once per block: with
// 49152 words of width 576 that is 226 MB, which the 32 tokens whose whole rows fit in 8 MB would move in 1.8 GFLOP.
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
  Scratch logits_, rows_, dx_;
};

/// Tokens and vocabulary entries of a tile; depends on the sizes alone. tokens * panel <= 2 Mi elements.
struct CrossEntropyTile {
  int64_t tokens, panel;
};
CrossEntropyTile ChooseCrossEntropyTile(int64_t tokens, int64_t vocab);

}  // namespace hawser
