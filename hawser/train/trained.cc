#include "hawser/train/trained.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/model/focus.h"
#include "hawser/train/lora.h"
#include "hawser/train/objective.h"

namespace hawser {
namespace {

/// Whether one of `globs` matches each parameter.
std::vector<bool> Matches(const ParamLayout& all, const std::vector<std::string>& globs, const char* key) {
  std::vector<bool> matched(all.params().size(), false);
  for (const std::string& glob : globs) {
    bool any = false;
    for (size_t i = 0; i < matched.size(); ++i) {
      if (!GlobMatch(glob, all.params()[i].name)) continue;
      matched[i] = any = true;
    }
    if (!any) {
      Fail(ErrorKind::kUsage,
           "recipe key \"{}\": no parameter is called \"{}\"; names are like \"{}\" and \"{}\", * stands for any text",
           key, glob, all.params().front().name, all.params()[std::min<size_t>(2, matched.size() - 1)].name);
    }
  }
  return matched;
}

}  // namespace

bool TrainsCandidates(const TrainConfig& config) {
  return std::holds_alternative<FocusLoss>(ParseObjective(config.objective));
}

ParamLayout AdapterLayout(const ParamLayout& all, const TrainConfig& config) {
  return TrainsCandidates(config) ? CandidateLayout(all) : LoraLayout(all, LoraOf(config));
}

ParamLayout TrainedLayout(const ParamLayout& all, const TrainConfig& config) {
  const bool beside = config.lora_rank > 0 || TrainsCandidates(config);
  const bool default_on = config.train_only.empty() && !beside;
  const std::vector<bool> only = Matches(all, config.train_only, "train_only");
  const std::vector<bool> frozen = Matches(all, config.freeze, "freeze");
  const ParamLayout adapters = LoraLayout(all, LoraOf(config));
  std::vector<ParamInfo> trained;
  for (size_t i = 0; i < all.params().size(); ++i) {
    const ParamInfo& info = all.params()[i];
    if ((!default_on && !only[i]) || frozen[i]) continue;
    if (adapters.TryFind(info.role, info.layer, Part::kAdapterA) != nullptr) {
      Fail(ErrorKind::kUsage, "{}: both adapted (\"lora_targets\") and trained itself (\"train_only\"): choose one",
           info.name);
    }
    trained.push_back(info);
  }
  if (trained.empty() && !beside) {
    Fail(ErrorKind::kUsage, "\"train_only\" and \"freeze\" leave no parameter to train");
  }
  return ParamLayout(std::move(trained));
}

ParamLayout GradientLayout(const ParamLayout& all, const ParamLayout& trained, const ParamLayout& adapters) {
  const std::vector<ParamInfo>& params = all.params();
  std::vector<ParamInfo> wanted;
  for (size_t begin = 0, end; begin < params.size(); begin = end) {
    end = begin + 1;
    while (end < params.size() && ContinuesGroup(params[end], params[end - 1])) ++end;
    const auto first = params.begin() + static_cast<std::ptrdiff_t>(begin);
    const auto last = params.begin() + static_cast<std::ptrdiff_t>(end);
    if (std::any_of(first, last, [&](const ParamInfo& info) {
          return trained.TryFind(info.role, info.layer) != nullptr ||
                 adapters.TryFind(info.role, info.layer, Part::kAdapterA) != nullptr;
        })) {
      wanted.insert(wanted.end(), first, last);
    }
  }
  return ParamLayout(std::move(wanted));
}

StateBytes CountStateBytes(const ModelSpec& spec, const TrainConfig& config) {
  const ParamLayout all(spec), trained = TrainedLayout(all, config), adapters = AdapterLayout(all, config);
  const bool candidates = TrainsCandidates(config), low = config.dtype == DType::kBF16;
  const bool copied = low || (!adapters.empty() && !candidates);
  const int64_t of_adapter = candidates ? (low ? 10 : 8) : 12;
  return {.weights = 4 * all.size(),
          .in_use = copied ? static_cast<int64_t>(SizeOf(config.dtype)) * all.size() : 0,
          .gradients = 4 * GradientLayout(all, trained, candidates ? ParamLayout() : adapters).size(),
          .moments = 8 * (trained.size() + adapters.size()),
          .adapters = of_adapter * adapters.size()};
}

}  // namespace hawser
