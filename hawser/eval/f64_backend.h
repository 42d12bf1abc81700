// eval/f64_backend.h - what a block does around attention (model/block.h) on rows of F64, over weights of F32, which
// f64 holds exactly: plain loops, every product and sum in f64. Rows of other dtypes, and all other operations, are
// handed on. The same bits for any number of threads.
#pragma once

#include <cstdint>

#include "hawser/ops/forwarding_backend.h"

namespace hawser {

class F64Backend : public ForwardingBackend {
 public:
  using ForwardingBackend::ForwardingBackend;

  void Copy(ConstMat from, Mat to) override;
  void Add(ConstMat x, Mat y) override;
  void Clamp(Mat x, float limit) override;
  void EmbedForward(ConstMat table, const int32_t* ids, Mat y, float scale) override;
  void Linear(const LinearArgs& args) override;
  void NormForward(const NormArgs& args) override;  // without rstd
  void ActForward(const ActArgs& args) override;
};

}  // namespace hawser
