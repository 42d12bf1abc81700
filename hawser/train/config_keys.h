// train/config_keys.h - the keys of a recipe, each once: what is read, printed, listed, checked and compared.
#pragma once

#include <array>
#include <limits>
#include <string_view>

#include "hawser/base/form.h"
#include "hawser/train/config.h"

namespace hawser {

template <>
struct EnumNames<Schedule> {
  static constexpr std::array<std::string_view, 4> kNames = {"constant", "cosine", "linear", "wsd"};
};
template <>
struct EnumNames<Recompute> {
  static constexpr std::array<std::string_view, 2> kNames = {"none", "layer"};
};
template <>
struct EnumNames<Overflow> {
  static constexpr std::array<std::string_view, 5> kNames = {"restart", "split", "drop", "fit", "best-fit"};
};
template <>
struct EnumNames<LossRows> {
  static constexpr std::array<std::string_view, 2> kNames = {"document", "all"};
};
template <>
struct EnumNames<BosRule> {
  static constexpr std::array<std::string_view, 3> kNames = {"auto", "on", "off"};
};
template <>
struct EnumNames<Upsample> {
  static constexpr std::array<std::string_view, 3> kNames = {"none", "global", "per-source"};
};

/// Whether a key changes what is computed, or only what is written down about it.
enum class Matters : bool { kNo, kYes };

struct KeyDoc {
  std::string_view key, help;  // help: as docs/TRAINING.md has it
  Matters matters = Matters::kYes;
  double least = -std::numeric_limits<double>::max(), most = std::numeric_limits<double>::max();
};

/// visit(field, doc) for every key, in the order of the printed recipe (tables last, as TOML wants). What `dims` must
/// be depends on the tokenizer and one another: ScratchSpec says.
template <class Config, class Visitor>
void VisitKeys(Config& c, Visitor&& visit) {
  constexpr Matters kYes = Matters::kYes, kNo = Matters::kNo;
  constexpr double kMany = 0x1p40;
  visit(c.model,
        {"model", "model to continue: folder, `.bin` or `builtin`; empty: from scratch, by the table `[model]`"});
  visit(c.tokenizer, {"tokenizer", "file or folder; empty: the model's own"});
  visit(c.data, {"data", "files and folders of text, `.jsonl` or `.tokens` (docs/DATA.md)"});
  visit(c.sources,
        {"source", "tables `[[source]]` with `data`, `weight` and `name` instead of `data`: a mixture (docs/DATA.md)"});
  visit(c.holdout, {"holdout", "the last N files of `data`, or of each source, are for validation", kYes, 0, kMany});
  visit(c.context,
        {"context", "tokens of a sequence, or what `positions` is to reach; 0: the model's", kYes, 0, 0x1p30});
  visit(c.shrink_context,
        {"shrink_context", "lets `context` be less than the model's, which is then that of the saved model", kNo});
  visit(c.attention, {"attention", "variant of training (docs/DATA.md) or pattern (docs/PATTERNS.md)"});
  visit(c.rope, {"rope",
                 "scheme of positions, `yarn:factor=8`, `alibi:ntk,factor=4`; empty: the model's, grown (NTK where it "
                 "has none, linear where but one pair is rotated) if `context` grows"});
  visit(c.rope_numerics, {"rope_numerics",
                          "how rotations are rounded, for experiments (docs/NUMERICS.md); empty: as `rope` or the "
                          "model says, else exact"});
  visit(c.positions,
        {"positions",
         "sequences shorter than `context` whose positions skip: `pose:window=512`, `skipalign`, `randpos`"});
  visit(c.objective, {"objective", "`ce`, `longce:k=4096,delta=4096,most=5`, or `focus:tokens=16384`"});
  visit(c.softmax, {"softmax", "`standard`, `self-adjust`; empty: the model's own"});
  visit(c.segments, {"segments", "places of bilevel positions, from scratch only; 0: none", kYes, 0, 0x1p20});
  visit(c.segment_separators, {"segment_separators", "which tokens end a segment, as `sep=`; empty: `text`"});
  visit(c.steps, {"steps", "steps of the optimizer; or", kYes, 0, kMany});
  visit(c.tokens, {"tokens", "in all, padding included, rounded up to whole steps: one of the two", kYes, 0, 0x1p50});
  visit(c.lengthened,
        {"lengthened", "of a run made longer: pairs, up to step A it was one of B steps; set by `--resume`"});
  visit(c.batch_tokens, {"batch_tokens", "tokens of a step, rounded to whole sequences", kYes, 1, 0x1p32});
  visit(
      c.micro_batch,
      {"micro_batch",
       "sequences run at once, gradients added up; 0: as many as keep activations in a cache, whatever `recompute` is",
       kYes, 0, kMany});
  visit(c.lr, {"lr", "highest learning rate; 0: `min(5e-3, 3e-3 (64 / width)^1.2)`", kYes, 0, 1e3});
  visit(c.schedule, {"schedule", "after the warmup: `constant`, `cosine`, `linear`, `wsd`"});
  visit(c.warmup, {"warmup", "steps in which the rate rises to `lr`", kYes, 0, kMany});
  visit(c.decay, {"decay", "share of the steps in which `wsd` falls", kYes, 0, 1});
  visit(c.min_lr_ratio, {"min_lr_ratio", "last rate over `lr`", kYes, 0, 1});
  visit(c.beta1, {"beta1", "AdamW", kYes, 0, 0.999999});
  visit(c.beta2, {"beta2", "AdamW", kYes, 0, 0.999999});
  visit(c.eps, {"eps", "AdamW", kYes, 0, 1});
  visit(c.weight_decay, {"weight_decay", "AdamW, of matrices; vectors are not decayed", kYes, 0, 1e3});
  visit(c.clip, {"clip", "largest global norm of the gradient; 0: not clipped", kYes, 0, 1e9});
  visit(c.seed, {"seed", "of weights from scratch, order of documents, cuts and draws", kYes, 0});
  visit(c.dtype, {"dtype", "of weights in use and activations, `f32` or `bf16`; weights of the optimizer are f32"});
  visit(
      c.recompute,
      {"recompute",
       "`layer` keeps less of each layer and computes it again in backward, to the same bits; `--resume` may change it",
       kNo});
  visit(c.overflow,
        {"overflow",
         "documents longer than the room left: `restart`, `split`, `drop`, `fit`, `best-fit` (docs/DATA.md)"});
  visit(c.lookahead, {"lookahead", "pieces that wait, `best-fit` only", kYes, 1, 0x1p20});
  visit(c.bos, {"bos",
                "BOS before each document of a variant without anchor: `auto` (the tokenizer's rule), `on` or `off`; "
                "`true` and `false` are `on` and `off`"});
  visit(c.eos, {"eos", "EOS after each document"});
  visit(c.anchor, {"anchor", "token ids of the anchor; empty: BOS, else EOS"});
  visit(c.min_document,
        {"min_document", "tokens, BOS or anchor included; shorter documents are dropped and counted", kYes, 1, 0x1p30});
  visit(c.first_token_from_anchor,
        {"first_token_from_anchor", "the anchor predicts the first token of every document"});
  visit(c.loss_rows, {"loss_rows", "`all`: rows at the borders of documents count too (docs/DATA.md)"});
  visit(c.train_only, {"train_only", "globs of tensors to train; empty: all, or none beside adapters"});
  visit(c.freeze, {"freeze", "globs of tensors left as they are"});
  visit(c.adapter, {"adapter", "folder of PEFT adapters to train further"});
  visit(c.lora_rank, {"lora_rank", "rank of adapters; 0: none", kYes, 0, 0x1p16});
  visit(c.lora_alpha, {"lora_alpha", "`W' = W + alpha / rank B A`", kYes, 0, 1e6});
  visit(c.lora_targets, {"lora_targets", "modules with adapters"});
  visit(c.upsample, {"upsample", "long documents more often: `none`, `global`, `per-source` (docs/DATA.md)"});
  visit(c.long_document, {"long_document", "tokens of what counts as long", kYes, 1, kMany});
  visit(c.short_keep, {"short_keep", "probability with which an epoch takes a shorter document", kYes, 0, 1});
  visit(c.checkpoint_every, {"checkpoint_every", "steps; 0: only at the end", kNo, 0, kMany});
  visit(c.keep, {"keep", "last checkpoints on disk; that with the lowest validation loss stays too", kNo, 1, kMany});
  visit(c.average_last, {"average_last", "the model saved is the mean of so many last checkpoints", kYes, 0, kMany});
  visit(c.log_every, {"log_every", "steps between lines of `metrics.jsonl`", kNo, 1, kMany});
  visit(c.validate_every, {"validate_every", "steps; 0: never", kNo, 0, kMany});
  visit(c.validate_sequences, {"validate_sequences", "sequences of the files held out that are scored", kNo, 1, kMany});
  visit(c.dims.vocab, {"model.vocab", "0: the tokenizer's"});
  visit(c.dims.width, {"model.width", "from scratch: needed"});
  visit(c.dims.layers, {"model.layers", "needed"});
  visit(c.dims.heads, {"model.heads", "needed"});
  visit(c.dims.kv_heads, {"model.kv_heads", "0: `heads`"});
  visit(c.dims.head_dim, {"model.head_dim", "0: `width / heads`"});
  visit(c.dims.mlp_width, {"model.mlp_width", "0: 8/3 `width`, rounded up to a multiple of 16"});
  visit(c.dims.theta, {"model.theta", "base of the rotations"});
  visit(c.dims.norm_eps, {"model.norm_eps", "of RMS norms"});
  visit(c.dims.tie_embeddings, {"model.tie_embeddings", "the head is the embedding"});
}

}  // namespace hawser
