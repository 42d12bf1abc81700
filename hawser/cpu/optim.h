// cpu/optim.h - AdamW and the sum of squares that clipping needs; contracts in ops/backend.h.
#pragma once

#include "hawser/ops/backend.h"

namespace hawser {

/// One pass over w, grad, m, v (and low): 28 bytes an element read and written, 30 with low.
void AdamW(const AdamWArgs& args);
double SumSquares(const float* x, int64_t n);

}  // namespace hawser
