// eval/drift_layers.h - what a block does around attention: by the backend for f32 and bf16 rows, in plain f64 loops
// for f64 rows (weights then are f32, which f64 holds exactly).
#pragma once

#include <cstdint>
#include <vector>

#include "hawser/model/params.h"
#include "hawser/ops/backend.h"

namespace hawser {

class DriftLayers {
 public:
  /// `dtype`: F32 or F64 over F32 weights, BF16 over BF16 weights. Both outlive this.
  DriftLayers(Backend* backend, const ParamStore* weights, DType dtype);

  /// x[i] = embedding of ids[i].
  void Embed(const int32_t* ids, Mat x);
  /// qkv = Wqkv norm(x), not rotated; [N, (H+2G)*D].
  void Qkv(int32_t layer, ConstMat x, Mat qkv);
  /// x += Wo attn_out, then x += Wdown swiglu(Wgate_up norm(x)).
  void Finish(int32_t layer, ConstMat attn_out, Mat x);

 private:
  void Norm(ConstMat x, ConstMat weight, Mat y);
  void Linear(ConstMat x, ConstMat w, Mat y);
  void Glu(ConstMat gate_up, Mat y);
  void Add(ConstMat x, Mat y);
  Mat Scratch(int slot, int64_t rows, int64_t cols);

  Backend* backend_;
  const ParamStore* weights_;
  DType dtype_;
  Matrix scratch_[3];
};

/// Elements [begin, begin + count) of a row, widened.
void ReadRow(ConstMat mat, int64_t row, int64_t begin, int64_t count, double* to);
/// The same back, rounded to the matrix's dtype.
void WriteRow(const double* from, int64_t count, Mat mat, int64_t row, int64_t begin);

}  // namespace hawser
