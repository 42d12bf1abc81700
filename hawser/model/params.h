// model/params.h - parameters, gradients and optimizer moments: one arena each, all with the same layout.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/buffer.h"
#include "hawser/model/spec.h"

namespace hawser {

enum class Role : uint8_t {
  kEmbedding,      // [V, C]
  kAttnNorm,       // [1, C]
  kQuery,          // [H*D, C]
  kKey,            // [G*D, C]
  kValue,          // [G*D, C]
  kAttnOut,        // [C, H*D]
  kMlpNorm,        // [1, C]
  kGate,           // [F, C]
  kUp,             // [F, C]
  kDown,           // [C, F]
  kFinalNorm,      // [1, C]
  kHead,           // [V, C]; absent when tied
  kPlaces,         // [places, C]; only with bilevel positions (pos/segments.h)
  kQueryNorm,      // [1, D] or [1, H*D]
  kKeyNorm,        // [1, D] or [1, G*D]
  kAttnPostNorm,   // [1, C]
  kMlpPostNorm,    // [1, C]
  kEmbeddingNorm,  // [1, C]
};

/// A bias is [1, rows of its weight], that of a norm [1, cols]. An adapter of a weight is the product B A of
/// kAdapterB [rows, rank] and kAdapterA [rank, cols].
enum class Part : uint8_t { kWeight, kBias, kAdapterA, kAdapterB };

struct ParamInfo {
  std::string name;  // of every family the one Llama's files use: "model.layers.0.self_attn.q_proj.weight"
  Role role;
  int32_t layer = -1;
  int64_t rows = 0, cols = 0;
  int64_t offset = 0;   // elements from the start of the arena
  bool vector = false;  // stored 1-D in files (norms, biases); not decayed by the optimizer
  Part part = Part::kWeight;

  int64_t size() const { return rows * cols; }
};

/// Where each tensor lies in an arena. Query, key and value of a layer are adjacent, and gate and up are, so that one
/// matrix product serves each group. Starts of groups (and of every other tensor) are 64-byte aligned, in BF16 too.
class ParamLayout {
 public:
  ParamLayout() = default;
  /// Every parameter of a model.
  explicit ParamLayout(const ModelSpec& spec);
  /// These tensors in this order, laid out anew; what `offset` they came with does not matter.
  explicit ParamLayout(std::vector<ParamInfo> tensors);

  const std::vector<ParamInfo>& params() const { return params_; }
  bool empty() const { return params_.empty(); }
  int64_t size() const { return size_; }  // elements, padding included
  /// Null where the layout has no such tensor.
  const ParamInfo* TryFind(Role role, int32_t layer = -1, Part part = Part::kWeight) const;
  const ParamInfo& Find(Role role, int32_t layer = -1, Part part = Part::kWeight) const;

 private:
  std::vector<ParamInfo> params_;
  std::vector<int32_t> index_;  // of a role of a layer in params_; -1: not there
  int64_t size_ = 0;
};

/// Whether a tensor follows `before` without padding, so that one matrix product serves the group: key and value follow
/// query, up follows gate, weights and biases alike.
bool ContinuesGroup(const ParamInfo& info, const ParamInfo& before);

/// An arena of one dtype over all parameters of a model, where asking for a tensor that is not there is a bug, or over
/// a layout of some, where its view (or that of its group) is empty.
class ParamStore {
 public:
  ParamStore() = default;
  ParamStore(const ModelSpec& spec, DType dtype);
  ParamStore(const ModelSpec& spec, ParamLayout layout, DType dtype);

  const ModelSpec& spec() const { return spec_; }
  /// The same tensors for a spec that says something else of what they do not depend on (context, rope, token ids).
  ParamStore WithSpec(ModelSpec spec) &&;
  const ParamLayout& layout() const { return *layout_; }
  DType dtype() const { return arena_.view().dtype; }
  int64_t size() const { return layout_->size(); }
  bool partial() const { return partial_; }  // made over a layout of some
  Mat arena() { return arena_.view(); }      // [1, size]
  ConstMat arena() const { return arena_.view(); }

  Mat At(const ParamInfo& info);  // a tensor of this layout
  ConstMat At(const ParamInfo& info) const;
  Mat Get(Role role, int32_t layer = -1);
  ConstMat Get(Role role, int32_t layer = -1) const;
  /// [1, rows] of a linear layer, [1, cols] of a norm; empty where the model has none.
  Mat Bias(Role role, int32_t layer = -1);
  ConstMat Bias(Role role, int32_t layer = -1) const;
  ConstMat Qkv(int32_t layer) const;  // [(H+2G)*D, C]
  Mat Qkv(int32_t layer);
  ConstMat QkvBias(int32_t layer) const;  // [1, (H+2G)*D], or empty
  Mat QkvBias(int32_t layer);
  ConstMat MlpIn(int32_t layer) const;  // [2F, C] gate and up, or [F, C] up alone
  Mat MlpIn(int32_t layer);
  ConstMat MlpInBias(int32_t layer) const;  // [1, 2F] or [1, F], or empty
  Mat MlpInBias(int32_t layer);
  ConstMat Head() const;  // the embedding when tied
  Mat Head();

 private:
  const ParamInfo* Find(Role role, int32_t layer) const;
  Mat Group(Role first, int32_t layer, Part part, int64_t rows);
  ModelSpec spec_;
  std::shared_ptr<const ParamLayout> layout_;
  bool partial_ = false;
  Matrix arena_;
};

/// Normal(0, std) with std = 0.02 sqrt(1024 / C), residual projections divided by sqrt(2 L) (GPT-2, Radford et al.
/// 2019, at its width; the law in C keeps the spread of every product the same in narrow models), norms multiply by 1,
/// biases 0. Value i of a tensor depends on (seed, tensor, i) alone.
void InitializeParams(ParamStore& params, uint64_t seed);

/// The same parameters rounded to `dtype`.
ParamStore Cast(const ParamStore& params, DType dtype);

}  // namespace hawser
