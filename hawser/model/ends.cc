#include "hawser/model/ends.h"

#include <algorithm>
#include <limits>

#include "hawser/base/error.h"

namespace hawser {

void Ends::CheckIds(std::span<const int32_t> ids) const {
  const int32_t vocab = spec().vocab;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab) {
      Fail(ErrorKind::kUsage, "token {} has id {}, the vocabulary has ids 0 to {}; is it the model's own tokenizer?", i,
           ids[i], vocab - 1);
    }
  }
}

/// x = embeddings of `ids`, and of their places where the model has them; without the norm that some put behind.
void Ends::EmbedRows(const int32_t* ids, const int32_t* places, Mat x) {
  backend_->EmbedForward(weights_.Get(Role::kEmbedding), ids, x, spec().embedding_scale);
  if (spec().segments.places == 0) return;
  const Mat added = work_->Get(Workspace::kProjected, x.rows, x.cols, x.dtype);
  backend_->EmbedForward(weights_.Get(Role::kPlaces), places, added);
  backend_->Add(added, x);
}

void Ends::Embed(const int32_t* ids, const int32_t* places, Mat x) {
  EmbedRows(ids, places, x);
  if (spec().embedding_norm) Norm(x, Role::kEmbeddingNorm, x, nullptr);
}

void Ends::EmbedBackward(const int32_t* ids, const int32_t* places, Mat d, ParamStore* grads) {
  if (spec().embedding_norm) {
    const Mat x = work_->Get(Workspace::kGradNormed, d.rows, d.cols, d.dtype);
    EmbedRows(ids, places, x);
    const Mat rstd = work_->Get(Workspace::kRstd, 1, d.rows, DType::kF32);
    Norm(x, Role::kEmbeddingNorm, work_->Get(Workspace::kNormed, d.rows, d.cols, d.dtype), rstd.Row<float>(0));
    NormBackward(x, Role::kEmbeddingNorm, rstd.Row<float>(0), d, d, grads);
  }
  if (const Mat table = grads->Get(Role::kEmbedding); !table.empty()) {
    backend_->EmbedBackward(d, ids, table, spec().embedding_scale);
  }
  if (spec().segments.places == 0) return;
  if (const Mat table = grads->Get(Role::kPlaces); !table.empty()) backend_->EmbedBackward(d, places, table);
}

void Ends::Norm(ConstMat x, Role role, Mat y, float* rstd) {
  backend_->NormForward({.x = x,
                         .weight = weights_.Get(role),
                         .bias = weights_.Bias(role),
                         .y = y,
                         .rstd = rstd,
                         .eps = spec().norm_eps,
                         .kind = spec().block.norm,
                         .plus_one = spec().block.norm_plus_one});
}

void Ends::NormBackward(ConstMat x, Role role, const float* rstd, ConstMat dy, Mat dx, ParamStore* grads) {
  backend_->NormBackward({.x = x,
                          .weight = weights_.Get(role),
                          .rstd = rstd,
                          .dy = dy,
                          .dx = dx,
                          .dweight = grads->Get(role),
                          .dbias = grads->Bias(role),
                          .kind = spec().block.norm,
                          .plus_one = spec().block.norm_plus_one});
}

Mat Ends::FinalNorm(ConstMat x, float* rstd, int64_t extra) {
  const Mat y = work_->Get(Workspace::kNormed, x.rows + extra, x.cols, x.dtype);
  Norm(x, Role::kFinalNorm, y.Rows(0, x.rows), rstd);
  return y;
}

void Ends::Logits(ConstMat normed, Mat logits) {
  backend_->Linear({.x = normed, .w = weights_.Head(), .y = logits});
  if (spec().logit_scale != 1 || spec().logit_cap > 0) {
    backend_->CapLogits(logits, spec().logit_scale, spec().logit_cap);
  }
}

void Ends::Nll(ConstMat normed, const int32_t* targets, float* nll, uint8_t* greatest) {
  backend_->CrossEntropy({.x = normed,
                          .weight = weights_.Head(),
                          .targets = targets,
                          .nll = nll,
                          .greatest = greatest,
                          .logit_scale = spec().logit_scale,
                          .logit_cap = spec().logit_cap});
}

CrossEntropyResult Ends::Loss(const Batch& batch, Mat normed, float* nll, Mat dnormed, Mat dweight, float grad_scale) {
  const int64_t rows = batch.rows(), extra = normed.rows - rows;
  CrossEntropyArgs args{.x = normed,
                        .weight = weights_.Head(),
                        .targets = batch.targets.data(),
                        .weights = batch.weights.data(),
                        .nll = nll,
                        .dx = dnormed,
                        .dweight = dweight,
                        .most = batch.most_gain,
                        .grad_scale = grad_scale,
                        .logit_scale = spec().logit_scale,
                        .logit_cap = spec().logit_cap};
  std::vector<float> reference = batch.reference;
  if (!reference.empty()) {
    reference.resize(static_cast<size_t>(normed.rows), std::numeric_limits<float>::quiet_NaN());
    args.reference = reference.data();
  }
  if (extra == 0) return backend_->CrossEntropy(args);
  backend_->EmbedForward(normed.Rows(0, rows), batch.extra_rows.data(), normed.Rows(rows, extra));
  std::vector<int32_t> targets = batch.targets;
  std::vector<float> target_weights = batch.weights, all_nll;
  targets.insert(targets.end(), batch.extra_targets.begin(), batch.extra_targets.end());
  target_weights.insert(target_weights.end(), batch.extra_weights.begin(), batch.extra_weights.end());
  args.targets = targets.data();
  args.weights = target_weights.data();
  if (nll != nullptr) {
    all_nll.resize(targets.size());
    args.nll = all_nll.data();
  }
  const CrossEntropyResult result = backend_->CrossEntropy(args);
  if (nll != nullptr) std::copy_n(all_nll.begin(), rows, nll);
  if (!dnormed.empty()) AddExtraGradients(batch.extra_rows, dnormed.Rows(rows, extra), dnormed.Rows(0, rows));
  return result;
}

/// to[rows[e]] += from[e].
void Ends::AddExtraGradients(const std::vector<int32_t>& rows, ConstMat from, Mat to) {
  std::vector<int32_t> distinct, slots;
  for (const int32_t row : rows) {
    if (distinct.empty() || distinct.back() != row) distinct.push_back(row);
    slots.push_back(static_cast<int32_t>(distinct.size()) - 1);
  }
  const Mat sums = work_->Get(Workspace::kProjected, static_cast<int64_t>(distinct.size()), to.cols, DType::kF32);
  backend_->Fill(sums, 0.0f);
  backend_->EmbedBackward(from, slots.data(), sums);
  for (size_t d = 0; d < distinct.size(); ++d) {
    backend_->Add(sums.Rows(static_cast<int64_t>(d), 1), to.Rows(distinct[d], 1));
  }
}

}  // namespace hawser
