#include "hawser/cpu/attention_pack.h"

#include <cstring>
#include <limits>

#include "hawser/cpu/rope.h"

namespace hawser {

HeadShape::HeadShape(const TileKernels& kernels, int32_t head_dim)
    : t(kernels),
      dim(head_dim),
      k(static_cast<int32_t>(RoundUp(head_dim, kernels.k_align))),
      n(static_cast<int32_t>(RoundUp(head_dim, kColStep))),
      ld(static_cast<int32_t>(RoundUp(head_dim, std::max(kernels.k_align, kColStep)))),
      width(std::min(n, kPanel)),
      panels((n + kPanel - 1) / kPanel),
      element(SizeOf(kernels.dtype)),
      pairs(kernels.dtype == DType::kBF16 ? 2 : 1) {}

void HeadShape::StageRow(const void* from, DType dtype, void* staged, int64_t row) const {
  void* to = At(staged, row * ld);
  if (from == nullptr) {
    std::memset(to, 0, ld * element);
    return;
  }
  if (dtype == t.dtype) {
    std::memcpy(to, from, dim * element);
  } else {
    t.convert(from, dtype, to, t.dtype, dim, 1.0f);
  }
  if (ld > dim) std::memset(At(to, dim), 0, (ld - dim) * element);
}

void HeadShape::Transposed(const void* staged, void* panel) const {
  t.transpose(staged, ld / pairs, kPanel, k / pairs, panel, kPanel);
}

void HeadShape::RowPanels(const void* staged, void* base, int64_t rows, int64_t row) const {
  for (int32_t p = 0; p < panels; ++p) {
    const int32_t columns = std::min(kPanel, n - p * kPanel);
    for (int32_t r = 0; r < kPanel; r += pairs) {
      const void* from = At(staged, static_cast<int64_t>(r) * ld + p * kPanel);
      void* to = At(base, (p * rows + row + r) * width);
      if (pairs == 1) {
        std::memcpy(to, from, columns * element);
      } else {
        const bf16* even = static_cast<const bf16*>(from);
        t.join_pairs(even, even + ld, static_cast<bf16*>(to), columns);
      }
    }
  }
}

void HeadShape::Scores(const void* a, const void* transposed, int64_t first, int32_t m, int32_t n_cols, float* c,
                       int64_t ldc) const {
  t.product({.a = a,
             .lda = ld,
             .b = At(transposed, first / kPanel * kPanel * k),
             .ldb = static_cast<int64_t>(pairs) * kPanel,
             .panel = static_cast<int64_t>(kPanel) * k,
             .b_first = static_cast<int32_t>(first % kPanel),
             .c = c,
             .ldc = ldc,
             .m = static_cast<int32_t>(RoundUp(m, t.m_align)),
             .n = n_cols,
             .k = k,
             .accumulate = false});
}

void HeadShape::Mix(const void* a, int64_t lda, const void* row_panels, int64_t rows, int64_t first, int32_t m,
                    int32_t k_rows, float* c, int64_t ldc, bool accumulate) const {
  t.product({.a = a,
             .lda = lda,
             .b = At(row_panels, first * width),
             .ldb = static_cast<int64_t>(pairs) * width,
             .panel = rows * width,
             .b_first = 0,
             .c = c,
             .ldc = ldc,
             .m = static_cast<int32_t>(RoundUp(m, t.m_align)),
             .n = n,
             .k = k_rows,
             .accumulate = accumulate});
}

void MaskRow(float* s, int64_t lo, int64_t hi, int32_t cols) {
  static const std::vector<float> masked(kMaxScoreCols, -std::numeric_limits<float>::infinity());
  lo = std::clamp<int64_t>(lo, 0, cols);
  hi = std::clamp<int64_t>(hi, lo, cols);
  std::memcpy(s, masked.data(), lo * sizeof(float));  // the widest stores there are, on any machine
  std::memcpy(s + hi, masked.data(), (cols - hi) * sizeof(float));
}

void StoredHead::Read(const TileKernels& t, int64_t row, int32_t n, float* to, int64_t ld) const {
  if (dtype() == DType::kQ8_0) {
    t.dequantize({.from = Row(row), .stride = rows.m.ld, .rows = n, .dim = dim, .to = to, .ld = ld});
  } else {
    for (int32_t r = 0; r < n; ++r) t.convert(Row(row + r), dtype(), to + r * ld, DType::kF32, dim, 1.0f);
  }
  if (rotation.half == 0) return;
  RopeHere({.x = {to, DType::kF32, n, dim, ld},
            .heads = 1,
            .head_dim = dim,
            .half = rotation.half,
            .pairing = rotation.pairing,
            .cos = rotation.cos + row * rotation.half,
            .sin = rotation.sin + row * rotation.half});
}

std::vector<AttnUnit> ListUnits(std::span<const AttnSequence> sequences, int32_t kv_heads) {
  std::vector<AttnUnit> units;
  for (const AttnSequence& sequence : sequences) {
    if (sequence.schedule->num_keys == 0) continue;
    for (int32_t g = 0; g < kv_heads; ++g) units.push_back({&sequence, g});
  }
  return units;
}

}  // namespace hawser
