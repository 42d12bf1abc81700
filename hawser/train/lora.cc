#include "hawser/train/lora.h"

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/base/streams.h"
#include "hawser/base/text.h"

namespace hawser {
namespace {

constexpr std::string_view kWeight = ".weight";

std::string Module(const ParamInfo& info) { return info.name.substr(0, info.name.size() - kWeight.size()); }

bool IsTarget(const ParamInfo& info, const std::string& target) {
  return IsLinear(info) && (GlobMatch(target, Module(info)) || GlobMatch("*." + target, Module(info)));
}

/// visit(A, B) for each target: places in the layout of the adapters.
template <class Visit>
void ForEachPair(const ParamLayout& layout, Visit&& visit) {
  for (size_t i = 0; i + 1 < layout.params().size(); i += 2) visit(layout.params()[i], layout.params()[i + 1]);
}

}  // namespace

bool IsLinear(const ParamInfo& info) {
  return !info.vector && info.role != Role::kEmbedding && info.role != Role::kPlaces;
}

LoraSpec LoraOf(const TrainConfig& config) {
  return {.rank = config.lora_rank, .alpha = config.lora_alpha, .targets = config.lora_targets};
}

ParamLayout LoraLayout(const ParamLayout& all, const LoraSpec& lora) {
  std::vector<ParamInfo> adapters;
  if (lora.rank == 0) return ParamLayout();
  for (const std::string& target : lora.targets) {
    const auto& params = all.params();
    if (std::none_of(params.begin(), params.end(), [&](const ParamInfo& info) { return IsTarget(info, target); })) {
      std::set<std::string> names;
      for (const ParamInfo& info : params) {
        if (IsLinear(info)) names.insert(Module(info).substr(Module(info).rfind('.') + 1));
      }
      const std::vector<std::string_view> known(names.begin(), names.end());
      Fail(ErrorKind::kUsage, "recipe key \"lora_targets\": no linear layer is called \"{}\"{}", target,
           SuggestName(target, known));
    }
  }
  for (const ParamInfo& info : all.params()) {
    if (std::none_of(lora.targets.begin(), lora.targets.end(), [&](const auto& t) { return IsTarget(info, t); })) {
      continue;
    }
    const auto add = [&](const char* name, Part part, int64_t rows, int64_t cols) {
      adapters.push_back({.name = Module(info) + name,
                          .role = info.role,
                          .layer = info.layer,
                          .rows = rows,
                          .cols = cols,
                          .part = part});
    };
    add(".lora_A.weight", Part::kAdapterA, lora.rank, info.cols);
    add(".lora_B.weight", Part::kAdapterB, info.rows, lora.rank);
  }
  return ParamLayout(std::move(adapters));
}

void InitializeLora(ParamStore* adapters, uint64_t seed) {
  ForEachPair(adapters->layout(), [&](const ParamInfo& a, const ParamInfo& b) {
    const double bound = 1.0 / std::sqrt(static_cast<double>(a.cols));
    const uint64_t stream = streams::Adapter(static_cast<uint32_t>(a.role), a.layer);
    float* values = adapters->At(a).Row<float>(0);
    Rng rng{seed, stream};
    for (int64_t i = 0; i < a.size(); ++i) values[i] = static_cast<float>(bound * (2 * rng.Uniform() - 1));
    std::fill_n(adapters->At(b).Row<float>(0), b.size(), 0.0f);
  });
}

Lora::Lora(Backend* backend, const LoraSpec& lora, const ParamStore* adapters)
    : backend_(backend),
      scale_(adapters->layout().empty() ? 0.0 : lora.scale()),
      adapters_(adapters),
      scaled_(adapters->spec(), adapters->layout(), DType::kF32) {
  int64_t largest = 0;
  ForEachPair(adapters->layout(),
              [&](const ParamInfo& a, const ParamInfo& b) { largest = std::max(largest, b.rows * a.cols); });
  if (largest > 0) sum_ = backend->NewMatrix(1, largest, DType::kF32);
}

void Lora::Merge(const ParamStore& weights, ParamStore* merged) {
  const auto* from = static_cast<const float*>(adapters_->arena().data);
  auto* to = static_cast<float*>(scaled_.arena().data);
  const auto scale = static_cast<float>(scale_);
  ParallelChunks(scaled_.size(), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = scale * from[i];
  });
  ForEachPair(scaled_.layout(), [&](const ParamInfo& a, const ParamInfo& b) {
    const Mat sum{sum_.view().data, DType::kF32, b.rows, a.cols, a.cols};
    backend_->Copy(weights.Get(a.role, a.layer), sum);
    backend_->MatMul({.a = scaled_.At(b), .b = adapters_->At(a), .c = sum, .accumulate = true});
    backend_->Copy(sum, merged->Get(a.role, a.layer));
  });
}

void Lora::Backward(const ParamStore& grads, ParamStore* adapter_grads) {
  ForEachPair(scaled_.layout(), [&](const ParamInfo& a, const ParamInfo& b) {
    const ConstMat dw = grads.Get(a.role, a.layer);
    backend_->MatMul({.a = scaled_.At(b), .trans_a = true, .b = dw, .c = adapter_grads->At(a), .accumulate = true});
    backend_->MatMul({.a = dw, .b = scaled_.At(a), .trans_b = true, .c = adapter_grads->At(b), .accumulate = true});
  });
}

}  // namespace hawser
