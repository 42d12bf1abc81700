#include "hawser/train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "hawser/base/error.h"

namespace hawser {

void Optimizer::Step(const TrainConfig& config, int64_t step, double lr, double grad_scale, const ParamStore& grads,
                     ParamStore* weights, ParamStore* low) {
  HAWSER_CHECK(weights->dtype() == DType::kF32 && grads.dtype() == DType::kF32 && grads.size() == weights->size());
  for (const ParamInfo& info : weights->layout().params()) {
    backend_->AdamW({.w = static_cast<float*>(weights->arena().data) + info.offset,
                     .grad = static_cast<const float*>(grads.arena().data) + info.offset,
                     .m = static_cast<float*>(m_.arena().data) + info.offset,
                     .v = static_cast<float*>(v_.arena().data) + info.offset,
                     .low = low != nullptr ? static_cast<bf16*>(low->arena().data) + info.offset : nullptr,
                     .n = info.size(),
                     .step = step,
                     .lr = static_cast<float>(lr),
                     .beta1 = static_cast<float>(config.beta1),
                     .beta2 = static_cast<float>(config.beta2),
                     .eps = static_cast<float>(config.eps),
                     .decay = info.vector ? 0.0f : static_cast<float>(config.weight_decay),
                     .grad_scale = static_cast<float>(grad_scale)});
  }
}

double GradientNorm(Backend* backend, const ParamStore& grads) {
  return std::sqrt(backend->SumSquares(static_cast<const float*>(grads.arena().data), grads.size()));
}

std::string FirstNonFinite(const ParamStore& store) {
  HAWSER_CHECK(store.dtype() == DType::kF32);
  for (const ParamInfo& info : store.layout().params()) {
    const float* values = static_cast<const float*>(store.arena().data) + info.offset;
    if (!std::all_of(values, values + info.size(), [](float x) { return std::isfinite(x); })) return info.name;
  }
  return "";
}

}  // namespace hawser
