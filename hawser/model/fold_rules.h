// model/fold_rules.h - what folded distances (pos/fold.h) do not go with. Each error is kUnsupported and names the
// rope, the other side, and what to do.
#pragma once

#include "hawser/attn/pattern.h"
#include "hawser/model/spec.h"

namespace hawser {

/// Nothing is trained under a fold. Fine without one.
void CheckTrainable(const ModelSpec& spec);

/// Whole texts under `pattern`: the layers that fold may have no window (of the pattern's or their own) that is wider
/// than the shift; a narrower one sees no far key but pinned ones. Nor may the softmax be another than the standard
/// one, or rotations count segments. `spec` has a fold.
void CheckFold(const ModelSpec& spec, const LayeredPattern& pattern);

}  // namespace hawser
