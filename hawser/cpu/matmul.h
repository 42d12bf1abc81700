// cpu/matmul.h - matrix products: cut in pieces of c that depend on the shape alone, each a single-threaded oneDNN
// primitive, so the result is the same for any number of threads.
#pragma once

#include <memory>
#include <unordered_map>

#include "hawser/cpu/onednn.h"
#include "hawser/cpu/scratch.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// Holds the primitives made so far (keyed by shape, strides and dtypes) and scratch. One call at a time. A row of c
/// may differ in its last bits with the number of rows, as oneDNN cuts k by the sizes of the whole piece.
class MatMulEngine {
 public:
  /// bias: empty, or [1, columns of c] to add to each row before the one rounding to c; not with accumulate.
  void Run(const MatMulArgs& args, ConstMat bias = {});
  /// Primitives held: bounded however many different numbers of rows were asked for.
  size_t primitives() const { return products_.size(); }

 private:
  struct Hash {
    size_t operator()(const ProductShape& s) const;
  };
  /// Null if oneDNN has no fast kernel for the shape here (bf16 on a machine without bf16 instructions).
  const Product* Find(const ProductShape& shape);
  /// bf16 factors as f32 copies, then the f32 product.
  void RunWidened(const MatMulArgs& args, ConstMat bias);

  std::unordered_map<ProductShape, std::optional<Product>, Hash> products_;
  Scratch wide_a_, wide_b_, wide_bias_;
};

}  // namespace hawser
