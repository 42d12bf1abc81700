// model/weights.h - what a decoder reads: the tensors of a model, immutable, each of its own dtype, in the memory of a
// ParamStore, of a mapped file, or of arenas made when it was opened.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "hawser/model/params.h"

namespace hawser {

/// A linear layer: w [out, in], bias [1, out] or empty.
struct WeightView {
  ConstMat w;
  ConstMat bias;
};

/// Bytes of a dense matrix of any dtype, blocked types included.
int64_t StoredBytes(const ConstMat& matrix);

class Weights {
 public:
  /// Views of a store over all parameters, which outlives them. Activations have its dtype.
  Weights(const ParamStore& params);  // NOLINT: a store lends views of itself
  /// `tensors`: one for each of ParamLayout(spec), in its order; their memory belongs to `owners`. Vectors (norms,
  /// biases) are F32 or BF16, matrices of any dtype that Backend::Linear takes. `activations`: F32 or BF16.
  Weights(const ModelSpec& spec, DType activations, std::vector<ConstMat> tensors,
          std::vector<std::shared_ptr<const void>> owners);
  /// Views of a store that is kept as long as they are.
  static Weights Of(std::shared_ptr<const ParamStore> params);

  const ModelSpec& spec() const { return spec_; }
  /// The same tensors under a spec that moves none of them (context, rope, token ids).
  Weights WithSpec(const ModelSpec& spec) const;
  const ParamLayout& layout() const { return *layout_; }
  DType dtype() const { return activations_; }  // of activations
  int64_t bytes() const;                        // of all tensors as they lie

  /// Each of layout().params().
  const std::vector<ConstMat>& tensors() const { return tensors_; }
  ConstMat Get(Role role, int32_t layer = -1) const;
  ConstMat Bias(Role role, int32_t layer = -1) const;  // empty: the model has none
  WeightView Linear(Role role, int32_t layer) const { return {Get(role, layer), Bias(role, layer)}; }
  /// Query, key and value one below another, or gate and up (up alone where the mlp is plain): one view where they lie
  /// together, else each.
  std::span<const WeightView> Qkv(int32_t layer) const { return qkv_[static_cast<size_t>(layer)]; }
  std::span<const WeightView> MlpIn(int32_t layer) const { return mlp_in_[static_cast<size_t>(layer)]; }
  ConstMat Head() const { return Get(spec_.tie_embeddings ? Role::kEmbedding : Role::kHead); }

 private:
  std::vector<WeightView> Group(std::span<const Role> roles, int32_t layer) const;

  ModelSpec spec_;
  DType activations_;
  std::shared_ptr<const ParamLayout> layout_;
  std::vector<ConstMat> tensors_;
  std::vector<std::shared_ptr<const void>> owners_;
  std::vector<std::vector<WeightView>> qkv_, mlp_in_;  // [L]
};

}  // namespace hawser
