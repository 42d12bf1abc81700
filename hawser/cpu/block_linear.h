// cpu/block_linear.h - linear layers whose weights lie in blocks (cpu/block_kernels.h).
#pragma once

#include "hawser/cpu/scratch.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// Most rows of x that are multiplied by 8-bit dot products with weights in blocks.
inline constexpr int64_t kMaxBlockDotRows = 8;

/// Holds scratch; one call at a time.
class BlockLinear {
 public:
  /// y = x W^T + bias of at most kMaxBlockDotRows rows, x in 8 bits, each weight read once for four of them. A row's
  /// bits depend on neither the other rows nor the machine.
  void Run(const LinearArgs& args);

 private:
  Scratch q_, scales_, sums_, bias_;
};

/// from: blocks; to: F32, the same shape. Not in parallel.
void DecodeBlocks(ConstMat from, Mat to);

}  // namespace hawser
