// zoo/pairing.h - rows of query and key heads, as files of the two kinds of rotary pairs store them.
#pragma once

#include <cstring>
#include <vector>

#include "hawser/model/params.h"

namespace hawser {

/// Rows of each head, in F32, from pairs (2i, 2i+1) to pairs (i, i + D/2), and back.
inline void RearrangePairs(Mat weight, int32_t head_dim, bool to_half) {
  const int64_t half = head_dim / 2;
  std::vector<float> head(static_cast<size_t>(head_dim * weight.cols));
  const size_t row_bytes = static_cast<size_t>(weight.cols) * sizeof(float);
  for (int64_t begin = 0; begin < weight.rows; begin += head_dim) {
    std::memcpy(head.data(), weight.Row<float>(begin), head.size() * sizeof(float));
    for (int64_t i = 0; i < half; ++i) {
      for (const int64_t side : {0, 1}) {
        const int64_t adjacent = 2 * i + side, halves = i + side * half;
        const int64_t from = to_half ? adjacent : halves, to = to_half ? halves : adjacent;
        std::memcpy(weight.Row<float>(begin + to), head.data() + from * weight.cols, row_bytes);
      }
    }
  }
}
/// The rows that a weight, or the bias of one, has in pairs.
inline Mat RowsOf(const ParamInfo& info, Mat tensor) {
  return info.part == Part::kBias ? Mat{tensor.data, tensor.dtype, tensor.cols, 1, 1} : tensor;
}
inline void AdjacentToHalf(Mat weight, int32_t head_dim) { RearrangePairs(weight, head_dim, true); }
inline void HalfToAdjacent(Mat weight, int32_t head_dim) { RearrangePairs(weight, head_dim, false); }

}  // namespace hawser
