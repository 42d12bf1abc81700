// cpu/clusters.h - DotRows and ClusterScores of ops/backend.h, on the calling thread: callers have many at once.
#pragma once

#include <cstdint>
#include <span>

#include "hawser/ops/backend.h"

namespace hawser {

void DotRows(ConstMat x, ConstMat rows, std::span<const KvRange> runs, Mat to);
void ClusterScores(ConstMat logits, std::span<const int32_t> counts, std::span<float> scores);

}  // namespace hawser
