// cpu/act.h - activations, forward and backward; contracts in ops/backend.h. Arguments are validated by the caller.
// In f32 results are within 1e-6 of their size; far down the left tail of kGeluTanh (z < -3) its argument's rounding
// adds up to 2^-21 for each unit of the exponent.
#pragma once

#include "hawser/ops/backend.h"

namespace hawser {

void ActForward(const ActArgs& args);
void ActBackward(const ActBackwardArgs& args);

}  // namespace hawser
