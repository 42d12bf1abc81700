// cpu/act.h - SwiGLU, forward and backward; contracts in ops/backend.h. Arguments are validated by the caller.
#pragma once

#include "hawser/ops/backend.h"

namespace hawser {

void GluForward(const GluArgs& args);
void GluBackward(const GluBackwardArgs& args);

}  // namespace hawser
