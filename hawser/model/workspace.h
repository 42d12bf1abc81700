// model/workspace.h - scratch matrices by name: grown when a call needs more, reused otherwise, so that steady-state
// steps and decoding allocate nothing.
#pragma once

#include <array>
#include <cstdint>

#include "hawser/ops/backend.h"

namespace hawser {

class Workspace {
 public:
  enum Slot : uint8_t {
    kResidual,    // [N, C] the stream between layers (scoring and decoding), or its gradient (training)
    kNormed,      // [N, C]
    kProjected,   // [N, C] output of a projection before it is added to the stream
    kQkv,         // [N, (H+2G)*D]
    kFarQueries,  // [N, H*D] queries of far keys
    kAttnOut,     // [N, H*D]
    kMiddle,      // [N, C] the stream between attention and mlp
    kGateUp,      // [chunk, 2F]
    kHidden,      // [chunk, F]
    kGradQkv,     // [N, (H+2G)*D]
    kGradAttn,    // [N, H*D]
    kGradGateUp,  // [chunk, 2F]
    kGradHidden,  // [chunk, F]
    kGradNormed,  // [N, C]
    kGradMiddle,  // [N, C] gradient of the mlp's branch beside attention's (parallel forms)
    kRawQkv,      // [N, (H+2G)*D] before clip and norms
    kQkNormed,    // [N, H*D]
    kPostNormed,  // [N, C] a branch's result through its norm, or the gradient
    kPostRstd,    // [1, N*H] f32
    kLse,         // [N, H] f32
    kRstd,        // [1, N] f32
    kLogits,      // [rows, V] f32
    kNumSlots,
  };

  explicit Workspace(Backend* backend) : backend_(backend) {}

  /// A [rows, cols] view of the slot; what it held before is gone when it had to grow.
  Mat Get(Slot slot, int64_t rows, int64_t cols, DType dtype) {
    Matrix& matrix = slots_[slot];
    const int64_t bytes = rows * cols * static_cast<int64_t>(SizeOf(dtype));
    if (static_cast<int64_t>(matrix.bytes()) < bytes) {
      matrix = Matrix();
      matrix = backend_->NewMatrix(1, bytes, DType::kU8);
    }
    return {matrix.view().data, dtype, rows, cols, cols};
  }

  int64_t bytes() const {
    int64_t sum = 0;
    for (const Matrix& matrix : slots_) sum += static_cast<int64_t>(matrix.bytes());
    return sum;
  }

 private:
  Backend* backend_;
  std::array<Matrix, kNumSlots> slots_;
};

}  // namespace hawser
