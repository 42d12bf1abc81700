// train/config.h - a recipe: every value a training run depends on, from TOML and back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/data/packer.h"
#include "hawser/data/upsample.h"
#include "hawser/model/decoder.h"
#include "hawser/model/spec.h"
#include "hawser/tok/bos.h"

namespace hawser {

/// After `warmup` steps: constant; cosine or linear down to min_lr_ratio; wsd (warmup, stable, decay,
/// arXiv:2404.06395): constant, then linear over the last `decay` share of the steps.
enum class Schedule : uint8_t { kConstant, kCosine, kLinear, kWsd };
std::string_view Name(Schedule schedule);  // "cosine", ...

/// Sizes of a model that starts from random weights: the table [model] of a recipe.
struct ModelDims {
  int64_t vocab = 0;  // 0: the tokenizer's
  int64_t width = 0;
  int64_t layers = 0;
  int64_t heads = 0;
  int64_t kv_heads = 0;   // 0: heads
  int64_t head_dim = 0;   // 0: width / heads
  int64_t mlp_width = 0;  // 0: 8/3 width, rounded up to a multiple of 16
  double theta = 10000.0;
  double norm_eps = 1e-5;
  bool tie_embeddings = true;

  bool operator==(const ModelDims&) const = default;
};

/// Data of a mixture: one of the tables [[source]] of a recipe.
struct SourceConfig {
  std::string name;               // empty: the last part of the first path
  std::vector<std::string> data;  // .txt, .jsonl, .tokens or folders
  double weight = 1;              // its share of all tokens is this over the sum

  bool operator==(const SourceConfig&) const = default;
};

/// Keys of a recipe have the names of these fields; those of `dims` are in the table [model].
struct TrainConfig {
  std::string model;  // the model to continue; empty: from scratch with `dims`
  ModelDims dims;
  std::string tokenizer;              // file or folder; empty: the model's own
  std::vector<std::string> data;      // .txt, .jsonl, .tokens or folders; or
  std::vector<SourceConfig> sources;  // the tables [[source]], a mixture (data/loader.h)
  int64_t holdout = 0;                // the last files of `data`, or of each source, kept for validation
  int64_t context = 0;                // tokens of a sequence, unless `positions` says otherwise; 0: the model's
  bool shrink_context = false;        // lets `context` be less than the model's, which it then is of the saved one
  std::string attention = "full";
  std::string rope;           // empty: the model's own, or ntk by context / old context where the context grows
  std::string rope_numerics;  // how rotations are rounded (pos/numerics.h); empty: the model's own, or as `rope` says
  std::string positions;      // a map of pos/position_map.h: sequences of its window show distances up to `context`
  std::string objective = "ce";    // train/objective.h
  std::string softmax;             // attn/softmax.h; empty: the model's own
  int64_t segments = 0;            // places of bilevel positions (pos/segments.h), from scratch only; 0: none
  std::string segment_separators;  // which tokens end a segment (tok/separators.h); empty: text

  int64_t steps = 0;                // of the optimizer; or
  int64_t tokens = 0;               // in all, rounded up to whole steps
  std::vector<int64_t> lengthened;  // a run made longer: pairs, up to step A it was one of B steps (lr.h)
  int64_t batch_tokens = 16384;
  int64_t micro_batch = 0;  // sequences run at once; 0: as many as keep activations small
  double lr = 0;            // the highest; 0: DefaultLearningRate of the model's width
  Schedule schedule = Schedule::kCosine;
  int64_t warmup = 0;         // steps
  double decay = 0.2;         // share of the steps, wsd only
  double min_lr_ratio = 0.1;  // the last learning rate over the highest
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
  double clip = 1.0;  // global gradient norm; 0: never clipped
  int64_t seed = 0;

  DType dtype = DType::kF32;  // of weights in use and activations; the optimizer always keeps f32 weights
  Recompute recompute = Recompute::kNone;

  Overflow overflow = Overflow::kRestart;
  int64_t lookahead = 512;  // pieces that wait, overflow = best-fit only
  BosRule bos =
      BosRule::kAuto;           // before each document, where the pattern has no anchors; true and false are on and off
  bool eos = false;             // EOS after each document
  std::vector<int64_t> anchor;  // token ids of the anchor; empty: BOS, or EOS where there is none, as often as wanted
  int64_t min_document = 3;     // tokens
  bool first_token_from_anchor = false;
  LossRows loss_rows = LossRows::kDocument;
  Upsample upsample = Upsample::kNone;
  int64_t long_document = 4096;  // tokens, and
  double short_keep = 0.1;       // probability of a shorter one, upsample only

  std::vector<std::string> train_only;  // globs of the parameters to train; empty: all (with adapters: none)
  std::vector<std::string> freeze;      // globs of parameters to leave as they are
  std::string adapter;                  // folder of adapters (peft.h) to go on with; rank, alpha, targets are theirs
  int64_t lora_rank = 0;                // of the adapters B A (lora.h); 0: no adapters
  double lora_alpha = 16;               // W + alpha / rank B A
  std::vector<std::string> lora_targets = {"q_proj", "k_proj", "v_proj", "o_proj"};

  int64_t checkpoint_every = 50;  // steps; 0: only at the end
  int64_t keep = 2;               // checkpoints
  int64_t average_last = 0;    // the saved model is the mean of the last so many checkpoints (average.h); 0: the last
  int64_t log_every = 1;       // steps between lines of metrics.jsonl
  int64_t validate_every = 0;  // steps; 0: never
  int64_t validate_sequences = 4;

  bool operator==(const TrainConfig&) const = default;
};

/// Sets `data`, or `sources` where paths come with weights: "books/=3" "code/=1". Both replace what was there. Errors:
/// kUsage where some have weights and some have none.
void SetData(TrainConfig& config, const std::vector<std::string>& data);

/// Applies every key of a TOML recipe. Errors: kFormat (not TOML, with line and column), kUsage (unknown key with the
/// nearest known one, a value of the wrong type, naming the key).
void ApplyRecipe(TrainConfig& config, std::string_view toml, std::string_view origin);
/// The recipe file; relative paths in it are taken from its folder.
void ApplyRecipeFile(TrainConfig& config, const std::filesystem::path& path);
/// "key=value", the value in TOML or as bare text; the same errors.
void ApplySetting(TrainConfig& config, std::string_view setting);

/// Every key; ApplyRecipe of it to a default config gives the same config. Texts that are not UTF-8 are file: URIs.
std::string ToToml(const TrainConfig& config);

struct RecipeKey {
  std::string_view key;
  std::string standard;  // as ToToml prints it
  std::string_view help;
};
/// Every key with its default and what it means, as docs/TRAINING.md lists them.
std::vector<RecipeKey> RecipeKeys();

/// Ranges and contradictions. Errors: kUsage naming the key.
void Validate(const TrainConfig& config);

/// Keys whose values differ and change what is computed (not: logging, checkpoints, validation).
std::vector<std::string> KeysThatMatter(const TrainConfig& a, const TrainConfig& b);

/// min(5e-3, 3e-3 (64 / width)^1.2): through what 260K parameters of width 64 bear and what 7B of width 4096 are
/// extended with, 2e-5 (arXiv:2411.13476).
double DefaultLearningRate(int64_t width);

/// The spec of a model that starts from scratch. `tokenizer_vocab`: used where `dims` gives none. Errors: kUsage.
ModelSpec ScratchSpec(const TrainConfig& config, int64_t tokenizer_vocab);

}  // namespace hawser
