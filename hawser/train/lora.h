// train/lora.h - low-rank adapters (LoRA, arXiv:2106.09685) over the list of a model's parameters.
//   W' = W + s B A,  s = alpha / rank      W [out, in] as it was, A [rank, in], B [out, rank], all f32
//   dA = s B^T dW',  dB = s dW' A^T
// The model computes with W', formed once a step, so nothing in it knows of adapters; the gradient of every W' that is
// adapted is held whole for a moment. What LoRA saves is moments and, in files, everything but A and B.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hawser/model/params.h"
#include "hawser/ops/backend.h"
#include "hawser/train/config.h"

namespace hawser {

struct LoraSpec {
  int64_t rank = 0;  // 0: no adapters
  double alpha = 16;
  std::vector<std::string> targets;  // modules: "q_proj", "layers.0.mlp.up_proj", globs

  double scale() const { return alpha / static_cast<double>(rank); }
};
LoraSpec LoraOf(const TrainConfig& config);

/// Whether it is the matrix of a linear layer, which can be adapted.
bool IsLinear(const ParamInfo& info);

/// A and B of each target, side by side in the order of `all`: "model.layers.0.self_attn.q_proj.lora_A.weight". A
/// target names the end of a module from a dot on. Empty without rank. Errors: kUsage for a target that names no matrix
/// of a linear layer.
ParamLayout LoraLayout(const ParamLayout& all, const LoraSpec& lora);

/// A uniform in +-1/sqrt(in) (Kaiming with slope sqrt(5), as the reference implementation), B zero: W' = W.
void InitializeLora(ParamStore* adapters, uint64_t seed);

class Lora {
 public:
  /// `adapters`: over LoraLayout; outlives this.
  Lora(Backend* backend, const LoraSpec& lora, const ParamStore* adapters);

  /// W' of every target, in f32 and then rounded to the dtype of `merged`, which is else left as it is.
  void Merge(const ParamStore& weights, ParamStore* merged);
  /// Adds dA and dB for the gradients of W' in `grads` (f32).
  void Backward(const ParamStore& grads, ParamStore* adapter_grads);

 private:
  Backend* backend_;
  double scale_;
  const ParamStore* adapters_;
  ParamStore scaled_;  // s A, s B
  Matrix sum_;         // the largest target
};

}  // namespace hawser
