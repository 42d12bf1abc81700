#include "hawser/model/places.h"

#include <utility>

#include "hawser/base/error.h"

namespace hawser {
namespace {

bool Biased(const ModelSpec& spec) { return spec.places == Places::kAlibi; }

}  // namespace

std::string PlacesText(const ModelSpec& spec) {
  if (spec.places == Places::kNone) return "none";
  return Biased(spec) ? ToString(spec.alibi) : ToString(spec.rope);
}

void ApplyPlaces(std::string_view text, int64_t context, int64_t wanted, ModelSpec* spec) {
  if (spec->places != Places::kRope && SplitFoldText(text).fold) {
    Fail(ErrorKind::kUsage, "rope '{}': string folds the distances of rotations; this model has {}", text,
         Biased(*spec) ? "biases by distance (ALiBi)" : "no positions");
  }
  if (spec->places == Places::kNone) {
    Fail(ErrorKind::kUsage, "rope '{}': this model has no positions that could be scaled", text);
  }
  ModelSpec placed = *spec;
  if (Biased(*spec)) {
    placed.alibi = ApplyAlibiText(spec->alibi, text, context, wanted);
  } else {
    placed.rope = ApplyRopeText(spec->rope, text, context, wanted);
  }
  try {
    Validate(placed);
  } catch (const Error& error) {  // of a file it would be the file's
    if (error.kind() != ErrorKind::kFormat) throw;
    Fail(ErrorKind::kUsage, "rope '{}': {}", text, error.what());
  }
  *spec = std::move(placed);
}

std::string GrownPlaces(const ModelSpec& spec, int64_t context, int64_t wanted) {
  ModelSpec grown = spec;
  const auto reach = [&](double& factor, int64_t& original) {
    if (original == 0) original = context;
    factor = static_cast<double>(wanted) / static_cast<double>(original);
  };
  if (Biased(spec)) {
    if (grown.alibi.scaling == AlibiScaling::kNone) {
      grown.alibi.scaling = spec.heads > 1 ? AlibiScaling::kNtk : AlibiScaling::kLinear;
    }
    reach(grown.alibi.factor, grown.alibi.original);
  } else {
    if (grown.rope.scaling.kind == RopeKind::kDefault) {
      grown.rope.scaling.kind = spec.rope.rotary_dim < 4 ? RopeKind::kLinear : RopeKind::kNtk;
    }
    reach(grown.rope.scaling.factor, grown.rope.scaling.original);
  }
  return PlacesText(grown);
}

bool HasScaling(const ModelSpec& spec) {
  return Biased(spec) ? spec.alibi.scaling != AlibiScaling::kNone : spec.rope.scaling.kind != RopeKind::kDefault;
}

double ScalingFactor(const ModelSpec& spec) { return Biased(spec) ? spec.alibi.factor : spec.rope.scaling.factor; }

int64_t OriginalContext(const ModelSpec& spec, int64_t context) {
  return Biased(spec) ? OriginalContext(spec.alibi, context) : OriginalContext(spec.rope, context);
}

int64_t MaxContext(const ModelSpec& spec, int64_t context) {
  return Biased(spec) ? MaxContext(spec.alibi, context) : MaxContext(spec.rope, context);
}

}  // namespace hawser
