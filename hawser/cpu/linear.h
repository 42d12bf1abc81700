// cpu/linear.h - linear layers, forward and backward; contracts in ops/backend.h. Arguments are validated by the
// caller.
#pragma once

#include "hawser/cpu/matmul.h"
#include "hawser/ops/backend.h"

namespace hawser {

void Linear(const LinearArgs& args, MatMulEngine& matmul);
/// dbias: cut by columns, each piece adds rows in blocks whose sums are added in order.
void LinearBackward(const LinearBackwardArgs& args, MatMulEngine& matmul);

}  // namespace hawser
