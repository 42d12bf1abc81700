// train/run.h - a training run from recipe to run folder:
//   recipe.toml        every value of the run; `hawser train recipe.toml` runs it again
//   metrics.jsonl      one object a logged step
//   events.out.tfev... the same for TensorBoard (tensorboard.h)
//   checkpoints/       the last few whole states (checkpoint.h)
//   config.json ...    the trained model as a Hugging Face folder, once the run is finished; or
//   focus.safetensors  what was trained beside a model that stays as it is (objective = focus)
//   hawser.json        how it was trained; written last, so a folder that has one is finished
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "hawser/attn/variant.h"
#include "hawser/data/corpus.h"
#include "hawser/data/loader.h"
#include "hawser/ops/backend.h"
#include "hawser/tok/tokenizer.h"
#include "hawser/train/config.h"
#include "hawser/train/objective.h"

namespace hawser {

/// A recipe with everything left open decided, before any data or weights are read.
struct TrainPlan {
  TrainConfig config;  // paths absolute; context, rope, positions, objective, steps, micro_batch set; tokens 0
  ModelSpec spec;      // as saved: with the context and rope of the recipe
  AttnVariant variant;
  PositionMap positions;  // its window set, where there is one
  Objective objective;
  FileSplit files;                                               // of all data
  std::vector<std::vector<std::filesystem::path>> source_files;  // to train on, of each of config.sources
  std::shared_ptr<Tokenizer> tokenizer;                          // loaded already for a model from scratch
  int64_t sequences_per_step = 0;
  std::vector<std::string> notes;  // what is probably not meant, a line each (conflicts.h)

  int64_t sequence_tokens() const;
  int64_t tokens_per_step() const { return sequences_per_step * sequence_tokens(); }
  int64_t tokens() const { return config.steps * tokens_per_step(); }  // padding included
  int64_t state_bytes() const;                                         // weights, gradients, moments
  int64_t activation_bytes() const;                                    // of one micro-batch
  nlohmann::json ToJson() const;
};

/// Errors: kUsage, kIo, kFormat and kUnsupported naming key, file or tensor.
TrainPlan MakePlan(const TrainConfig& config);

/// What a run of the plan reads: its documents in tokens, and how they are packed.
struct RunText {
  DocumentSet documents;
  PackOptions pack;
  UpsampleOptions upsample;
};
/// Errors: those that a run finds in its text: kUsage where it is shorter than one context, kIo, kFormat.
RunText ReadRunText(const TrainPlan& plan);

struct RunSummary {
  int64_t steps = 0;
  int64_t tokens = 0;                 // trained on, without
  int64_t padding = 0;                // places that held none
  int64_t targets = 0;                // predictions that counted
  double loss = 0;                    // nats per token, last step
  double seconds = 0;                 // spent in steps, over all resumptions
  double density = 1;                 // mean visible share of causal pairs
  PackCounts packing;                 // of all epochs; what was dropped, by reason
  std::vector<SourceTokens> sources;  // of a mixture
  bool interrupted = false;           // by SIGINT or SIGTERM; a checkpoint of the last step is there
  bool was_finished = false;          // before this call
  std::filesystem::path out;

  double tokens_per_second() const { return seconds > 0 ? static_cast<double>(tokens) / seconds : 0.0; }
  nlohmann::json ToJson() const;
};

/// The recipe that the run in `out` was started with. Errors: kUsage where it holds none.
TrainConfig RecipeOfRun(const std::filesystem::path& out);

/// What else is kept up to date in a run folder: called with it after each checkpoint, and once it is finished.
using RunObserver = std::function<void(const std::filesystem::path& out)>;

/// Trains to the end of the plan. `resume`: go on after the newest whole checkpoint of `out`, if it holds a run. A plan
/// of more steps than that run had makes it longer, finished or not (Lengthen in lr.h). Errors: kUsage (a folder in use
/// without `resume`, a recipe, data or rotations other than the checkpoint's, fewer steps), kIo, kFormat, kNumeric
/// (Trainer::Step); what is on disk stays resumable.
RunSummary RunTraining(const TrainPlan& plan, const std::filesystem::path& out, bool resume, Backend* backend,
                       const RunObserver& observer = {});

}  // namespace hawser
