// The checks at the door of the attention ops: everything a kernel relies on, in words.
#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/q8.h"
#include "hawser/ops/op_args.h"

namespace hawser {
namespace {

constexpr std::string_view kOp = "attention";

void CheckHeads(const AttnShape& shape) {
  const auto& [heads, kv_heads, head_dim, scale, softmax, slopes, softcap, bf16_bias] = shape;
  if (kv_heads < 1 || heads < 1 || heads % kv_heads != 0) {
    Fail(ErrorKind::kUsage, "attention: heads must be a positive multiple of kv_heads, found {} and {}", heads,
         kv_heads);
  }
  if (head_dim < 1 || head_dim > 256)
    Fail(ErrorKind::kUsage, "attention: head_dim must be in [1, 256], found {}", head_dim);
  if (!(scale > 0.0f && scale < 1e30f)) Fail(ErrorKind::kUsage, "attention: scale must be positive, found {}", scale);
  for (int32_t h = 0; slopes != nullptr && h < heads; ++h) {
    if (!std::isfinite(slopes[h])) Fail(ErrorKind::kUsage, "attention: slope {} is {}; wanted a number", h, slopes[h]);
  }
  if (!(softcap >= 0.0f && softcap < 1e30f)) {
    Fail(ErrorKind::kUsage, "attention: softcap must be positive, or 0 for none, found {}", softcap);
  }
  if (!std::isfinite(bf16_bias)) Fail(ErrorKind::kUsage, "attention: bf16_bias is {}; wanted a number", bf16_bias);
  if (bf16_bias != 0.0f && heads != kv_heads) {
    Fail(ErrorKind::kUnsupported, "attention: biases in bf16 need a key head for each head, found {} and {}", kv_heads,
         heads);
  }
  if (softmax.kind != SoftmaxKind::kStandard && (slopes != nullptr || softcap > 0.0f)) {
    Fail(ErrorKind::kUnsupported, "attention: softmax {} takes neither biased nor capped scores", ToString(softmax));
  }
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

/// Keys or values to read: [rows, G*D] F32 or BF16, or Q8_0 in heads of D.
void CheckStored(std::string_view name, ConstMat m, int32_t kv_heads, int32_t head_dim) {
  const bool blocks = m.dtype == DType::kQ8_0;
  const int64_t cols = kv_heads * (blocks ? Q8Bytes(head_dim) : int64_t{head_dim});
  if (!blocks) return CheckShape(kOp, name, m, m.rows, cols);
  CheckMemory(kOp, name, m);
  if (m.cols != cols) {
    Fail(ErrorKind::kUsage, "attention: {} must be q8_0 [{}, {}], found [{}, {}]", name, m.rows, cols, m.rows, m.cols);
  }
}

void CheckRotation(const KeyRotation& rotation, ConstMat k, int32_t head_dim) {
  if (rotation.half < 0 || 2 * rotation.half > head_dim) {
    Fail(ErrorKind::kUsage, "attention: keys of {} channels cannot be rotated in {} pairs", head_dim, rotation.half);
  }
  if (rotation.half > 0 && k.rows > 0 && (rotation.cos == nullptr || rotation.sin == nullptr)) {
    Fail(ErrorKind::kUsage, "attention: the rotation of the keys has no cos or no sin");
  }
}

void CheckKeysAndValues(const KvRows& k, const KvRows& v, const KeyRotation& rotation, const AttnShape& shape) {
  CheckStored("k", k.m, shape.kv_heads, shape.head_dim);
  CheckStored("v", v.m, shape.kv_heads, shape.head_dim);
  CheckRotation(rotation, k.m, shape.head_dim);
  CheckSameRows("v", v.m, "k", k.m);
  if ((k.pages == nullptr) != (v.pages == nullptr)) {
    Fail(ErrorKind::kUsage, "attention: keys and values lie in pages both, or neither");
  }
}

/// Queries of far keys, where there are any.
void CheckFar(const AttnShape& shape, ConstMat q, ConstMat q_far) {
  if (q_far.empty()) return;
  CheckShape(kOp, "q_far", q_far, q.rows, q.cols);
  if (q_far.dtype != q.dtype) {
    Fail(ErrorKind::kUsage, "attention: q_far must be {} as q, found {}", Name(q.dtype), Name(q_far.dtype));
  }
  if (shape.slopes != nullptr || shape.softmax.kind != SoftmaxKind::kStandard) {
    Fail(ErrorKind::kUnsupported, "attention: queries of far keys take {}",
         shape.slopes != nullptr ? "no biases by distance" : "the standard softmax alone");
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

void CheckParts(const KvParts& parts, const DecodeArgs::Row& row, const AttnShape& shape) {
  if (row.far > 0 || shape.slopes != nullptr || shape.softmax.kind != SoftmaxKind::kStandard) {
    Fail(ErrorKind::kUnsupported, "attention: keys that are read in part take {}",
         row.far > 0               ? "no queries of far keys"
         : shape.slopes != nullptr ? "no biases by distance"
                                   : "the standard softmax alone");
  }
  CheckStored("k of parts", parts.k, 1, shape.head_dim);
  CheckStored("v of parts", parts.v, 1, shape.head_dim);
  CheckSameRows("v of parts", parts.v, "k of parts", parts.k);
  if (static_cast<int64_t>(parts.first.size()) != shape.kv_heads + 1 || parts.first.front() != 0 ||
      !std::ranges::is_sorted(parts.first) || parts.first.back() != static_cast<int64_t>(parts.ranges.size())) {
    Fail(ErrorKind::kUsage, "attention: {} ranges are not divided among {} kv heads", parts.ranges.size(),
         shape.kv_heads);
  }
  for (const KvRange& range : parts.ranges) {
    if (range.begin >= 0 && range.begin < range.end && range.end <= parts.k.rows) continue;
    Fail(ErrorKind::kUsage, "attention: a range of rows [{}, {}) of {}", range.begin, range.end, parts.k.rows);
  }
}

}  // namespace

void Validate(const AttentionArgs& args) {
  CheckHeads(args.shape);
  const int64_t wide = static_cast<int64_t>(args.shape.heads) * args.shape.head_dim;
  CheckShape(kOp, "q", args.q, args.q.rows, wide);
  CheckKeysAndValues(args.k, args.v, args.rotation, args.shape);
  CheckShape(kOp, "out", args.out, args.out.rows, wide);
  CheckFar(args.shape, args.q, args.q_far);
  CheckSameRows("out", args.out, "q", args.q);
  CheckSequences(args.sequences, args.q, args.k.m, false);
  for (const AttnSequence& sequence : args.sequences) {
    if (args.k.pages == nullptr || sequence.key_begin == 0) continue;
    Fail(ErrorKind::kUsage, "attention: keys in pages begin at row 0, found a sequence that begins at row {}",
         sequence.key_begin);
  }
}

void Validate(const AttentionBackwardArgs& args) {
  CheckHeads(args.shape);
  const int64_t wide = static_cast<int64_t>(args.shape.heads) * args.shape.head_dim;
  const int64_t narrow = static_cast<int64_t>(args.shape.kv_heads) * args.shape.head_dim;
  CheckShape(kOp, "q", args.q, args.q.rows, wide);
  CheckShape(kOp, "k", args.k, args.k.rows, narrow);
  CheckShape(kOp, "v", args.v, args.v.rows, narrow);
  CheckShape(kOp, "out", args.out, args.out.rows, wide);
  CheckShape(kOp, "dout", args.dout, args.dout.rows, wide);
  CheckShape(kOp, "dq", args.dq, args.dq.rows, wide);
  CheckShape(kOp, "dk", args.dk, args.dk.rows, narrow);
  CheckShape(kOp, "dv", args.dv, args.dv.rows, narrow);
  CheckDType(args.q, args.k, args.v);
  CheckSameRows("v", args.v, "k", args.k);
  for (const auto& [name, m] :
       {std::pair<std::string_view, ConstMat>{"out", args.out}, {"dout", args.dout}, {"dq", args.dq}}) {
    CheckSameRows(name, m, "q", args.q);
  }
  CheckSameRows("dk", args.dk, "k", args.k);
  CheckSameRows("dv", args.dv, "k", args.k);
  if (args.lse == nullptr && args.q.rows > 0) {
    Fail(ErrorKind::kUsage, "attention: backward needs the lse that forward saved");
  }
  CheckSequences(args.sequences, args.q, args.k, true);
}

void Validate(const DecodeArgs& args) {
  CheckHeads(args.shape);
  const int64_t wide = static_cast<int64_t>(args.shape.heads) * args.shape.head_dim;
  CheckShape(kOp, "q", args.q, args.q.rows, wide);
  CheckShape(kOp, "out", args.out, args.out.rows, wide);
  CheckSameRows("out", args.out, "q", args.q);
  CheckFar(args.shape, args.q, args.q_far);
  if (static_cast<int64_t>(args.rows.size()) != args.q.rows) {
    Fail(ErrorKind::kUsage, "attention: decode has {} queries and {} key sets", args.q.rows, args.rows.size());
  }
  for (const DecodeArgs::Row& row : args.rows) {
    CheckKeysAndValues(row.k, row.v, row.rotation, args.shape);
    if (row.k.rows() < 1) Fail(ErrorKind::kUsage, "attention: decode needs at least one resident slot");
    if (row.far < 0 || row.far > (args.q_far.empty() ? 0 : row.k.rows())) {
      Fail(ErrorKind::kUsage, "attention: {} far slots of {}{}", row.far, row.k.rows(),
           args.q_far.empty() ? ", and no query for them" : "");
    }
    if (row.parts != nullptr) CheckParts(*row.parts, row, args.shape);
  }
}

}  // namespace hawser
