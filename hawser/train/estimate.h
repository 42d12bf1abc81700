// train/estimate.h - what a run will need, before it is begun: memory by part, and time.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>

#include "hawser/ops/backend.h"
#include "hawser/train/run.h"
#include "hawser/train/trained.h"

namespace hawser {

struct RunEstimate {
  StateBytes state;
  int64_t activations_none = 0;   // bytes of one micro-batch that keeps every activation,
  int64_t activations_layer = 0;  // and of one that recomputes by layer
  int64_t activations = 0;        // that of the recipe
  int64_t micro_batch_tokens = 0;
  int64_t text_bytes = 0;  // of token ids in memory; those of .tokens files stay in their files
  int64_t waiting = 0;     // of packed sequences that the loader draws from
  int64_t kernels = 0;     // of operands packed for attention, and logits
  int64_t finish = 0;      // of the mean of checkpoints or merged adapters, once all steps are done
  int64_t program = 0;     // resident when the estimate was begun (code, libraries, tokenizer), and 40 MiB for
                           // what libraries and the heap take on the way
  int64_t documents = 0, text_tokens = 0;

  double density = 1;           // of the first step
  double padding = 0;           // share of its places
  double step_flops = 0;        // useful ones (TrainingFlops) of the first step
  double flops_per_second = 0;  // of the sample: useful FLOPs over its time; without one: MeasurePeak
  int64_t sample_tokens = 0;    // the sample: so many tokens of the text,
  int64_t sample_length = 0;    // in sequences of so many,
  int32_t sample_layers = 0;    // through so many layers of this shape, forward and backward; 0: no sample
  double update_seconds = 0;    // of the optimizer, a step
  double seconds = 0;           // steps * (step_flops / flops_per_second + update_seconds)

  int64_t bytes() const { return state.total() + activations + text_bytes + waiting + kernels + finish + program; }
  double activation_bytes_per_token() const;
  double tokens(const TrainPlan& plan) const;  // to train on, padded like the first step
  double epochs(const TrainPlan& plan) const;  // those over tokens of text
  nlohmann::json ToJson() const;
};

/// FLOP/s of a matrix product of 1024^3 in a dtype, measured once a process: what `peak_share` of a run's metrics is a
/// share of.
double MeasurePeak(Backend* backend, DType dtype);

/// Reads the text, packs the first step, and times a sample small enough for a few seconds: the time of a run is taken
/// to grow with its useful FLOPs. For a shape whose sample would take more than 4 GiB the time is that at the peak of
/// matrix products, so a lower bound. Validation and checkpoints are not counted. Errors: those of a run.
RunEstimate EstimateRun(const TrainPlan& plan, Backend* backend);

}  // namespace hawser
