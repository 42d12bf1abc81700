// train/trained.h - which parameters a run changes: values over the list of a model's parameters.
#pragma once

#include "hawser/model/params.h"
#include "hawser/train/config.h"

namespace hawser {

/// Whether the objective trains candidates (focus.h), beside a model that stays as it is.
bool TrainsCandidates(const TrainConfig& config);

/// What is trained beside the parameters themselves: low-rank adapters, candidates' projections, or nothing.
ParamLayout AdapterLayout(const ParamLayout& all, const TrainConfig& config);

/// The parameters updated in place: those that a glob of `train_only` matches (where it is empty: all, or none beside
/// adapters), but for those that a glob of `freeze` matches. Globs (* and ?) are over whole Hugging Face names.
/// Errors: kUsage for a glob that matches no parameter (naming it), and where nothing is left to train.
ParamLayout TrainedLayout(const ParamLayout& all, const TrainConfig& config);

/// The parameters whose gradients a step needs: those of `trained`, those that `adapters` (LoraLayout) adapt, and the
/// rest of their groups, for which one matrix product is run.
ParamLayout GradientLayout(const ParamLayout& all, const ParamLayout& trained, const ParamLayout& adapters);

/// Bytes that a run holds for its parameters, all of them in memory at once.
struct StateBytes {
  int64_t weights = 0;    // f32, those being trained and those that are not
  int64_t in_use = 0;     // the copy that the model computes with: bf16, or with adapters merged; else 0
  int64_t gradients = 0;  // f32
  int64_t moments = 0;    // two f32 each trained value
  int64_t adapters = 0;   // f32, with their gradients

  int64_t total() const { return weights + in_use + gradients + moments + adapters; }
};
StateBytes CountStateBytes(const ModelSpec& spec, const TrainConfig& config);

}  // namespace hawser
