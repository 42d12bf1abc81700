// cpu/rope.h - rotary position embedding in place; contract in ops/backend.h. Validated by the caller.
#pragma once

#include "hawser/ops/backend.h"

namespace hawser {

/// Where cos = 1 and sin = 0 (position 0) values stay as they are.
void Rope(const RopeArgs& args);
/// The same on this thread alone, for a few rows inside of another op.
void RopeHere(const RopeArgs& args);

}  // namespace hawser
