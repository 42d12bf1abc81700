// model/block_rows.h - rows of queries, keys and values inside a block: where they lie side by side, their scratch, and
// their rotation.
#pragma once

#include <cstdint>

#include "hawser/model/block.h"

namespace hawser {

inline int64_t QkvCols(const ModelSpec& s) { return static_cast<int64_t>(s.heads + 2 * s.kv_heads) * s.head_dim; }
inline int64_t QueryCols(const ModelSpec& s) { return static_cast<int64_t>(s.heads) * s.head_dim; }
inline int64_t KeyCols(const ModelSpec& s) { return static_cast<int64_t>(s.kv_heads) * s.head_dim; }

template <class M>  // Mat or ConstMat
M QueryOf(const ModelSpec& s, M qkv) {
  return qkv.Cols(0, QueryCols(s));
}
template <class M>
M KeyOf(const ModelSpec& s, M qkv) {
  return qkv.Cols(QueryCols(s), KeyCols(s));
}
template <class M>
M ValueOf(const ModelSpec& s, M qkv) {
  return qkv.Cols(QueryCols(s) + KeyCols(s), KeyCols(s));
}

/// Scratch for queries, keys and values or their gradients.
inline Mat QkvScratch(const BlockContext& c, Workspace::Slot slot, int64_t rows) {
  const ModelSpec& s = c.weights->spec();
  return c.work->Get(slot, rows, QkvCols(s), QkvDType(s, c.weights->dtype()));
}

/// row_scale: of queries that grow with their places, else null.
inline void Rotate(const BlockContext& c, Mat x, int32_t heads, const float* cos, const float* sin,
                   const float* row_scale, bool inverse = false) {
  c.backend->Rope({.x = x,
                   .heads = heads,
                   .head_dim = c.weights->spec().head_dim,
                   .half = c.rope->rotary_dim / 2,
                   .pairing = c.rope->pairing,
                   .cos = cos,
                   .sin = sin,
                   .row_scale = row_scale,
                   .inverse = inverse,
                   .math = c.rope->numerics.math});
}

/// Queries of far keys, from those not yet rotated.
inline void RotateFar(const BlockContext& c, ConstMat queries, const float* cos, const float* sin,
                      const float* row_scale, Mat far) {
  c.backend->Copy(queries, far);
  Rotate(c, far, c.weights->spec().heads, cos, sin, row_scale);
}

/// Hands on keys and values of the rows, not yet rotated, where they are wanted.
inline void GiveRaw(const BlockContext& c, Mat qkv) {
  if (c.bank.raw_k.empty()) return;
  const ModelSpec& s = c.weights->spec();
  c.backend->Copy(KeyOf(s, qkv), c.bank.raw_k);
  c.backend->Copy(ValueOf(s, qkv), c.bank.raw_v);
}

}  // namespace hawser
