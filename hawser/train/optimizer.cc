#include "hawser/train/optimizer.h"

#include <algorithm>
#include <cmath>

#include "hawser/base/error.h"

namespace hawser {
namespace {

/// The place in `layout` of a tensor that another layout has at `index`: the same where both hold the same tensors.
int64_t OffsetOf(const ParamLayout& layout, size_t index, const std::string& name) {
  const std::vector<ParamInfo>& params = layout.params();
  const auto named = [&](const ParamInfo& info) { return info.name == name; };
  if (index < params.size() && named(params[index])) return params[index].offset;
  const auto found = std::find_if(params.begin(), params.end(), named);
  HAWSER_CHECK(found != params.end());
  return found->offset;
}

}  // namespace

void Optimizer::Step(const TrainConfig& config, int64_t step, double lr, double grad_scale, const ParamStore& grads,
                     ParamStore* weights, ParamStore* low) {
  HAWSER_CHECK(weights->dtype() == DType::kF32 && grads.dtype() == DType::kF32);
  for (size_t i = 0; i < m_.layout().params().size(); ++i) {
    const ParamInfo& info = m_.layout().params()[i];
    const int64_t at = OffsetOf(weights->layout(), i, info.name);
    backend_->AdamW({.w = static_cast<float*>(weights->arena().data) + at,
                     .grad = static_cast<const float*>(grads.arena().data) + OffsetOf(grads.layout(), i, info.name),
                     .m = static_cast<float*>(m_.arena().data) + info.offset,
                     .v = static_cast<float*>(v_.arena().data) + info.offset,
                     .low = low != nullptr ? static_cast<bf16*>(low->arena().data) + at : nullptr,
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
