#include "hawser/model/block.h"

#include <algorithm>

#include "hawser/base/error.h"
#include "hawser/model/block_rows.h"

namespace hawser {
namespace {

/// y = x W^T + bias, for layers one below another.
void Linear(const BlockContext& c, ConstMat x, std::span<const WeightView> group, Mat y) {
  const RowRange all{0, x.rows};
  const std::span<const RowRange> ranges = c.products.empty() ? std::span(&all, 1) : c.products;
  int64_t begin = 0;
  for (const WeightView& layer : group) {
    const Mat to = y.Cols(begin, layer.w.rows);
    for (const auto& [first, count] : ranges) {
      c.backend->Linear({.x = x.Rows(first, count), .w = layer.w, .bias = layer.bias, .y = to.Rows(first, count)});
    }
    begin += layer.w.rows;
  }
}
void Linear(const BlockContext& c, ConstMat x, const WeightView& layer, Mat y) { Linear(c, x, {&layer, 1}, y); }

/// The weights of a group in training, where they lie together.
ConstMat Whole(std::span<const WeightView> group) {
  HAWSER_CHECK(group.size() == 1);
  return group[0].w;
}

/// The norm of x in a slot of the workspace, or x itself where the model has none there.
ConstMat Norm(const BlockContext& c, ConstMat x, Role role, int32_t layer, Workspace::Slot slot, float* rstd) {
  const ModelSpec& s = c.weights->spec();
  const Mat y = c.work->Get(slot, x.rows, x.cols, x.dtype);
  c.backend->NormForward({.x = x,
                          .weight = c.weights->Get(role, layer),
                          .bias = c.weights->Bias(role, layer),
                          .y = y,
                          .rstd = rstd,
                          .eps = s.norm_eps,
                          .kind = s.block.norm,
                          .plus_one = s.block.norm_plus_one});
  return y;
}

/// dx = residual + gradient of x; dx may be the memory of residual or of dy.
void NormBackward(const BlockContext& c, ConstMat x, Role role, int32_t layer, const float* rstd, ConstMat dy,
                  ConstMat residual, Mat dx, ParamStore* grads) {
  const BlockSpec& block = c.weights->spec().block;
  c.backend->NormBackward({.x = x,
                           .weight = c.weights->Get(role, layer),
                           .rstd = rstd,
                           .dy = dy,
                           .residual = residual,
                           .dx = dx,
                           .dweight = grads->Get(role, layer),
                           .dbias = grads->Bias(role, layer),
                           .kind = block.norm,
                           .plus_one = block.norm_plus_one});
}

/// The norm in front of a branch: what it reads of the stream.
ConstMat BranchInput(const BlockContext& c, ConstMat x, Role role, int32_t layer, float* rstd) {
  return c.weights->spec().block.pre_norms ? Norm(c, x, role, layer, Workspace::kNormed, rstd) : x;
}

/// dx = residual + the gradient of x, given that of BranchInput; dx may be residual.
void InputGradient(const BlockContext& c, int32_t layer, ConstMat x, Role role, const float* rstd, ConstMat dinput,
                   ConstMat residual, Mat dx, ParamStore* grads) {
  if (c.weights->spec().block.pre_norms) {
    NormBackward(c, x, role, layer, rstd, dinput, residual, dx, grads);
  } else if (residual.empty()) {
    c.backend->Copy(dinput, dx);
  } else {
    if (dx.data != residual.data) c.backend->Copy(residual, dx);
    c.backend->Add(dinput, dx);
  }
}

/// The norm that the mlp's branch reads through.
Role MlpNormOf(const ModelSpec& s) {
  return s.block.residual == Residual::kParallelOneNorm ? Role::kAttnNorm : Role::kMlpNorm;
}

bool Parallel(const ModelSpec& s) { return s.block.residual != Residual::kSequential; }

/// y = base + N(branch); y may be base.
void AddBranch(const BlockContext& c, ConstMat branch, Role post_norm, int32_t layer, ConstMat base, Mat y) {
  if (c.weights->spec().block.post_norms) branch = Norm(c, branch, post_norm, layer, Workspace::kPostNormed, nullptr);
  if (y.data != base.data) c.backend->Copy(base, y);
  c.backend->Add(branch, y);
}

/// The gradient of a branch's own result, given that of the stream: through the norm behind it where there is one.
/// `branch` [rows, C] is that result, made again by the caller where a norm needs it.
ConstMat BranchGradient(const BlockContext& c, ConstMat branch, Role post_norm, int32_t layer, ConstMat dy,
                        ParamStore* grads) {
  const Mat rstd = c.work->Get(Workspace::kPostRstd, 1, branch.rows, DType::kF32);
  Norm(c, branch, post_norm, layer, Workspace::kPostNormed, rstd.Row<float>(0));
  const Mat d = c.work->Get(Workspace::kPostNormed, branch.rows, branch.cols, branch.dtype);
  NormBackward(c, branch, post_norm, layer, rstd.Row<float>(0), dy, {}, d, grads);
  return d;
}

/// Rotates q and k, which lie side by side, as heads of one matrix, where the layer does, and scales q where it does.
/// inverse: undoes it on gradients.
void RotateQueriesAndKeys(const BlockContext& c, int32_t layer, Mat qkv, bool inverse) {
  if (c.rope == nullptr) return;
  const ModelSpec& s = c.weights->spec();
  if (!ScalesQueries(s, layer)) {
    Rotate(c, qkv.Cols(0, QueryCols(s) + KeyCols(s)), s.heads + s.kv_heads, c.cos, c.sin, nullptr, inverse);
    return;
  }
  Rotate(c, KeyOf(s, qkv), s.kv_heads, c.cos, c.sin, nullptr, inverse);
  Rotate(c, QueryOf(s, qkv), s.heads, c.cos, c.sin, c.query_scale, inverse);
}

/// A norm of queries or of keys: rows of `heads` heads.
struct HeadNorm {
  Role role;
  int32_t pieces;  // that are normed each by itself
};
HeadNorm QueryNorm(const ModelSpec& s) { return {Role::kQueryNorm, s.block.qk_norm == QkNorm::kHead ? s.heads : 1}; }
HeadNorm KeyNorm(const ModelSpec& s) { return {Role::kKeyNorm, s.block.qk_norm == QkNorm::kHead ? s.kv_heads : 1}; }

void NormHeads(const BlockContext& c, int32_t layer, const HeadNorm& norm, ConstMat x, Mat y, float* rstd) {
  const ModelSpec& s = c.weights->spec();
  c.backend->NormForward({.x = x,
                          .weight = c.weights->Get(norm.role, layer),
                          .y = y,
                          .rstd = rstd,
                          .eps = s.norm_eps,
                          .kind = s.block.norm,
                          .plus_one = s.block.norm_plus_one,
                          .heads = norm.pieces});
}

/// The product of queries, keys and values as it comes, before clip, norms and rotation.
void ProjectQkv(const BlockContext& c, int32_t layer, ConstMat x, Mat qkv) {
  const ConstMat input = BranchInput(c, x, Role::kAttnNorm, layer, nullptr);
  Linear(c, input, c.weights->Qkv(layer), qkv);
}

/// What the block makes of the product before rotations.
void ShapeQkv(const BlockContext& c, int32_t layer, Mat qkv) {
  const ModelSpec& s = c.weights->spec();
  if (s.block.qkv_clip > 0) c.backend->Clamp(qkv, s.block.qkv_clip);
  if (s.block.qk_norm == QkNorm::kNone) return;
  NormHeads(c, layer, QueryNorm(s), QueryOf(s, qkv), QueryOf(s, qkv), nullptr);
  NormHeads(c, layer, KeyNorm(s), KeyOf(s, qkv), KeyOf(s, qkv), nullptr);
}

/// Keys and values that the sequences of a batch see.
struct SeenKeys {
  ConstMat k, v;
};

/// visit(first row, rows, first key of theirs) of each sequence.
template <class Visit>
void ForEachOwnRun(const BlockContext& c, Visit&& visit) {
  for (const AttnSequence& sequence : c.sequences) {
    visit(sequence.query_begin, sequence.schedule->num_queries, sequence.key_begin + sequence.schedule->first_query());
  }
}

/// Those of the rows themselves, or of the bank, which gets these.
SeenKeys SeeKeys(const BlockContext& c, Mat qkv) {
  const ModelSpec& s = c.weights->spec();
  if (c.bank.k.empty()) return {KeyOf(s, qkv), ValueOf(s, qkv)};
  ForEachOwnRun(c, [&](int64_t row, int64_t rows, int64_t key) {
    c.backend->Copy(KeyOf(s, qkv).Rows(row, rows), c.bank.k.Rows(key, rows));
    c.backend->Copy(ValueOf(s, qkv).Rows(row, rows), c.bank.v.Rows(key, rows));
  });
  return {c.bank.k, c.bank.v};
}

/// raw: empty, or receives the product as it came, which backward needs where ShapeQkv does something. far: empty, or
/// receives the queries of far keys.
void QkvForward(const BlockContext& c, int32_t layer, ConstMat x, Mat qkv, Mat raw, Mat far = {}) {
  ProjectQkv(c, layer, x, qkv);
  if (!raw.empty()) c.backend->Copy(qkv, raw);
  ShapeQkv(c, layer, qkv);
  GiveRaw(c, qkv);
  if (!far.empty()) {
    const ModelSpec& s = c.weights->spec();
    RotateFar(c, QueryOf(s, qkv), c.far_cos, c.far_sin, ScalesQueries(s, layer) ? c.query_scale : nullptr, far);
  }
  RotateQueriesAndKeys(c, layer, qkv, /*inverse=*/false);
}

/// d: gradient of what ShapeQkv made of `raw`; becomes that of raw.
void ShapeQkvBackward(const BlockContext& c, int32_t layer, ConstMat raw, Mat d, ParamStore* grads) {
  const ModelSpec& s = c.weights->spec();
  if (s.block.qkv_clip > 0) c.backend->ClampBackward(raw, s.block.qkv_clip, d);
  if (s.block.qk_norm == QkNorm::kNone) return;
  const auto backward = [&](const HeadNorm& norm, ConstMat x, Mat dx) {
    const Mat rstd = c.work->Get(Workspace::kPostRstd, 1, x.rows * norm.pieces, DType::kF32);
    const Mat y = c.work->Get(Workspace::kQkNormed, x.rows, x.cols, x.dtype);
    NormHeads(c, layer, norm, x, y, rstd.Row<float>(0));
    c.backend->NormBackward({.x = x,
                             .weight = c.weights->Get(norm.role, layer),
                             .rstd = rstd.Row<float>(0),
                             .dy = dx,
                             .dx = dx,
                             .dweight = grads->Get(norm.role, layer),
                             .kind = s.block.norm,
                             .plus_one = s.block.norm_plus_one,
                             .heads = norm.pieces});
  };
  backward(QueryNorm(s), QueryOf(s, raw), QueryOf(s, d));
  backward(KeyNorm(s), KeyOf(s, raw), KeyOf(s, d));
}

/// Wo attn_out + bias.
Mat ProjectAttention(const BlockContext& c, int32_t layer, ConstMat attn_out) {
  const Mat y = c.work->Get(Workspace::kProjected, attn_out.rows, c.weights->spec().width, attn_out.dtype);
  Linear(c, attn_out, c.weights->Linear(Role::kAttnOut, layer), y);
  return y;
}

/// middle = x + A, attention's branch.
void AttnOutForward(const BlockContext& c, int32_t layer, ConstMat x, ConstMat attn_out, Mat middle) {
  AddBranch(c, ProjectAttention(c, layer, attn_out), Role::kAttnPostNorm, layer, x, middle);
}

int64_t MlpInCols(const ModelSpec& s) { return (s.block.gated ? 2 : 1) * int64_t{s.mlp_width}; }

/// Wdown hidden + bias.
Mat ProjectMlp(const BlockContext& c, int32_t layer, ConstMat hidden) {
  const Mat y = c.work->Get(Workspace::kProjected, hidden.rows, c.weights->spec().width, hidden.dtype);
  Linear(c, hidden, c.weights->Linear(Role::kDown, layer), y);
  return y;
}

/// The first product of the mlp, of rows of one chunk: gate and up, or up alone. Returns the normed input.
ConstMat MlpInForward(const BlockContext& c, int32_t layer, ConstMat x, float* rstd, Mat mlp_in) {
  const ConstMat input = BranchInput(c, x, MlpNormOf(c.weights->spec()), layer, rstd);
  Linear(c, input, c.weights->MlpIn(layer), mlp_in);
  return input;
}

/// y = base + M, the mlp's branch, which reads x; y may be base. kept: empty, or [N, 2F or F] to keep what backward
/// needs.
void MlpForward(const BlockContext& c, int32_t layer, ConstMat x, ConstMat base, Mat kept, Mat y) {
  const ModelSpec& s = c.weights->spec();
  for (int64_t begin = 0; begin < x.rows; begin += kMlpRows) {
    const int64_t rows = std::min(kMlpRows, x.rows - begin);
    const ConstMat in = x.Rows(begin, rows);
    const Mat mlp_in =
        kept.empty() ? c.work->Get(Workspace::kGateUp, rows, MlpInCols(s), in.dtype) : kept.Rows(begin, rows);
    MlpInForward(c, layer, in, nullptr, mlp_in);
    const Mat hidden = c.work->Get(Workspace::kHidden, rows, s.mlp_width, in.dtype);
    c.backend->ActForward({.in = mlp_in, .y = hidden, .act = s.block.act, .gated = s.block.gated});
    AddBranch(c, ProjectMlp(c, layer, hidden), Role::kMlpPostNorm, layer, base.Rows(begin, rows), y.Rows(begin, rows));
  }
}

/// dx = gradient of the mlp's branch at x, given dy of its result; with `residual`, which may be dx or dy, added first.
void MlpBackward(const BlockContext& c, int32_t layer, ConstMat all_x, ConstMat kept, ConstMat all_dy,
                 ConstMat all_residual, Mat all_dx, ParamStore* grads) {
  const ModelSpec& s = c.weights->spec();
  for (int64_t begin = 0; begin < all_x.rows; begin += kMlpRows) {
    const int64_t rows = std::min(kMlpRows, all_x.rows - begin);
    const ConstMat x = all_x.Rows(begin, rows), dy = all_dy.Rows(begin, rows);
    const ConstMat residual = all_residual.empty() ? ConstMat() : all_residual.Rows(begin, rows);
    const Mat dx = all_dx.Rows(begin, rows);
    const Mat rstd = c.work->Get(Workspace::kRstd, 1, rows, DType::kF32);
    ConstMat mlp_in, input;
    if (kept.empty()) {
      const Mat again = c.work->Get(Workspace::kGateUp, rows, MlpInCols(s), x.dtype);
      input = MlpInForward(c, layer, x, rstd.Row<float>(0), again);
      mlp_in = again;
    } else {
      mlp_in = kept.Rows(begin, rows);
      input = BranchInput(c, x, MlpNormOf(s), layer, rstd.Row<float>(0));
    }
    const Mat hidden = c.work->Get(Workspace::kHidden, rows, s.mlp_width, x.dtype);
    ConstMat dbranch = dy;
    if (s.block.post_norms) {
      c.backend->ActForward({.in = mlp_in, .y = hidden, .act = s.block.act, .gated = s.block.gated});
      dbranch = BranchGradient(c, ProjectMlp(c, layer, hidden), Role::kMlpPostNorm, layer, dy, grads);
    }
    // M = Wdown hidden + bias; hidden is computed (once more) on the way for the gradient of Wdown
    const Mat dhidden = c.work->Get(Workspace::kGradHidden, rows, s.mlp_width, x.dtype);
    c.backend->LinearBackward({.w = c.weights->Get(Role::kDown, layer), .dy = dbranch, .dx = dhidden});
    const Mat dmlp_in = c.work->Get(Workspace::kGradGateUp, rows, MlpInCols(s), x.dtype);
    c.backend->ActBackward(
        {.in = mlp_in, .dy = dhidden, .din = dmlp_in, .y = hidden, .act = s.block.act, .gated = s.block.gated});
    c.backend->LinearBackward({.x = hidden,
                               .w = c.weights->Get(Role::kDown, layer),
                               .dy = dbranch,
                               .dw = grads->Get(Role::kDown, layer),
                               .dbias = grads->Bias(Role::kDown, layer)});
    // mlp_in = Win input + bias
    const Mat dinput = c.work->Get(Workspace::kGradNormed, rows, s.width, x.dtype);
    c.backend->LinearBackward({.x = input,
                               .w = Whole(c.weights->MlpIn(layer)),
                               .dy = dmlp_in,
                               .dx = dinput,
                               .dw = grads->MlpIn(layer),
                               .dbias = grads->MlpInBias(layer)});
    InputGradient(c, layer, x, MlpNormOf(s), rstd.Row<float>(0), dinput, residual, dx, grads);
  }
}

}  // namespace

int64_t BlockSaved::bytes() const {
  return static_cast<int64_t>(x.bytes() + attn_out.bytes() + lse.bytes() + qkv.bytes() + raw_qkv.bytes() +
                              middle.bytes() + mlp_in.bytes());
}

AttnShape BlockContext::Shape() const {
  const ModelSpec& s = weights->spec();
  return {.heads = s.heads,
          .kv_heads = s.kv_heads,
          .head_dim = s.head_dim,
          .scale = AttentionScale(s),
          .softmax = s.softmax,
          .slopes = slopes,
          .softcap = s.attn_cap,
          .bf16_bias = s.places == Places::kAlibi && s.alibi.bf16 ? static_cast<float>(s.alibi.multiplier) : 0.0f};
}

bool KeepsRawQkv(const ModelSpec& spec) { return spec.block.qkv_clip > 0 || spec.block.qk_norm != QkNorm::kNone; }

int64_t MlpInWidth(const ModelSpec& spec) { return MlpInCols(spec); }

void BlockQkv(const BlockContext& c, int32_t layer, ConstMat x, Mat qkv) {
  ProjectQkv(c, layer, x, qkv);
  ShapeQkv(c, layer, qkv);
}

void BlockFinish(const BlockContext& c, int32_t layer, ConstMat attn_out, Mat x) {
  if (!Parallel(c.weights->spec())) {
    AttnOutForward(c, layer, x, attn_out, x);
    MlpForward(c, layer, x, x, {}, x);
    return;
  }
  const Mat middle = c.work->Get(Workspace::kMiddle, x.rows, x.cols, x.dtype);
  AttnOutForward(c, layer, x, attn_out, middle);
  MlpForward(c, layer, x, middle, {}, middle);
  c.backend->Copy(middle, x);
}

void BlockForward(const BlockContext& c, int32_t layer, BlockSaved* saved, Mat y) {
  const ModelSpec& s = c.weights->spec();
  const ConstMat x = saved->x.view();
  const Mat qkv = saved->qkv.rows() > 0 ? saved->qkv.view() : QkvScratch(c, Workspace::kQkv, x.rows);
  const Mat far = c.far_cos != nullptr ? c.work->Get(Workspace::kFarQueries, x.rows, QueryCols(s), qkv.dtype) : Mat();
  QkvForward(c, layer, x, qkv, saved->raw_qkv.view(), far);
  const SeenKeys seen = SeeKeys(c, qkv);
  c.backend->AttentionForward({.shape = c.Shape(),
                               .q = QueryOf(s, qkv),
                               .k = seen.k,
                               .v = seen.v,
                               .out = saved->attn_out.view(),
                               .lse = saved->lse.Row<float>(0),
                               .sequences = c.sequences,
                               .query_place = c.places,
                               .key_place = c.places,
                               .q_far = far});
  const Mat middle = saved->middle.rows() > 0 ? saved->middle.view() : y;
  AttnOutForward(c, layer, x, saved->attn_out.view(), middle);
  MlpForward(c, layer, Parallel(s) ? x : ConstMat(middle), middle, saved->mlp_in.view(), y);
}

void BlockBackward(const BlockContext& c, int32_t layer, const BlockSaved& saved, Mat d, ParamStore* grads) {
  const ModelSpec& s = c.weights->spec();
  const ConstMat x = saved.x.view();
  Mat dparallel;  // of the mlp's branch, kept apart while attention's reads dy too
  if (Parallel(s)) {
    dparallel = c.work->Get(Workspace::kGradMiddle, x.rows, x.cols, x.dtype);
    MlpBackward(c, layer, x, saved.mlp_in.view(), d, {}, dparallel, grads);
  } else {
    ConstMat middle = saved.middle.view();
    if (middle.empty()) {
      const Mat again = c.work->Get(Workspace::kMiddle, x.rows, x.cols, x.dtype);
      AttnOutForward(c, layer, x, saved.attn_out.view(), again);
      middle = again;
    }
    MlpBackward(c, layer, middle, saved.mlp_in.view(), d, d, d, grads);
  }

  // A = Wo attn_out + bias
  ConstMat dbranch = d;
  if (s.block.post_norms) {
    dbranch =
        BranchGradient(c, ProjectAttention(c, layer, saved.attn_out.view()), Role::kAttnPostNorm, layer, d, grads);
  }
  const Mat dattn = c.work->Get(Workspace::kGradAttn, x.rows, QueryCols(s), x.dtype);
  c.backend->LinearBackward({.x = saved.attn_out.view(),
                             .w = c.weights->Get(Role::kAttnOut, layer),
                             .dy = dbranch,
                             .dx = dattn,
                             .dw = grads->Get(Role::kAttnOut, layer),
                             .dbias = grads->Bias(Role::kAttnOut, layer)});
  ConstMat qkv = saved.qkv.view(), raw = saved.raw_qkv.view();
  if (qkv.empty()) {
    const Mat again = QkvScratch(c, Workspace::kQkv, x.rows);
    const Mat raw_again = KeepsRawQkv(s) ? QkvScratch(c, Workspace::kRawQkv, x.rows) : Mat();
    QkvForward(c, layer, x, again, raw_again);
    qkv = again;
    raw = raw_again;
  }
  Mat dqkv = QkvScratch(c, Workspace::kGradQkv, x.rows);
  const bool banked = !c.bank.k.empty();
  const Mat dk = banked ? c.bank.dk : KeyOf(s, dqkv), dv = banked ? c.bank.dv : ValueOf(s, dqkv);
  c.backend->AttentionBackward({.shape = c.Shape(),
                                .q = QueryOf(s, qkv),
                                .k = banked ? ConstMat(c.bank.k) : KeyOf(s, qkv),
                                .v = banked ? ConstMat(c.bank.v) : ValueOf(s, qkv),
                                .out = saved.attn_out.view(),
                                .dout = dattn,
                                .lse = saved.lse.Row<float>(0),
                                .dq = QueryOf(s, dqkv),
                                .dk = dk,
                                .dv = dv,
                                .sequences = c.sequences,
                                .query_place = c.places,
                                .key_place = c.places});
  if (banked) {
    ForEachOwnRun(c, [&](int64_t row, int64_t rows, int64_t key) {
      c.backend->Copy(dk.Rows(key, rows), KeyOf(s, dqkv).Rows(row, rows));
      c.backend->Copy(dv.Rows(key, rows), ValueOf(s, dqkv).Rows(row, rows));
    });
  }
  RotateQueriesAndKeys(c, layer, dqkv, /*inverse=*/true);
  if (!c.bank.raw_dk.empty()) {
    c.backend->Add(c.bank.raw_dk, KeyOf(s, dqkv));
    c.backend->Add(c.bank.raw_dv, ValueOf(s, dqkv));
  }
  ShapeQkvBackward(c, layer, raw, dqkv, grads);
  if (dqkv.dtype != x.dtype) {  // the product takes factors of one dtype; qkv is not needed any more
    const Mat rounded = c.work->Get(Workspace::kQkv, x.rows, QkvCols(s), x.dtype);
    c.backend->Copy(dqkv, rounded);
    dqkv = rounded;
  }
  // qkv = Wqkv input + bias
  const Mat rstd = c.work->Get(Workspace::kRstd, 1, x.rows, DType::kF32);
  const ConstMat input = BranchInput(c, x, Role::kAttnNorm, layer, rstd.Row<float>(0));
  const Mat dinput = c.work->Get(Workspace::kGradNormed, x.rows, x.cols, x.dtype);
  c.backend->LinearBackward({.x = input,
                             .w = Whole(c.weights->Qkv(layer)),
                             .dy = dqkv,
                             .dx = dinput,
                             .dw = grads->Qkv(layer),
                             .dbias = grads->QkvBias(layer)});
  InputGradient(c, layer, x, Role::kAttnNorm, rstd.Row<float>(0), dinput, d, d, grads);
  if (!dparallel.empty()) c.backend->Add(dparallel, d);
}

}  // namespace hawser
