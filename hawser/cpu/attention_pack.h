// cpu/attention_pack.h - operands of the attention products, and the scratch they live in.
// Packed columns of one (sequence, kv head): first the compact slots (anchors, then pinned keys, gathered), padded to a
// panel, then all keys, padded to a panel. Key k is column slots_pad + k, slot s is column s.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "hawser/base/buffer.h"
#include "hawser/base/parallel.h"
#include "hawser/base/q8.h"
#include "hawser/cpu/tile_kernels.h"
#include "hawser/ops/backend.h"

namespace hawser {

inline int64_t RoundUp(int64_t x, int64_t to) { return (x + to - 1) / to * to; }

/// A bump allocator over one buffer that only grows; one per thread and purpose, so that nothing is allocated per tile.
class Arena {
 public:
  /// Forgets everything taken; afterwards `bytes` can be taken.
  void Reset(size_t bytes) {
    if (buffer_.bytes() < bytes) buffer_ = Buffer(), buffer_ = Buffer(bytes);
    used_ = 0;
  }
  template <class T>
  T* Take(int64_t count) {
    T* p = reinterpret_cast<T*>(buffer_.as<char>() + used_);
    used_ += Bytes<T>(count);
    HAWSER_DCHECK(used_ <= buffer_.bytes());
    return p;
  }
  template <class T>
  static size_t Bytes(int64_t count) {
    return static_cast<size_t>(RoundUp(count * static_cast<int64_t>(sizeof(T)), 64));
  }

 private:
  Buffer buffer_;
  size_t used_ = 0;
};

/// How one head's channels lie in operands.
struct HeadShape {
  HeadShape(const TileKernels& kernels, int32_t head_dim);

  const TileKernels& t;
  int32_t dim;     // D
  int32_t k;       // D as a reduction
  int32_t n;       // D as columns
  int32_t ld;      // elements between staged rows
  int32_t width;   // columns of a row panel
  int32_t panels;  // row panels
  size_t element;  // bytes
  int32_t pairs;   // rows that share a line of a right operand: 2 for BF16

  /// Elements of `rows` rows in each form; rows is a multiple of kPanel.
  int64_t StagedSize(int64_t rows) const { return rows * ld; }
  int64_t TransposedSize(int64_t rows) const { return rows * k; }
  int64_t RowPanelSize(int64_t rows) const { return rows * width * panels; }

  void* At(void* base, int64_t elements) const { return static_cast<char*>(base) + elements * element; }
  const void* At(const void* base, int64_t elements) const {
    return static_cast<const char*>(base) + elements * element;
  }

  /// Staged row `row`: D elements of `from`, converted, zeros up to ld; null: zeros.
  void StageRow(const void* from, DType dtype, void* staged, int64_t row) const;
  /// 64 staged rows -> panel [k/pairs][kPanel][pairs], a right operand whose columns are the rows.
  void Transposed(const void* staged, void* panel) const;
  /// 64 staged rows -> rows [row, row + 64) of row panels over `rows` rows, a right operand whose columns are channels.
  void RowPanels(const void* staged, void* base, int64_t rows, int64_t row) const;

  /// C[m, n] (+)= A[m, D] Tᵀ: scores of staged rows `a` against columns [first, first + n) of transposed panels.
  void Scores(const void* a, const void* transposed, int64_t first, int32_t m, int32_t n_cols, float* c,
              int64_t ldc) const;
  /// C[m, D] (+)= A[m, k] R: rows [first, first + k) of row panels over `rows` rows.
  void Mix(const void* a, int64_t lda, const void* row_panels, int64_t rows, int64_t first, int32_t m, int32_t k_rows,
           float* c, int64_t ldc, bool accumulate) const;
};

/// Scores of a row outside of [lo, hi) become -infinity; lo and hi are clamped to [0, cols), cols <= kMaxScoreCols.
inline constexpr int32_t kMaxScoreCols = 256;
void MaskRow(float* s, int64_t lo, int64_t hi, int32_t cols);

/// One (sequence, kv head) of a call.
struct AttnUnit {
  const AttnSequence* sequence;
  int32_t kv_head;

  const AttnSchedule& schedule() const { return *sequence->schedule; }
  int64_t slots_pad() const { return RoundUp(static_cast<int64_t>(schedule().compact.size()), kPanel); }
  int64_t columns() const { return slots_pad() + RoundUp(schedule().num_keys, kPanel); }
  /// Key number of a packed column, -1 for padding.
  int32_t Key(int64_t column) const {
    const AttnSchedule& s = schedule();
    if (column < static_cast<int64_t>(s.compact.size())) return s.compact[column];
    const int64_t key = column - slots_pad();
    return key >= 0 && key < s.num_keys ? static_cast<int32_t>(key) : -1;
  }
};

/// What ScoreForm::Weight multiplies: `place` less `base`, so that distances are exact however far a stream has come,
/// or the difference of their biases where the shape has them in BF16.
inline float BiasedPlace(const AttnShape& shape, int64_t head, int64_t place, int64_t base) {
  if (shape.bf16_bias == 0.0f) return static_cast<float>(place - base);
  const auto rounded = [](float x) { return ToF32(ToBF16(x)); };
  const float slope = rounded(shape.slopes[head]);
  const auto bias = [&](int64_t at) { return rounded(slope * rounded(static_cast<float>(at))); };
  return bias(place) - bias(base);
}

/// Where the queries and keys of a call stand, for a bias of scores: from the first query of their sequence on.
struct Places {
  const AttnShape* shape;
  const int32_t* query;  // as in AttentionArgs
  const int32_t* key;

  float Query(const AttnUnit& unit, int64_t row) const { return Of(unit, At(unit, row)); }
  float Key(const AttnUnit& unit, int64_t number) const {
    return Of(unit, key == nullptr ? number : key[unit.sequence->key_begin + number]);
  }

 private:
  /// The head counts for biases in BF16 alone, where it is that of the keys.
  float Of(const AttnUnit& unit, int64_t place) const { return BiasedPlace(*shape, unit.kv_head, place, Base(unit)); }
  int64_t At(const AttnUnit& unit, int64_t row) const {
    return query == nullptr ? unit.schedule().QueryKey(static_cast<int32_t>(row))
                            : query[unit.sequence->query_begin + row];
  }
  int64_t Base(const AttnUnit& unit) const { return unit.schedule().num_queries > 0 ? At(unit, 0) : 0; }
};

inline constexpr float kLog2E = 1.44269504088896341f;

/// What the scores of a shape go through between product and softmax, besides the mask; all of it in base 2.
struct ScoreForm {
  /// scale2: what a product has to be multiplied by to be a score.
  ScoreForm(const AttnShape& shape, float scale2)
      : scale2(scale2), cap2(shape.softcap * kLog2E), bf16_bias(shape.bf16_bias), slopes(shape.slopes) {}

  float scale2, cap2, bf16_bias;
  const float* slopes;  // null: no bias

  bool biased() const { return slopes != nullptr; }
  bool plain() const { return cap2 == 0.0f && !biased(); }
  /// What softmax and its gradient still have to multiply by.
  float rest2() const { return plain() ? scale2 : 1.0f; }
  float Weight(int64_t head) const { return (bf16_bias != 0.0f ? bf16_bias : slopes[head]) * kLog2E; }

  /// On the scores, and gradients, of `cap`; of `bias` the last four are read, where there is a bias.
  void Apply(const TileKernels& t, SoftCapArgs cap, BiasArgs bias) const {
    float scale = scale2;
    if (cap2 > 0.0f) {
      cap.in = scale2 / cap2, cap.out = cap2;
      t.soft_cap(cap);
      scale = 1.0f;
    }
    if (!biased()) return;
    bias.s = cap.s, bias.lds = cap.lds, bias.rows = cap.rows, bias.cols = cap.cols, bias.scale2 = scale;
    t.bias(bias);
  }
};

/// Below this many multiply-adds in a call, waking threads costs more than they bring.
inline constexpr int64_t kParallelWork = 2'000'000;

inline int64_t Work(std::span<const AttnSequence> sequences, int32_t heads, int32_t head_dim) {
  int64_t pairs = 0;
  for (const AttnSequence& sequence : sequences) pairs += sequence.schedule->visible_pairs;
  return pairs * heads * head_dim;
}

/// body(i) for i in [0, n), on all threads if the call is worth it.
template <class Body>
void ForTasks(bool parallel, int64_t n, Body&& body) {
  if (parallel) return ParallelFor(n, body);
  for (int64_t i = 0; i < n; ++i) body(i);
}

std::vector<AttnUnit> ListUnits(std::span<const AttnSequence> sequences, int32_t kv_heads);

/// Bytes of the largest wave of units, taken in order while they fit in `limit`, one at least.
template <class BytesOf>
int64_t LargestWave(std::span<const AttnUnit> units, size_t limit, const BytesOf& bytes_of) {
  size_t wave = 0, most = 0;
  for (const AttnUnit& unit : units) {
    const size_t more = bytes_of(unit);
    wave = wave > 0 && wave + more > limit ? more : wave + more;
    most = std::max(most, wave);
  }
  return static_cast<int64_t>(most);
}

/// Bytes of one head of a row.
inline int64_t HeadBytes(DType dtype, int32_t head_dim) {
  return dtype == DType::kQ8_0 ? Q8Bytes(head_dim) : head_dim * static_cast<int64_t>(SizeOf(dtype));
}
/// Pointer to row `row`'s channels of head `head`.
inline const void* HeadRow(ConstMat m, int64_t row, int64_t head, int32_t head_dim) {
  return static_cast<const char*>(m.data) + row * m.ld * static_cast<int64_t>(SizeOf(m.dtype)) +
         head * HeadBytes(m.dtype, head_dim);
}
inline void* HeadRow(Mat m, int64_t row, int64_t head, int32_t head_dim) {
  return const_cast<void*>(HeadRow(ConstMat(m), row, head, head_dim));
}

/// Asks for the channels of `head` a few rows on: the rows of one head are too far apart for the machine to guess.
inline void PrefetchHead(ConstMat m, int64_t row, int64_t head, int32_t head_dim) {
  constexpr int64_t kAhead = 16, kLine = 64;
  if (row + kAhead >= m.rows) return;
  const char* p = static_cast<const char*>(HeadRow(m, row + kAhead, head, head_dim));
  const int64_t bytes = HeadBytes(m.dtype, head_dim);
  for (int64_t b = 0; b < bytes; b += kLine) __builtin_prefetch(p + b);
}

/// One head of stored keys or values.
struct StoredHead {
  KvRows rows;
  int64_t head;
  int32_t dim;
  KeyRotation rotation = {};

  /// The same rows for another head.
  StoredHead Of(int64_t other) const { return {rows, other, dim, rotation}; }
  DType dtype() const { return rows.m.dtype; }
  int64_t ld() const { return rows.m.ld; }
  const void* Row(int64_t row) const { return HeadRow(rows.Run(row, 1), 0, head, dim); }
  /// Asks for what Row gives a few rows on.
  void Prefetch(int64_t row) const {
    if (rows.pages == nullptr) return PrefetchHead(rows.m, row, head, dim);
    const int64_t in_page = row % KvRows::kPage, left = std::min(rows.rows() - row + in_page, KvRows::kPage);
    PrefetchHead(rows.Run(row - in_page, left), in_page, head, dim);
  }
  /// False: rows are used as they lie in memory. True: they are dequantised or rotated, or both, on their way.
  bool aside() const { return dtype() == DType::kQ8_0 || rotation.half > 0; }
  /// Rows [row, row + n), which lie together, as F32 [n, ld].
  void Read(const TileKernels& t, int64_t row, int32_t n, float* to, int64_t ld) const;
};

}  // namespace hawser
