// cpu/block_linear.h - linear layers whose weights lie in blocks (cpu/block_kernels.h).
#pragma once

#include "hawser/cpu/scratch.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// Most rows of x of this dtype that 8-bit dot products with blocks are the fastest way for. Beyond, weights are worth
/// decoding: AMX multiplies BF16 faster than sums of 8-bit products can be scaled, one group of weights at a time.
int64_t MaxBlockDotRows(Isa isa, DType x);

/// Holds scratch; one call at a time.
class BlockLinear {
 public:
  /// y = x W^T + bias, x in 8 bits. A row's bits depend on neither the other rows nor the machine.
  void Run(const LinearArgs& args);

 private:
  Scratch q_, scales_, begins_, bias_;
};

/// from: blocks; to: F32, the same shape. Not in parallel.
void DecodeBlocks(ConstMat from, Mat to);

}  // namespace hawser
