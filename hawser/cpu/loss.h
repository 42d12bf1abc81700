// cpu/loss.h - the fused head and cross-entropy; contract in ops/backend.h. Validated by the caller.
// Counted tokens are taken in chunks whose logits fill at most 8 MB: product, softmax and both gradients are done
// before the next chunk, so [N, V] never exists (arXiv:2410.10989 does the same on GPUs). Runs of skipped tokens cost
// nothing.
#pragma once

#include "hawser/cpu/matmul.h"
#include "hawser/cpu/scratch.h"
#include "hawser/ops/backend.h"

namespace hawser {

CrossEntropyResult CrossEntropy(const CrossEntropyArgs& args, MatMulEngine& matmul, Scratch& scratch);

/// Tokens a chunk has for a vocabulary of `vocab`.
int64_t CrossEntropyChunk(int64_t vocab);

}  // namespace hawser
