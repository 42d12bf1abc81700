// eval/drift_pass.h - one sequence through the model of a drift (drift.h), at all shifts: the block's own code around
// attention, and attention in f64 over rotations that are rounded as asked.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "hawser/eval/drift.h"
#include "hawser/eval/f64_backend.h"
#include "hawser/model/ends.h"
#include "hawser/model/weights.h"
#include "hawser/model/workspace.h"
#include "hawser/pos/scheme.h"

namespace hawser {

/// What the shifts of one head differ by.
struct HeadDrift {
  std::vector<DriftSums> sums;                  // [shifts]
  std::vector<std::vector<double>> column;      // [shifts][T] n_j (C_j(s) - C_j(r))
  std::vector<std::vector<double>> column_abs;  // [shifts][T]
  std::vector<std::vector<DriftLogit>> logits;  // [shifts][lengths]
};

/// A hidden stream for the reference (stream 0) and, running free, one for each shift.
class DriftPass {
 public:
  /// `weights`: F32, or BF16 for BF16 activations. All of them outlive this.
  DriftPass(Backend* backend, const ParamStore& weights, const DriftOptions& options, int64_t tokens,
            std::span<const int64_t> lengths);

  void Begin(const std::vector<int32_t>& ids);
  /// Runs a layer; drift[h] is what its heads say.
  void Layer(int32_t layer, std::vector<HeadDrift>* drift);

 private:
  /// cos and sin of one shift.
  struct Table {
    Table(const RopeSpec& rope, const RopeNumerics& rounding, int64_t shift, int64_t tokens);
    /// Rotates the first 2 * half of `dim` channels at row t and rounds all to `store`.
    void Rotate(RopePairing pairing, int64_t t, int64_t dim, FloatFormat store, double* x) const;

    RopeNumerics numerics;
    int64_t half = 0;
    std::vector<double> cos, sin;
  };
  /// One head of one stream: rotated queries [T, D], keys turned to columns [D, T + padding], values [T, D].
  struct HeadRows {
    std::vector<double> q, k, v;
  };

  int64_t shifts() const { return static_cast<int64_t>(options_.deltas.size()); }
  int64_t streams() const { return shifts() + 1; }
  int64_t hidden_streams() const { return options_.mode == DriftMode::kFree ? streams() : 1; }
  int64_t FirstKey(int64_t row) const { return std::max<int64_t>(0, row - window_ + 1); }
  double Scale() const;

  HeadRows Rows(int64_t head, int64_t stream) const;
  void Attend(const HeadRows& rows, int64_t head, int64_t stream, int64_t begin, int64_t end, bool output, double* p);
  double FirstLogit(const HeadRows& rows, int64_t t) const;
  HeadDrift Head(int64_t head);
  void Weigh(HeadDrift& drift, int64_t shift) const;
  std::vector<DriftLogit> Logits(const HeadRows& reference, const HeadRows& shifted) const;

  const ModelSpec& spec_;
  const DriftOptions& options_;
  const int64_t tokens_;
  int64_t window_ = 0;  // of the layer under way
  const std::span<const int64_t> lengths_;
  F64Backend backend_;
  Weights weights_;
  Workspace work_;
  Ends ends_;
  std::vector<Table> query_tables_, key_tables_;  // [streams]
  FloatFormat query_store_, key_store_;
  std::vector<Matrix> x_, qkv_, attn_out_;  // [hidden streams]
};

}  // namespace hawser
