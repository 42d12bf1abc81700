#include "hawser/model/focus.h"

#include <algorithm>
#include <initializer_list>
#include <string>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/model/places.h"

namespace hawser {

FocusShape DefaultFocusShape(int64_t context) {
  return {.chunk = std::max<int64_t>(1, context / 2),
          .prompt = std::max<int64_t>(1, context / 8),
          .local = std::max<int64_t>(1, context / 2)};
}

void CheckFocus(const ModelSpec& spec) {
  const auto refuse = [](const std::string& why) { Fail(ErrorKind::kUnsupported, "focus: {}", why); };
  if (spec.places == Places::kAlibi) {
    refuse(fmt::format(
        "this model biases scores by distance ({}), which candidates that move to slots do not have; it is for rotary "
        "models",
        PlacesText(spec)));
  }
  if (spec.segments.places > 0)
    refuse("this model counts segments (bilevel positions), in which candidates have no place");
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    if (!Rotates(spec, layer)) continue;
    const RopeSpec& rope = RopeOf(spec, layer);
    if (rope.fold.active()) {
      refuse(fmt::format("rope \"{}\" folds distances, and candidates stand in slots; give another --rope",
                         ToString(rope)));
    }
    if (DependsOnLength(rope)) {
      refuse(fmt::format(
          "frequencies of rope \"{}\" depend on the length of a text, and chunks, window and slots have lengths of "
          "their own; use linear, ntk, yarn, llama3 or theta=B",
          ToString(rope)));
    }
  }
  if (spec.sliding_window > 0 && spec.sliding_window < spec.context) {
    refuse(fmt::format(
        "layers of this model see {} tokens of its context of {}, and every layer has to see all candidates",
        spec.sliding_window, spec.context));
  }
}

namespace {

/// "256 of a chunk, 1 of BOS, 32 of the prompt and 8 new ones": what is not there is left out.
std::string Parts(std::initializer_list<std::pair<int64_t, const char*>> parts) {
  std::vector<std::string> texts;
  for (const auto& [tokens, what] : parts) {
    if (tokens > 0) texts.push_back(fmt::format("{} {}", tokens, what));
  }
  const std::string last = texts.back();
  texts.pop_back();
  return fmt::format("{} and {}", fmt::join(texts, ", "), last);
}

}  // namespace

void CheckFocusFits(const ModelSpec& spec, const FocusShape& shape, int64_t chunks, int64_t bos, int64_t more) {
  const auto check = [&](int64_t tokens, const std::string& parts, const char* advice) {
    if (tokens <= spec.context) return;
    Fail(ErrorKind::kUsage, "focus: {} do not fit the context of {} tokens; give {}", parts, spec.context, advice);
  };
  check(
      shape.chunk + bos + shape.prompt + more,
      Parts({{shape.chunk, "tokens of a chunk"}, {bos, "of BOS"}, {shape.prompt, "of the prompt"}, {more, "new ones"}}),
      more > 0 ? "a smaller chunk or prompt, or ask for less" : "a smaller chunk or prompt");
  check(chunks + bos + shape.local + more,
        Parts({{chunks, "candidates"}, {bos, "BOS"}, {shape.local, "tokens of the window"}, {more, "new ones"}}),
        more > 0 ? "larger chunks or a smaller window (local), or ask for less"
                 : "larger chunks or a smaller window (local)");
}

ParamLayout CandidateLayout(const ParamLayout& all) {
  std::vector<ParamInfo> own;
  for (const ParamInfo& info : all.params()) {
    switch (info.role) {
      case Role::kQuery:
      case Role::kKey:
      case Role::kValue:
      case Role::kAttnOut: {
        own.push_back(info);
        std::string& name = own.back().name;
        name.insert(name.rfind('.'), ".candidate");
        break;
      }
      default:
        break;
    }
  }
  return ParamLayout(std::move(own));
}

void InitializeCandidates(const ParamStore& weights, ParamStore* candidates) {
  for (const ParamInfo& info : candidates->layout().params()) {
    const ConstMat from = weights.At(weights.layout().Find(info.role, info.layer, info.part));
    std::copy_n(from.Row<float>(0), info.size(), candidates->At(info).Row<float>(0));
  }
}

namespace {

Weights Replaced(const Weights& base, const ParamStore& candidates, std::vector<std::shared_ptr<const void>> owners) {
  std::vector<ConstMat> tensors = base.tensors();
  const std::vector<ParamInfo>& all = base.layout().params();
  for (size_t i = 0; i < all.size(); ++i) {
    const ParamInfo* own = candidates.layout().TryFind(all[i].role, all[i].layer, all[i].part);
    if (own != nullptr) tensors[i] = candidates.At(*own);
  }
  owners.push_back(std::make_shared<Weights>(base));  // keeps what holds the other tensors
  return Weights(base.spec(), base.dtype(), std::move(tensors), std::move(owners));
}

}  // namespace

Weights WithCandidates(const Weights& base, const ParamStore* candidates) { return Replaced(base, *candidates, {}); }

Weights WithCandidates(const Weights& base, std::shared_ptr<const ParamStore> candidates) {
  const ParamStore& store = *candidates;
  return Replaced(base, store, {std::move(candidates)});
}

std::vector<int32_t> FocusPrompt(int32_t bos, std::span<const int32_t> window, int64_t prompt) {
  const auto last = window.last(std::min(window.size(), static_cast<size_t>(prompt)));
  std::vector<int32_t> ids(last.begin(), last.end());
  if (bos >= 0) ids.insert(ids.begin(), bos);
  return ids;
}

}  // namespace hawser
