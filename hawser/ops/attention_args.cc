// The checks at the door of the attention ops: everything a kernel relies on, in words.
#include <algorithm>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/ops/backend.h"

namespace hawser {
namespace {

void CheckHeads(int32_t heads, int32_t kv_heads, int32_t head_dim, float scale) {
  if (kv_heads < 1 || heads < 1 || heads % kv_heads != 0) {
    Fail(ErrorKind::kUsage, "attention: heads must be a positive multiple of kv_heads, found {} and {}", heads,
         kv_heads);
  }
  if (head_dim < 8 || head_dim > 256)
    Fail(ErrorKind::kUsage, "attention: head_dim must be in [8, 256], found {}", head_dim);
  if (!(scale > 0.0f && scale < 1e30f)) Fail(ErrorKind::kUsage, "attention: scale must be positive, found {}", scale);
}

bool IsFloat(DType dtype) { return dtype == DType::kF32 || dtype == DType::kBF16; }

void CheckMat(std::string_view name, ConstMat m, int64_t cols) {
  if (!IsFloat(m.dtype)) Fail(ErrorKind::kUsage, "attention: {} must be f32 or bf16, found {}", name, Name(m.dtype));
  if (m.cols != cols) Fail(ErrorKind::kUsage, "attention: {} must have {} columns, found {}", name, cols, m.cols);
  if (m.rows > 1 && m.ld < m.cols) {
    Fail(ErrorKind::kUsage, "attention: {} has {} elements between rows of {} columns", name, m.ld, m.cols);
  }
  if (m.rows < 0 || (m.rows > 0 && m.data == nullptr)) Fail(ErrorKind::kUsage, "attention: {} has no data", name);
}

void CheckSameRows(std::string_view name, ConstMat m, std::string_view of, ConstMat like) {
  if (m.rows != like.rows) {
    Fail(ErrorKind::kUsage, "attention: {} must have the {} rows of {}, found {}", name, like.rows, of, m.rows);
  }
}

void CheckDType(ConstMat q, ConstMat k, ConstMat v) {
  if (q.dtype != k.dtype || q.dtype != v.dtype) {
    Fail(ErrorKind::kUsage, "attention: q, k and v must share a dtype, found {}, {} and {}", Name(q.dtype),
         Name(k.dtype), Name(v.dtype));
  }
}

/// [begin, end) ranges must not overlap: two sequences would write the same rows.
void CheckDisjoint(std::vector<std::pair<int64_t, int64_t>> ranges, std::string_view what) {
  std::sort(ranges.begin(), ranges.end());
  for (size_t i = 1; i < ranges.size(); ++i) {
    if (ranges[i].first < ranges[i - 1].second) {
      Fail(ErrorKind::kUsage, "attention: two sequences share {} row {}", what, ranges[i].first);
    }
  }
}

void CheckSequences(std::span<const AttnSequence> sequences, ConstMat q, ConstMat k, bool writes_keys) {
  std::vector<std::pair<int64_t, int64_t>> query_rows, key_rows;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const AttnSequence& sequence = sequences[i];
    if (sequence.schedule == nullptr) Fail(ErrorKind::kUsage, "attention: sequence {} has no schedule", i);
    const AttnSchedule& s = *sequence.schedule;
    if (sequence.query_begin < 0 || sequence.query_begin > q.rows - s.num_queries) {
      Fail(ErrorKind::kUsage, "attention: sequence {} needs query rows [{}, {}), q has {}", i, sequence.query_begin,
           sequence.query_begin + s.num_queries, q.rows);
    }
    if (sequence.key_begin < 0 || sequence.key_begin > k.rows - s.num_keys) {
      Fail(ErrorKind::kUsage, "attention: sequence {} needs key rows [{}, {}), k has {}", i, sequence.key_begin,
           sequence.key_begin + s.num_keys, k.rows);
    }
    if (s.num_queries > 0) query_rows.emplace_back(sequence.query_begin, sequence.query_begin + s.num_queries);
    if (s.num_keys > 0) key_rows.emplace_back(sequence.key_begin, sequence.key_begin + s.num_keys);
  }
  CheckDisjoint(std::move(query_rows), "query");
  if (writes_keys) CheckDisjoint(std::move(key_rows), "key");
}

}  // namespace

void AttentionArgs::Validate() const {
  CheckHeads(heads, kv_heads, head_dim, scale);
  const int64_t wide = static_cast<int64_t>(heads) * head_dim, narrow = static_cast<int64_t>(kv_heads) * head_dim;
  CheckMat("q", q, wide);
  CheckMat("k", k, narrow);
  CheckMat("v", v, narrow);
  CheckMat("out", out, wide);
  CheckDType(q, k, v);
  CheckSameRows("v", v, "k", k);
  CheckSameRows("out", out, "q", q);
  CheckSequences(sequences, q, k, false);
}

void AttentionBackwardArgs::Validate() const {
  CheckHeads(heads, kv_heads, head_dim, scale);
  const int64_t wide = static_cast<int64_t>(heads) * head_dim, narrow = static_cast<int64_t>(kv_heads) * head_dim;
  CheckMat("q", q, wide);
  CheckMat("k", k, narrow);
  CheckMat("v", v, narrow);
  CheckMat("out", out, wide);
  CheckMat("dout", dout, wide);
  CheckMat("dq", dq, wide);
  CheckMat("dk", dk, narrow);
  CheckMat("dv", dv, narrow);
  CheckDType(q, k, v);
  CheckSameRows("v", v, "k", k);
  for (const auto& [name, m] : {std::pair<std::string_view, ConstMat>{"out", out}, {"dout", dout}, {"dq", dq}}) {
    CheckSameRows(name, m, "q", q);
  }
  CheckSameRows("dk", dk, "k", k);
  CheckSameRows("dv", dv, "k", k);
  if (lse == nullptr && q.rows > 0) Fail(ErrorKind::kUsage, "attention: backward needs the lse that forward saved");
  CheckSequences(sequences, q, k, true);
}

void DecodeArgs::Validate() const {
  CheckHeads(heads, kv_heads, head_dim, scale);
  const int64_t wide = static_cast<int64_t>(heads) * head_dim, narrow = static_cast<int64_t>(kv_heads) * head_dim;
  CheckMat("q", q, wide);
  CheckMat("out", out, wide);
  CheckSameRows("out", out, "q", q);
  if (static_cast<int64_t>(rows.size()) != q.rows) {
    Fail(ErrorKind::kUsage, "attention: decode has {} queries and {} key sets", q.rows, rows.size());
  }
  for (const Row& row : rows) {
    CheckMat("k", row.k, narrow);
    CheckMat("v", row.v, narrow);
    CheckDType(q, row.k, row.v);
    CheckSameRows("v", row.v, "k", row.k);
    if (row.k.rows < 1) Fail(ErrorKind::kUsage, "attention: decode needs at least one resident slot");
  }
}

}  // namespace hawser
