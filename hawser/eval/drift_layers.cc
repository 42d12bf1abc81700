#include "hawser/eval/drift_layers.h"

#include <algorithm>
#include <cmath>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"

namespace hawser {
namespace {

constexpr int64_t kRows = 32;  // of a piece of an f64 loop

/// body(row) for every row.
template <class Body>
void ForRows(int64_t rows, Body&& body) {
  ParallelChunks(rows, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) body(r);
  });
}

}  // namespace

DriftLayers::DriftLayers(Backend* backend, const ParamStore* weights, DType dtype)
    : backend_(backend), weights_(weights), dtype_(dtype) {
  const ModelSpec& spec = weights->spec();
  if (spec.block != BlockSpec() || spec.places != Places::kRope || spec.local_rope || !spec.unplaced_layers.empty() ||
      spec.embedding_scale != 1 || spec.attn_cap != 0 || spec.attn_scale != 0) {
    Fail(ErrorKind::kUnsupported,
         "drift measures blocks of Llama's form (RMSNorm, gated mlp without biases, one rotation for all layers); this "
         "model is of family \"{}\"",
         spec.family);
  }
  HAWSER_CHECK(weights->dtype() == (dtype == DType::kBF16 ? DType::kBF16 : DType::kF32));
}

Mat DriftLayers::Scratch(int slot, int64_t rows, int64_t cols) {
  Matrix& matrix = scratch_[slot];
  if (matrix.rows() != rows || matrix.cols() != cols) matrix = Matrix(rows, cols, dtype_);
  return matrix.view();
}

void DriftLayers::Embed(const int32_t* ids, Mat x) {
  const ConstMat table = weights_->Get(Role::kEmbedding);
  if (dtype_ != DType::kF64) return backend_->EmbedForward(table, ids, x);
  for (int64_t r = 0; r < x.rows; ++r) ReadRow(table, ids[r], 0, x.cols, x.Row<double>(r));
}

void DriftLayers::Qkv(int32_t layer, ConstMat x, Mat qkv) {
  const Mat normed = Scratch(0, x.rows, x.cols);
  Norm(x, weights_->Get(Role::kAttnNorm, layer), normed);
  Linear(normed, weights_->Qkv(layer), qkv);
}

void DriftLayers::Finish(int32_t layer, ConstMat attn_out, Mat x) {
  const Mat projected = Scratch(0, x.rows, x.cols);
  Linear(attn_out, weights_->Get(Role::kAttnOut, layer), projected);
  Add(projected, x);
  Norm(x, weights_->Get(Role::kMlpNorm, layer), projected);
  const int64_t width = weights_->spec().mlp_width;
  const Mat gate_up = Scratch(1, x.rows, 2 * width), hidden = Scratch(2, x.rows, width);
  Linear(projected, weights_->MlpIn(layer), gate_up);
  Glu(gate_up, hidden);
  Linear(hidden, weights_->Get(Role::kDown, layer), projected);
  Add(projected, x);
}

void DriftLayers::Norm(ConstMat x, ConstMat weight, Mat y) {
  const float eps = weights_->spec().norm_eps;
  if (dtype_ != DType::kF64) return backend_->NormForward({.x = x, .weight = weight, .y = y, .eps = eps});
  ForRows(x.rows, [&](int64_t r) {
    const double* from = x.Row<double>(r);
    double squares = 0;
    for (int64_t c = 0; c < x.cols; ++c) squares += from[c] * from[c];
    const double scale = 1 / std::sqrt(squares / static_cast<double>(x.cols) + double{eps});
    for (int64_t c = 0; c < x.cols; ++c) y.Row<double>(r)[c] = from[c] * scale * weight.Row<float>(0)[c];
  });
}

void DriftLayers::Linear(ConstMat x, ConstMat w, Mat y) {
  if (dtype_ != DType::kF64) return backend_->MatMul({.a = x, .b = w, .trans_b = true, .c = y});
  // A row of weights meets all rows of a piece while it is near.
  ParallelChunks(x.rows, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t o = 0; o < w.rows; ++o) {
      const float* row = w.Row<float>(o);
      for (int64_t r = begin; r < end; ++r) {
        const double* from = x.Row<double>(r);
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < x.cols; ++c) sum += from[c] * static_cast<double>(row[c]);
        y.Row<double>(r)[o] = sum;
      }
    }
  });
}

void DriftLayers::Glu(ConstMat gate_up, Mat y) {
  if (dtype_ != DType::kF64) return backend_->ActForward({.in = gate_up, .y = y});
  ForRows(y.rows, [&](int64_t r) {
    const double* gate = gate_up.Row<double>(r);
    for (int64_t c = 0; c < y.cols; ++c) y.Row<double>(r)[c] = gate[c] / (1 + std::exp(-gate[c])) * gate[y.cols + c];
  });
}

void DriftLayers::Add(ConstMat x, Mat y) {
  if (dtype_ != DType::kF64) return backend_->Add(x, y);
  ForRows(y.rows, [&](int64_t r) {
    for (int64_t c = 0; c < y.cols; ++c) y.Row<double>(r)[c] += x.Row<double>(r)[c];
  });
}

void ReadRow(ConstMat mat, int64_t row, int64_t begin, int64_t count, double* to) {
  if (mat.dtype == DType::kF64) {
    std::copy_n(mat.Row<double>(row) + begin, count, to);
  } else if (mat.dtype == DType::kF32) {
    std::copy_n(mat.Row<float>(row) + begin, count, to);
  } else {
    const bf16* from = mat.Row<bf16>(row) + begin;
    for (int64_t i = 0; i < count; ++i) to[i] = ToF32(from[i]);
  }
}

void WriteRow(const double* from, int64_t count, Mat mat, int64_t row, int64_t begin) {
  for (int64_t i = 0; i < count; ++i) {
    if (mat.dtype == DType::kF64) {
      mat.Row<double>(row)[begin + i] = from[i];
    } else if (mat.dtype == DType::kF32) {
      mat.Row<float>(row)[begin + i] = static_cast<float>(from[i]);
    } else {
      mat.Row<bf16>(row)[begin + i] = ToBF16(static_cast<float>(from[i]));
    }
  }
}

}  // namespace hawser
