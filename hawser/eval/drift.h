// eval/drift.h - what rounding of rotary embeddings does to a model: one text read at shifted positions.
//   P(X, s)[l, h]   post-softmax attention of layer l, head h over tokens X at positions s, s + 1, ..., s + T - 1
//   C_j(s)          sum over query rows i of P_ij(X, s);  n_j = 1 / (rows that can see key j) = 1 / (T - j)
//   D(s, r)         sum over l, h, j of n_j (C_j(s) - C_j(r))                    arXiv:2411.13476, equation 4
//   D_abs           sum of n_j |C_j(s) - C_j(r)|;   D_l1  sum of n_j sum_i |P_ij(s) - P_ij(r)|
//   D_logit(T)      sum over l, h of mean over rows i < T of A_i0(s) - A_i0(r),  A = q k / sqrt(D)    equation 5
// In exact arithmetic all are 0: attention knows differences of positions only. The paper prints no bars in equation 4;
// without n_j the signed sum is 0 whatever P is, as every row of P sums to 1.
// Everything that a pipeline does not name is f64: products, softmax, sums. Roundings are emulated (pos/numerics.h).
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/data/corpus.h"
#include "hawser/model/params.h"
#include "hawser/ops/backend.h"
#include "hawser/pos/numerics.h"
#include "hawser/tok/bos.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// kFree: every shift runs through the whole model by itself, so that differences travel on to later layers and rows.
/// kForced: all shifts read the hidden states of the reference; only the rotation differs.
enum class DriftMode : uint8_t { kFree, kForced };
/// What the pipeline rounds; the other side is rotated in f64.
enum class DriftSide : uint8_t { kBoth, kKeys, kQueries };
std::string_view Name(DriftMode mode);            // "free", "forced"
std::string_view Name(DriftSide side);            // "both", "keys", "queries"
DriftMode ParseDriftMode(std::string_view text);  // kUsage with the known names
DriftSide ParseDriftSide(std::string_view text);

struct DriftOptions {
  /// The paper's shifts; the reference itself may be among them.
  std::vector<int64_t> deltas = {0, 2, 4, 6, 8, 10, 12, 14, 15, 17, 18, 20, 22, 50, 100, 200, 500, 1000, 2000};
  int64_t reference = 16;
  std::vector<int64_t> lengths;  // of D_logit, at most T; empty: powers of two from 64 on, and T
  RopeNumerics numerics = {};
  DriftMode mode = DriftMode::kFree;
  DriftSide side = DriftSide::kBoth;
  DType dtype = DType::kF32;  // of weights and activations: F32, BF16 or F64
  /// Called with layers done so far, of sequences * layers.
  std::function<void(int64_t)> on_layer;
};

struct DriftSums {
  double d = 0, abs = 0, l1 = 0;                  // over all key columns
  double first = 0, first_abs = 0, first_l1 = 0;  // the part of column 0

  void Add(const DriftSums& other, double weight);
};

struct DriftLogit {
  int64_t length = 0;
  double d = 0, abs = 0;  // abs: of |A_i0(s) - A_i0(r)|
};

/// Means over sequences.
struct DriftShift {
  int64_t delta = 0;
  std::vector<DriftSums> heads;  // [layers * heads]
  DriftSums total;
  DriftSums spread;                // standard deviation of the totals over sequences; 0 for one sequence
  std::vector<double> tokens;      // [T] n_j (C_j(s) - C_j(r)), summed over layers and heads
  std::vector<double> tokens_abs;  // [T]
  std::vector<DriftLogit> logits;  // by length
};

struct DriftReport {
  RopeNumerics numerics;
  DriftMode mode = DriftMode::kFree;
  DriftSide side = DriftSide::kBoth;
  DType dtype = DType::kF32;
  int64_t reference = 0, tokens = 0, sequences = 0;
  int32_t layers = 0, heads = 0;
  std::vector<DriftShift> shifts;
  double seconds = 0;
};

/// `count` sequences of `tokens` tokens, TextPrefix and text, evenly spread over the documents;
/// fewer where the text has fewer. Errors: kUsage if it has none that long.
std::vector<std::vector<int32_t>> DriftSequences(const std::vector<TextDocument>& documents, const Tokenizer& tokenizer,
                                                 int64_t count, int64_t tokens, BosRule bos = BosRule::kAuto);

/// `weights` F32; every sequence has the same length T. Memory: shifts * T * (C + (H + 2G) D) values running free, and
/// for each thread the head that it is at under every shift, shifts * 3 T D values in f64. Errors: kUsage (shifts,
/// lengths), kUnsupported (frequencies that depend on the length; positions that are not one rotation for all layers;
/// capped scores, other softmaxes).
DriftReport MeasureDrift(Backend* backend, const ParamStore& weights, std::span<const std::vector<int32_t>> sequences,
                         const DriftOptions& options);

/// What must hold of any model: a shift against itself is 0 to the last bit under `options`, and f64 throughout gives
/// D_l1 below 1e-8 (first 256 tokens, free running). Errors: kNumeric if not.
struct DriftChecks {
  double same_shift = 0, f64_l1 = 0;
};
DriftChecks CheckDrift(Backend* backend, const ParamStore& weights, const std::vector<int32_t>& sequence,
                       const DriftOptions& options);

/// Every matrix uniform in +-sqrt(6 / fan_in) (Kaiming, arXiv:1502.01852), norms 1.
void KaimingUniform(ParamStore& weights, uint64_t seed);

/// One report and what it is called in tables and plots.
struct DriftRun {
  std::string name;
  DriftReport report;
  bool random_weights = false;  // drawn dashed
};
nlohmann::json ToJson(const DriftReport& report);
std::string ToText(std::span<const DriftRun> runs);
/// A line for each run, shift, layer and head.
std::string ToCsv(std::span<const DriftRun> runs);
/// Three plots, one below the other: D_abs by shift, by key token, and D_logit by length.
std::string ToSvg(std::span<const DriftRun> runs);

}  // namespace hawser
