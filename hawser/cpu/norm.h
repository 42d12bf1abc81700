// cpu/norm.h - RMSNorm and LayerNorm, forward and backward; contracts in ops/backend.h. Arguments are validated by the
// caller.
#pragma once

#include "hawser/cpu/scratch.h"
#include "hawser/ops/backend.h"

namespace hawser {

void NormForward(const NormArgs& args);
/// dweight, dbias: partial sums over fixed blocks of rows (in `scratch`), then added in block order.
void NormBackward(const NormBackwardArgs& args, Scratch& scratch);

}  // namespace hawser
