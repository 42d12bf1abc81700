// train/trainer.h - one optimizer step: micro-batches, gradients, checks, clip, update.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "hawser/data/packer.h"
#include "hawser/model/decoder.h"
#include "hawser/model/params.h"
#include "hawser/ops/backend.h"
#include "hawser/train/config.h"
#include "hawser/train/lora.h"
#include "hawser/train/objective.h"
#include "hawser/train/optimizer.h"

namespace hawser {

struct StepReport {
  int64_t step = 0;     // 1-based
  int64_t tokens = 0;   // of this step, without padding
  int64_t padding = 0;  // places that hold no token; the model runs over tokens and padding
  int64_t targets = 0;  // predictions with a loss weight
  double loss = 0;      // nats per trained token, before the update, gains of the objective included,
  double nats = 0;      // and without these
  GainCounts gains;
  double lr = 0;
  double grad_norm = 0;  // before clipping
  double density = 1;    // visible over causal pairs
  double flops = 0;      // useful ones, recompute not counted; short passes of the objective are
  double executed = 0;   // FLOPs, ExecutedFlops
};

/// Places of a sequence that hold no token.
int64_t CountPadding(const PackedSequence& sequence);

/// Packed sequences as one batch: rows concatenated, one layout each.
Batch MakeBatch(std::span<const PackedSequence> sequences, const LayeredPattern& pattern);

/// Bytes of activations that `rows` tokens need in forward and backward, logits not counted.
int64_t ActivationBytes(const ModelSpec& spec, DType dtype, Recompute recompute, int64_t rows);

/// Bytes that forward alone needs beside those of training, where the objective wants short passes.
int64_t ScoringBytes(const ModelSpec& spec, DType dtype, int64_t rows);

/// FLOPs of a step over `tokens` with `pairs` visible query-key pairs, all of them: TrainingFlops, the scores that the
/// attention backward forms again (2 D a pair and head) and, with Recompute::kLayer, the products that it repeats (Q, K
/// and V, attention output, gate and up). What the time of two steps should compare like at one rate.
double ExecutedFlops(const ModelSpec& spec, Recompute recompute, int64_t tokens, int64_t pairs);

/// Sequences of `length` tokens to run at once where the recipe leaves it open: by sizes and dtype alone, never by the
/// machine or `recompute`, since gradients add up in the order of micro-batches.
int64_t ChooseMicroBatch(const ModelSpec& spec, const TrainConfig& config, int64_t length);

/// Weights are F32; with dtype = bf16 or adapters the decoder reads a copy, rounded and merged, that every update
/// refreshes. Under the objective `focus` the adapters are candidates' projections, which a decoder of their own reads,
/// and the model stays as it is. Of parameters that are not trained (trained.h) there are no moments, and no gradients
/// beyond the step. The result of a step depends on its sequences and the state alone, not on threads or on what ran
/// before.
class Trainer {
 public:
  /// `weights` F32 with their final spec (context, rope). config.steps and config.micro_batch must be set.
  Trainer(Backend* backend, const TrainConfig& config, LayeredPattern pattern, ParamStore weights);

  Trainer(const Trainer&) = delete;
  Trainer& operator=(const Trainer&) = delete;

  /// Gradients of the loss over all of `sequences`, weighted by their loss weights, then one update. Errors: kNumeric
  /// naming step and tensor if the loss or a gradient is not finite, kUsage if no token has a loss weight; in both
  /// cases weights and moments are as before.
  StepReport Step(std::span<const PackedSequence> sequences);

  /// Nats per trained token of `sequences`, `at_once` of them in a batch (0: a micro-batch), without an update.
  double Score(std::span<const PackedSequence> sequences, const LayeredPattern& pattern, int64_t at_once = 0);

  const ModelSpec& spec() const { return weights_.spec(); }
  int64_t step() const { return step_; }
  int64_t activation_bytes() const;
  const ParamStore& weights() const { return weights_; }
  const ParamStore& adapters() const { return adapters_; }
  const ParamStore& gradients() const { return grads_; }  // of the last step
  const ParamStore& adapter_gradients() const { return adapter_grads_; }
  /// F32 weights with the adapters merged: what the decoder reads, before it is rounded.
  ParamStore Merged();

  /// What a checkpoint holds. Whoever writes to it calls ResumeAfter with the number of steps behind it.
  TrainState state();
  void ResumeAfter(int64_t step);
  /// For a run that goes on longer (lr.h).
  void SetLengthened(std::vector<int64_t> pairs) { config_.lengthened = std::move(pairs); }

 private:
  bool adapted() const { return !adapters_.layout().empty(); }
  void RefreshCopy();
  double Gradients(std::span<const PackedSequence> sequences, StepReport* report);
  double CandidateGradients(std::span<const PackedSequence> sequences, StepReport* report);
  double ScoreCandidates(std::span<const PackedSequence> sequences, int64_t at_once);
  void FinishGradients();
  void Update(const StepReport& report, double grad_scale);
  [[noreturn]] void FailNonFinite(double loss, double norm) const;

  Backend* backend_;
  TrainConfig config_;
  LayeredPattern pattern_;
  Objective objective_;
  ParamStore weights_;
  ParamStore adapters_;
  std::optional<ParamStore> copy_;  // what the decoder reads, where that is not weights_
  ParamStore grads_, adapter_grads_;
  Optimizer optimizer_, adapter_optimizer_;
  std::optional<Lora> lora_;
  std::unique_ptr<Decoder> decoder_;
  // Of candidates (focus.h): their projections as they are read, where that is not adapters_, and their passes.
  std::optional<ParamStore> candidates_copy_;
  std::unique_ptr<Decoder> condenser_;
  std::unique_ptr<FocusPass> focus_;
  int64_t step_ = 0;
};

}  // namespace hawser
