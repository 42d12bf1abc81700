// model/ends.h - both ends of the network: embeddings in front of the first block; the last norm, logits and loss
// behind the last one. Scratch is that of a Workspace.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hawser/model/decoder.h"
#include "hawser/model/params.h"
#include "hawser/model/weights.h"
#include "hawser/model/workspace.h"
#include "hawser/ops/backend.h"

namespace hawser {

class Ends {
 public:
  /// All of them outlive it.
  Ends(Backend* backend, const Weights* weights, Workspace* work)
      : backend_(backend), weights_(*weights), work_(work) {}

  /// Errors: kUsage for ids outside the vocabulary.
  void CheckIds(std::span<const int32_t> ids) const;
  /// x [N, C]: what the first block reads. `places`: of the tokens in their segments, where the model has bilevel
  /// positions.
  void Embed(const int32_t* ids, const int32_t* places, Mat x);
  /// d: gradient of what the first block reads.
  void EmbedBackward(const int32_t* ids, const int32_t* places, Mat d, ParamStore* grads);

  /// A norm outside of blocks. rstd [N] F32, or null.
  void Norm(ConstMat x, Role role, Mat y, float* rstd);
  void NormBackward(ConstMat x, Role role, const float* rstd, ConstMat dy, Mat dx, ParamStore* grads);
  /// The last norm of x, in the first rows of a matrix with room for `extra` more (Workspace::kNormed).
  Mat FinalNorm(ConstMat x, float* rstd, int64_t extra = 0);

  /// Of rows that went through the last norm: logits [N, V] F32, or the nats of targets [N] (-1: 0) without them.
  void Logits(ConstMat normed, Mat logits);
  void Nll(ConstMat normed, const int32_t* targets, float* nll, uint8_t* greatest);
  /// Loss of the batch whose last hidden rows, normed, are the first rows of `normed` [N + E, C]. A row with further
  /// targets is copied once for each: their gradients come back apart and are added up in f32, in order. nll [N],
  /// dnormed [N + E, C] and dweight may be empty.
  CrossEntropyResult Loss(const Batch& batch, Mat normed, float* nll, Mat dnormed, Mat dweight, float grad_scale);

 private:
  void EmbedRows(const int32_t* ids, const int32_t* places, Mat x);
  void AddExtraGradients(const std::vector<int32_t>& rows, ConstMat from, Mat to);
  const ModelSpec& spec() const { return weights_.spec(); }

  Backend* backend_;
  const Weights& weights_;
  Workspace* work_;
};

}  // namespace hawser
