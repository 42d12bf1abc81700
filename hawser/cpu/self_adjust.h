// cpu/self_adjust.h - attention with the weights of Self-Adjust softmax (attn/softmax.h), forward, backward and decode.
// A weight needs the extreme scores of its row, so rows are not cut in tiles: scores of a row, all of them, then its
// weights, then its sum of values; backward goes over rows for dq and over keys for dk and dv, with what it needs of a
// row kept between. Slower than attention with the standard softmax by a few times, in memory linear in tokens.
// Contracts as in ops/backend.h; validated by the caller.
#pragma once

#include "hawser/ops/backend.h"

namespace hawser {

void SelfAdjustForward(const AttentionArgs& args);
void SelfAdjustBackward(const AttentionBackwardArgs& args);
void SelfAdjustDecode(const DecodeArgs& args);

}  // namespace hawser
