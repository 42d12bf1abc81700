#include "hawser/train/packing.h"

#include "hawser/base/error.h"
#include "hawser/data/corpus.h"
#include "hawser/tok/separators.h"

namespace hawser {

PackOptions MakePackOptions(const TrainPlan& plan, const Tokenizer& tokenizer) {
  const TrainConfig& config = plan.config;
  const ModelSpec& spec = plan.spec;
  PackOptions options;
  options.length = static_cast<int32_t>(spec.context);
  options.variant = plan.variant;
  options.overflow = config.overflow;
  options.lookahead = static_cast<int32_t>(config.lookahead);
  options.min_document = static_cast<int32_t>(config.min_document);
  options.first_token_from_anchor = config.first_token_from_anchor;
  const int32_t eos = tokenizer.eos() >= 0 ? tokenizer.eos() : spec.eos.empty() ? -1 : spec.eos.front();
  const int32_t bos = tokenizer.bos() >= 0 ? tokenizer.bos() : spec.bos;
  if (config.bos) options.bos = bos;
  if (config.eos) {
    if (eos < 0) Fail(ErrorKind::kUsage, "eos = true, but neither tokenizer nor model has an end-of-text token");
    options.eos = eos;
  }
  for (const int64_t id : config.anchor) {
    if (id < 0 || id >= spec.vocab) Fail(ErrorKind::kUsage, "anchor id {} is outside [0, {})", id, spec.vocab);
    options.anchor.push_back(static_cast<int32_t>(id));
  }
  const int32_t anchors = plan.variant.multi_bos ? 1 : plan.variant.pattern.anchors;
  if (anchors > 0 && options.anchor.empty()) {
    const int32_t anchor = bos >= 0 ? bos : eos;  // a vocabulary without BOS keeps documents apart by EOS
    if (anchor < 0) Fail(ErrorKind::kUsage, "the anchor needs token ids: set the recipe key \"anchor\"");
    options.anchor.assign(static_cast<size_t>(anchors), anchor);
  }
  if (plan.variant.pattern.separators) {
    options.separators = ModelSeparators(&tokenizer, plan.variant.pattern.separator_set, spec.vocab);
  }
  return options;
}

DocumentSet TrainingDocuments(const TrainPlan& plan, const Tokenizer& tokenizer) {
  DocumentSet documents = LoadDocuments(plan.files.train, tokenizer);
  if (plan.variant.tags) documents.MakeTags(tokenizer);
  return documents;
}

UpsampleOptions MakeUpsampleOptions(const TrainConfig& config) {
  return {.kind = config.upsample, .long_tokens = config.long_document, .short_keep = config.short_keep};
}

}  // namespace hawser
