#include "hawser/model/fold_rules.h"

#include "hawser/base/error.h"

namespace hawser {
namespace {

void CheckNetwork(const ModelSpec& spec) {
  if (spec.softmax != SoftmaxSpec()) {
    Fail(ErrorKind::kUnsupported, "rope \"{}\": string needs the standard softmax; this model has {}",
         ToString(spec.rope), ToString(spec.softmax));
  }
  if (spec.segments.places > 0) {
    Fail(ErrorKind::kUnsupported,
         "rope \"{}\": string folds distances in tokens; the rotations of this model count segments",
         ToString(spec.rope));
  }
}

}  // namespace

void CheckTrainable(const ModelSpec& spec) {
  if (!spec.rope.fold.active()) return;
  Fail(ErrorKind::kUnsupported,
       "rope \"{}\": string is for models as they are and is not trained with; train under another --rope, and give "
       "string to generate, chat, serve and eval",
       ToString(spec.rope));
}

void CheckFold(const ModelSpec& spec, const LayeredPattern& pattern) {
  CheckNetwork(spec);
  const LayerPatterns patterns = PatternsOfLayers(pattern, spec.layers, OwnPattern(spec));
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    if (!Rotates(spec, layer) || !RopeOf(spec, layer).fold.active()) continue;
    const int32_t window = patterns.distinct[patterns.of_layer[static_cast<size_t>(layer)]].window;
    if (window == AttnPattern::kAll || window <= spec.rope.fold.shift) continue;
    Fail(ErrorKind::kUnsupported,
         "rope \"{}\": the window of layer {} of {} tokens is wider than the shift of string, which is not supported; "
         "give a shift of {} or more, or a narrower window",
         ToString(spec.rope), layer, window, window);
  }
}

}  // namespace hawser
