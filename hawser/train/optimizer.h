// train/optimizer.h - AdamW over an arena of parameters, and the health of their gradients.
#pragma once

#include <cstdint>
#include <string>

#include "hawser/model/params.h"
#include "hawser/ops/backend.h"
#include "hawser/train/config.h"

namespace hawser {

/// First and second moments, F32, of the tensors of `trained`, found in the other arenas by name. Matrices decay, norm
/// weights do not.
class Optimizer {
 public:
  Optimizer(Backend* backend, const ModelSpec& spec, const ParamLayout& trained)
      : backend_(backend), m_(spec, trained, DType::kF32), v_(spec, trained, DType::kF32) {}

  /// Update number `step` (1-based) of `weights` (F32); `low`, if given, receives their BF16 rounding.
  void Step(const TrainConfig& config, int64_t step, double lr, double grad_scale, const ParamStore& grads,
            ParamStore* weights, ParamStore* low);

  ParamStore& m() { return m_; }
  ParamStore& v() { return v_; }
  const ParamStore& m() const { return m_; }
  const ParamStore& v() const { return v_; }

 private:
  Backend* backend_;
  ParamStore m_, v_;
};

/// The arenas that a run goes on from, all F32.
struct TrainState {
  ParamStore* weights = nullptr;
  ParamStore* m = nullptr;
  ParamStore* v = nullptr;
  ParamStore* adapters = nullptr;  // and their moments; null: there are none
  ParamStore* adapters_m = nullptr;
  ParamStore* adapters_v = nullptr;
};

/// The global Euclidean norm; not finite if an element is not.
double GradientNorm(Backend* backend, const ParamStore& grads);

/// The name of the first tensor that holds a value that is not finite, or "".
std::string FirstNonFinite(const ParamStore& store);

}  // namespace hawser
