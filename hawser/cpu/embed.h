// cpu/embed.h - embedding rows, forward and backward; contracts in ops/backend.h. Validated by the caller.
#pragma once

#include "hawser/ops/backend.h"

namespace hawser {

void EmbedForward(ConstMat table, const int32_t* ids, Mat y, float scale);
/// Cut by columns, each piece walks every row in order: no two threads meet, and the order of sums is the row order.
void EmbedBackward(ConstMat dy, const int32_t* ids, Mat dtable, float scale);

}  // namespace hawser
