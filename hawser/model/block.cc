#include "hawser/model/block.h"

#include <algorithm>
#include <cmath>

namespace hawser {
namespace {

int64_t QkvCols(const ModelSpec& s) { return static_cast<int64_t>(s.heads + 2 * s.kv_heads) * s.head_dim; }
int64_t QueryCols(const ModelSpec& s) { return static_cast<int64_t>(s.heads) * s.head_dim; }
int64_t KeyCols(const ModelSpec& s) { return static_cast<int64_t>(s.kv_heads) * s.head_dim; }

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

AttnShape ShapeOf(const ModelSpec& s) {
  return {.heads = s.heads,
          .kv_heads = s.kv_heads,
          .head_dim = s.head_dim,
          .scale = 1.0f / std::sqrt(static_cast<float>(s.head_dim)),
          .softmax = s.softmax};
}

/// y = x W^T.
void Linear(Backend* backend, ConstMat x, ConstMat w, Mat y) {
  backend->MatMul({.a = x, .b = w, .trans_b = true, .c = y});
}

/// dx = dy W; dW += dy^T x, where dW is wanted.
void LinearBackward(Backend* backend, ConstMat x, ConstMat w, ConstMat dy, Mat dx, Mat dw) {
  if (!dw.empty()) backend->MatMul({.a = dy, .trans_a = true, .b = x, .c = dw, .accumulate = true});
  backend->MatMul({.a = dy, .b = w, .c = dx});
}

Mat Norm(const BlockContext& c, ConstMat x, Role weight, int32_t layer, float* rstd) {
  Mat y = c.work->Get(Workspace::kNormed, x.rows, x.cols, x.dtype);
  c.backend->NormForward(
      {.x = x, .weight = c.weights->Get(weight, layer), .y = y, .rstd = rstd, .eps = c.weights->spec().norm_eps});
  return y;
}

/// Rotates q and k, which lie side by side, as heads of one matrix. inverse: undoes it on gradients.
void RotateQueriesAndKeys(const BlockContext& c, Mat qkv, bool inverse) {
  const ModelSpec& s = c.weights->spec();
  c.backend->Rope({.x = qkv.Cols(0, QueryCols(s) + KeyCols(s)),
                   .heads = s.heads + s.kv_heads,
                   .head_dim = s.head_dim,
                   .half = s.rope.rotary_dim / 2,
                   .pairing = s.rope.pairing,
                   .cos = c.cos,
                   .sin = c.sin,
                   .inverse = inverse,
                   .math = s.rope.numerics.math});
}

/// Scratch for queries, keys and values or their gradients.
Mat QkvScratch(const BlockContext& c, Workspace::Slot slot, int64_t rows) {
  const ModelSpec& s = c.weights->spec();
  return c.work->Get(slot, rows, QkvCols(s), QkvDType(s, c.weights->dtype()));
}

void QkvForward(const BlockContext& c, int32_t layer, ConstMat x, Mat qkv) {
  const Mat normed = Norm(c, x, Role::kAttnNorm, layer, nullptr);
  Linear(c.backend, normed, c.weights->Qkv(layer), qkv);
  RotateQueriesAndKeys(c, qkv, /*inverse=*/false);
}

/// middle = x + Wo attn_out.
void AttnOutForward(const BlockContext& c, int32_t layer, ConstMat x, ConstMat attn_out, Mat middle) {
  const Mat projected = c.work->Get(Workspace::kProjected, x.rows, x.cols, x.dtype);
  Linear(c.backend, attn_out, c.weights->Get(Role::kAttnOut, layer), projected);
  if (middle.data != x.data) c.backend->Copy(x, middle);
  c.backend->Add(projected, middle);
}

/// gate_up = Wgate_up norm(middle), for rows of one chunk.
void GateUpForward(const BlockContext& c, int32_t layer, ConstMat middle, float* rstd, Mat gate_up) {
  const Mat normed = Norm(c, middle, Role::kMlpNorm, layer, rstd);
  Linear(c.backend, normed, c.weights->GateUp(layer), gate_up);
}

/// y = middle + Wdown swiglu(gate_up); y may be middle. gate_up_kept: empty, or [N, 2F] to keep what backward needs.
void MlpForward(const BlockContext& c, int32_t layer, ConstMat middle, Mat gate_up_kept, Mat y) {
  const ModelSpec& s = c.weights->spec();
  for (int64_t begin = 0; begin < middle.rows; begin += kMlpRows) {
    const int64_t rows = std::min(kMlpRows, middle.rows - begin);
    const ConstMat in = middle.Rows(begin, rows);
    const Mat gate_up = gate_up_kept.empty() ? c.work->Get(Workspace::kGateUp, rows, 2 * s.mlp_width, in.dtype)
                                             : gate_up_kept.Rows(begin, rows);
    GateUpForward(c, layer, in, nullptr, gate_up);
    const Mat hidden = c.work->Get(Workspace::kHidden, rows, s.mlp_width, in.dtype);
    c.backend->ActForward({.in = gate_up, .y = hidden});
    const Mat projected = c.work->Get(Workspace::kProjected, rows, s.width, in.dtype);
    Linear(c.backend, hidden, c.weights->Get(Role::kDown, layer), projected);
    const Mat out = y.Rows(begin, rows);
    if (out.data != in.data) c.backend->Copy(in, out);
    c.backend->Add(projected, out);
  }
}

/// In: d = gradient of y; out: gradient of middle.
void MlpBackward(const BlockContext& c, int32_t layer, ConstMat middle, ConstMat gate_up_kept, Mat d,
                 ParamStore* grads) {
  const ModelSpec& s = c.weights->spec();
  for (int64_t begin = 0; begin < middle.rows; begin += kMlpRows) {
    const int64_t rows = std::min(kMlpRows, middle.rows - begin);
    const ConstMat in = middle.Rows(begin, rows);
    const Mat dy = d.Rows(begin, rows);
    const Mat rstd = c.work->Get(Workspace::kRstd, 1, rows, DType::kF32);
    ConstMat gate_up;
    ConstMat normed;
    if (gate_up_kept.empty()) {
      const Mat again = c.work->Get(Workspace::kGateUp, rows, 2 * s.mlp_width, in.dtype);
      GateUpForward(c, layer, in, rstd.Row<float>(0), again);
      gate_up = again;
      normed = c.work->Get(Workspace::kNormed, rows, s.width, in.dtype);
    } else {
      gate_up = gate_up_kept.Rows(begin, rows);
      normed = Norm(c, in, Role::kMlpNorm, layer, rstd.Row<float>(0));
    }
    // y += Wdown hidden
    const Mat dhidden = c.work->Get(Workspace::kGradHidden, rows, s.mlp_width, in.dtype);
    c.backend->MatMul({.a = dy, .b = c.weights->Get(Role::kDown, layer), .c = dhidden});
    // hidden = silu(gate) * up, computed once more on the way for the gradient of Wdown
    const Mat hidden = c.work->Get(Workspace::kHidden, rows, s.mlp_width, in.dtype);
    const Mat dgate_up = c.work->Get(Workspace::kGradGateUp, rows, 2 * s.mlp_width, in.dtype);
    c.backend->ActBackward({.in = gate_up, .dy = dhidden, .din = dgate_up, .y = hidden});
    if (const Mat dw = grads->Get(Role::kDown, layer); !dw.empty()) {
      c.backend->MatMul({.a = dy, .trans_a = true, .b = hidden, .c = dw, .accumulate = true});
    }
    // gate_up = Wgate_up norm(middle)
    const Mat dnormed = c.work->Get(Workspace::kGradNormed, rows, s.width, in.dtype);
    LinearBackward(c.backend, normed, c.weights->GateUp(layer), dgate_up, dnormed, grads->GateUp(layer));
    c.backend->NormBackward({.x = in,
                             .weight = c.weights->Get(Role::kMlpNorm, layer),
                             .rstd = rstd.Row<float>(0),
                             .dy = dnormed,
                             .residual = dy,
                             .dx = dy,
                             .dweight = grads->Get(Role::kMlpNorm, layer)});
  }
}

}  // namespace

int64_t BlockSaved::bytes() const {
  return static_cast<int64_t>(x.bytes() + attn_out.bytes() + lse.bytes() + qkv.bytes() + middle.bytes() +
                              gate_up.bytes());
}

void BlockForward(const BlockContext& c, int32_t layer, BlockSaved* saved, Mat y) {
  const ModelSpec& s = c.weights->spec();
  const ConstMat x = saved->x.view();
  const Mat qkv = saved->qkv.rows() > 0 ? saved->qkv.view() : QkvScratch(c, Workspace::kQkv, x.rows);
  QkvForward(c, layer, x, qkv);
  c.backend->AttentionForward({.shape = ShapeOf(s),
                               .q = QueryOf(s, qkv),
                               .k = KeyOf(s, qkv),
                               .v = ValueOf(s, qkv),
                               .out = saved->attn_out.view(),
                               .lse = saved->lse.Row<float>(0),
                               .sequences = c.sequences});
  const Mat middle = saved->middle.rows() > 0 ? saved->middle.view() : y;
  AttnOutForward(c, layer, x, saved->attn_out.view(), middle);
  MlpForward(c, layer, middle, saved->gate_up.view(), y);
}

void BlockBackward(const BlockContext& c, int32_t layer, const BlockSaved& saved, Mat d, ParamStore* grads) {
  const ModelSpec& s = c.weights->spec();
  const ConstMat x = saved.x.view();
  ConstMat middle = saved.middle.view();
  if (middle.empty()) {
    const Mat again = c.work->Get(Workspace::kMiddle, x.rows, x.cols, x.dtype);
    AttnOutForward(c, layer, x, saved.attn_out.view(), again);
    middle = again;
  }
  MlpBackward(c, layer, middle, saved.gate_up.view(), d, grads);

  // middle = x + Wo attn_out
  const Mat dattn = c.work->Get(Workspace::kGradAttn, x.rows, QueryCols(s), x.dtype);
  LinearBackward(c.backend, saved.attn_out.view(), c.weights->Get(Role::kAttnOut, layer), d, dattn,
                 grads->Get(Role::kAttnOut, layer));
  ConstMat qkv = saved.qkv.view();
  if (qkv.empty()) {
    const Mat again = QkvScratch(c, Workspace::kQkv, x.rows);
    QkvForward(c, layer, x, again);
    qkv = again;
  }
  Mat dqkv = QkvScratch(c, Workspace::kGradQkv, x.rows);
  c.backend->AttentionBackward({.shape = ShapeOf(s),
                                .q = QueryOf(s, qkv),
                                .k = KeyOf(s, qkv),
                                .v = ValueOf(s, qkv),
                                .out = saved.attn_out.view(),
                                .dout = dattn,
                                .lse = saved.lse.Row<float>(0),
                                .dq = QueryOf(s, dqkv),
                                .dk = KeyOf(s, dqkv),
                                .dv = ValueOf(s, dqkv),
                                .sequences = c.sequences});
  RotateQueriesAndKeys(c, dqkv, /*inverse=*/true);
  if (dqkv.dtype != x.dtype) {  // the product takes factors of one dtype; qkv is not needed any more
    const Mat rounded = c.work->Get(Workspace::kQkv, x.rows, QkvCols(s), x.dtype);
    c.backend->Copy(dqkv, rounded);
    dqkv = rounded;
  }
  // qkv = Wqkv norm(x)
  const Mat rstd = c.work->Get(Workspace::kRstd, 1, x.rows, DType::kF32);
  const Mat normed = Norm(c, x, Role::kAttnNorm, layer, rstd.Row<float>(0));
  const Mat dnormed = c.work->Get(Workspace::kGradNormed, x.rows, x.cols, x.dtype);
  LinearBackward(c.backend, normed, c.weights->Qkv(layer), dqkv, dnormed, grads->Qkv(layer));
  c.backend->NormBackward({.x = x,
                           .weight = c.weights->Get(Role::kAttnNorm, layer),
                           .rstd = rstd.Row<float>(0),
                           .dy = dnormed,
                           .residual = d,
                           .dx = d,
                           .dweight = grads->Get(Role::kAttnNorm, layer)});
}

void BlockDecode(const BlockContext& c, int32_t layer, std::span<KvCache* const> caches, Mat x) {
  const ModelSpec& s = c.weights->spec();
  const Mat normed = Norm(c, x, Role::kAttnNorm, layer, nullptr);
  const Mat qkv = QkvScratch(c, Workspace::kQkv, x.rows);
  Linear(c.backend, normed, c.weights->Qkv(layer), qkv);
  const Mat q = QueryOf(s, qkv);
  const Mat attn_out = c.work->Get(Workspace::kAttnOut, x.rows, QueryCols(s), x.dtype);
  const auto rows = x.rows / static_cast<int64_t>(caches.size());  // of each stream
  const auto decode = [&](int64_t first, std::span<const DecodeArgs::Row> seen) {
    c.backend->AttentionDecode({.shape = ShapeOf(s),
                                .q = q.Rows(first, static_cast<int64_t>(seen.size())),
                                .out = attn_out.Rows(first, static_cast<int64_t>(seen.size())),
                                .rows = seen});
  };
  std::vector<DecodeArgs::Row>& seen = *c.decode_rows;  // of streams not yet attended to, which end before row `next`
  seen.clear();
  int64_t next = 0;
  for (KvCache* cache : caches) {
    const Mat queries = q.Rows(next, rows);
    c.backend->Rope({.x = queries,
                     .heads = s.heads,
                     .head_dim = s.head_dim,
                     .half = s.rope.rotary_dim / 2,
                     .pairing = s.rope.pairing,
                     .cos = cache->cos(layer),
                     .sin = cache->sin(layer),
                     .math = s.rope.numerics.math});
    cache->Append(layer, KeyOf(s, qkv).Rows(next, rows), ValueOf(s, qkv).Rows(next, rows));
    if (cache->needs_schedule(layer)) {
      if (!seen.empty()) decode(next - static_cast<int64_t>(seen.size()), seen);
      seen.clear();
      const AttnSequence sequence{.schedule = &cache->schedule(layer)};
      const Mat lse = c.work->Get(Workspace::kLse, rows, s.heads, DType::kF32);
      c.backend->AttentionForward({.shape = ShapeOf(s),
                                   .q = queries,
                                   .k = cache->Keys(layer),
                                   .v = cache->Values(layer),
                                   .out = attn_out.Rows(next, rows),
                                   .lse = lse.Row<float>(0),
                                   .sequences = {&sequence, 1},
                                   .rotation = cache->rotation(layer)});
    } else {
      seen.push_back({cache->Keys(layer), cache->Values(layer), cache->rotation(layer)});
    }
    next += rows;
  }
  if (!seen.empty()) decode(next - static_cast<int64_t>(seen.size()), seen);
  AttnOutForward(c, layer, x, attn_out, x);
  MlpForward(c, layer, x, {}, x);
}

}  // namespace hawser
