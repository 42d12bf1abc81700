// cpu/linear.h - linear layers, forward and backward; contracts in ops/backend.h. Arguments are validated by the
// caller.
#pragma once

#include "hawser/cpu/block_linear.h"
#include "hawser/cpu/matmul.h"
#include "hawser/cpu/scratch.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// Holds scratch; one call at a time. Weights of x's dtype go to `matmul`. Of others:
///   blocks:                  x in 8 bits against the blocks as they lie, up to so many rows (cpu/block_linear.h)
///   few rows, plain floats:  dot products in f32, widened as they are read
///   else:                    panels of W decoded to the dtype of x (args.exact: F32), each multiplied as usual
/// Few rows with args.exact go by panels in F32.
class LinearEngine {
 public:
  void Run(const LinearArgs& args, MatMulEngine& matmul);

 private:
  bool RunDots(const LinearArgs& args);
  void RunPanels(const LinearArgs& args, MatMulEngine& matmul);

  BlockLinear blocks_;
  Scratch panel_, wide_, bias_;
};

/// dbias: cut by columns, each piece adds rows in blocks whose sums are added in order.
void LinearBackward(const LinearBackwardArgs& args, MatMulEngine& matmul);

/// to = from, of the same shape; from: F32, BF16, F16 or blocks; to: F32 or BF16.
void DecodeMat(ConstMat from, Mat to);

}  // namespace hawser
