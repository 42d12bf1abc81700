// model/block.h - the one transformer block (model/spec.h, Residual and BlockSpec):
//   m = x + A(N1 x);   y = m + M(N2 m),   A(n) = Wo attention(rope(Wqkv n)),   M(n) = Wdown (act(Wgate n) * Wup n)
// Training, scoring and decoding share its two halves and differ only in where keys come from and what is kept.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hawser/kv/cache.h"
#include "hawser/model/key_bank.h"
#include "hawser/model/params.h"
#include "hawser/model/weights.h"
#include "hawser/model/workspace.h"
#include "hawser/ops/backend.h"

namespace hawser {

/// The mlp runs over this many rows at a time, with and without recompute (so both give the same bits): its 3F-wide
/// intermediates stay small against the C-wide ones whatever the length of the batch.
inline constexpr int64_t kMlpRows = 2048;

/// Rows [first, first + count).
struct RowRange {
  int64_t first = 0, count = 0;
};

/// What a batch needs in every layer: compiled schedules and the rotations of its rows.
struct BlockContext {
  Backend* backend = nullptr;
  Workspace* work = nullptr;
  const Weights* weights = nullptr;
  std::span<const AttnSequence> sequences;
  const RopeSpec* rope = nullptr;  // of this layer; null: it does not rotate
  const float* cos = nullptr;      // [N, rotary_dim/2]
  const float* sin = nullptr;
  const float* query_scale = nullptr;  // [N], where the rope has one
  const float* far_cos = nullptr;      // of the queries of far keys, likewise; null: no row has far keys
  const float* far_sin = nullptr;
  const float* slopes = nullptr;                        // [H] of ALiBi
  const int32_t* places = nullptr;                      // [N] that slopes count with; null: rows
  BankedKeys bank;                                      // of this layer
  std::vector<DecodeArgs::Row>* decode_rows = nullptr;  // scratch of BlockDecode
  /// Rows that are multiplied together, one range behind another, all of a BlockDecode; empty: all at once.
  std::span<const RowRange> products;

  AttnShape Shape() const;
};

/// What forward keeps of one layer for backward. x is always there; attn_out and lse, so that attention never runs
/// forward twice; the rest only without recompute (empty: backward computes it again from x and attn_out).
struct BlockSaved {
  Matrix x;         // [N, C]
  Matrix attn_out;  // [N, H*D]
  Matrix lse;       // [N, H] f32
  Matrix qkv;       // [N, (H+2G)*D], q and k rotated; QkvDType
  Matrix raw_qkv;   // the same before clip, norms and rotation; only where KeepsRawQkv
  Matrix middle;    // [N, C]; not in parallel forms
  Matrix mlp_in;    // [N, 2F] gate and up, or [N, F] up

  int64_t bytes() const;
};

/// Whether backward needs queries, keys and values as the product gave them.
bool KeepsRawQkv(const ModelSpec& spec);

/// Columns of the first product of the mlp: 2F, or F.
int64_t MlpInWidth(const ModelSpec& spec);

/// The block around attention. qkv [N, (H+2G)*D]: queries, keys and values of x, normed and clipped as the model has
/// it, not rotated. Then x becomes the block's result, given what its attention read, attn_out [N, H*D].
void BlockQkv(const BlockContext& context, int32_t layer, ConstMat x, Mat qkv);
void BlockFinish(const BlockContext& context, int32_t layer, ConstMat attn_out, Mat x);

/// y = block(saved.x). y may not overlap saved.x. Fills the members of `saved` that are allocated.
void BlockForward(const BlockContext& context, int32_t layer, BlockSaved* saved, Mat y);

/// In: dy = gradient of y; out: the same memory holds the gradient of saved.x. Parameter gradients are added to
/// `grads`; those of parameters that it does not hold are not computed.
void BlockBackward(const BlockContext& context, int32_t layer, const BlockSaved& saved, Mat dy, ParamStore* grads);

/// x = block(x) for what the caches have begun, in the order of the rows; nothing is kept but keys and values. Of the
/// bank, raw keys and values alone are wanted here.
void BlockDecode(const BlockContext& context, int32_t layer, std::span<KvCache* const> caches, Mat x);

}  // namespace hawser
