#include "hawser/train/packing.h"

#include <utility>

#include "hawser/base/error.h"
#include "hawser/data/corpus.h"
#include "hawser/tok/separators.h"

namespace hawser {

PackOptions MakePackOptions(const TrainPlan& plan, const Tokenizer& tokenizer) {
  const TrainConfig& config = plan.config;
  const ModelSpec& spec = plan.spec;
  PackOptions options;
  options.length = static_cast<int32_t>(plan.sequence_tokens());
  options.variant = plan.variant;
  options.positions = plan.positions;
  options.reach = spec.context;
  options.overflow = config.overflow;
  options.lookahead = static_cast<int32_t>(config.lookahead);
  options.min_document = static_cast<int32_t>(config.min_document);
  options.first_token_from_anchor = config.first_token_from_anchor;
  options.loss_rows = config.loss_rows;
  const int32_t eos = tokenizer.eos() >= 0 ? tokenizer.eos() : spec.eos.empty() ? -1 : spec.eos.front();
  const int32_t bos = tokenizer.bos() >= 0 ? tokenizer.bos() : spec.bos;
  if (config.bos == BosRule::kOn && bos < 0) {
    Fail(ErrorKind::kUsage,
         "bos = \"on\", but neither tokenizer nor model has a BOS token; \"auto\" and \"off\" need none");
  }
  if (config.bos == BosRule::kOn) options.bos = bos;
  if (config.bos == BosRule::kAuto) {
    const std::vector<int32_t> prefix = TextPrefix(tokenizer);
    if (prefix.size() > 1) {
      Fail(ErrorKind::kUnsupported, "the tokenizer begins a text with {} tokens, a document takes one at most; set bos",
           prefix.size());
    }
    if (!prefix.empty()) options.bos = prefix.front();
  }
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
    // On purpose BOS even where the tokenizer puts none before a text: the anchor is a token that all documents see.
    const int32_t anchor = bos >= 0 ? bos : eos;
    if (anchor < 0) Fail(ErrorKind::kUsage, "the anchor needs token ids: set the recipe key \"anchor\"");
    options.anchor.assign(static_cast<size_t>(anchors), anchor);
  }
  if (plan.variant.pattern.separators) {
    options.separators = ModelSeparators(&tokenizer, plan.variant.pattern.separator_set, spec.vocab);
  }
  return options;
}

std::string PrefixText(const PackOptions& options, const TrainPlan& plan, const Tokenizer& tokenizer) {
  const auto shown = [&](int32_t id) {
    return id < tokenizer.vocab_size() ? fmt::format("{} (id {})", tokenizer.Display(id), id)
                                       : fmt::format("id {}", id);
  };
  if (options.anchor.empty()) {
    if (options.bos < 0) return fmt::format("no token before a document (bos = \"{}\")", Name(plan.config.bos));
    return fmt::format("{} before each document (bos = \"{}\")", shown(options.bos), Name(plan.config.bos));
  }
  std::string text = "anchor token";
  for (size_t i = 0; i < options.anchor.size(); ++i) text += (i > 0 ? ", " : " ") + shown(options.anchor[i]);
  text += plan.config.anchor.empty() ? ", the vocabulary's" : ", as the key anchor says";
  const std::vector<int32_t> own = tokenizer.prefix();
  if (own != options.anchor) {
    text += own.empty() ? "; the tokenizer puts no token before a text, so serve the model with --bos on"
                        : fmt::format("; the tokenizer puts {} before a text", shown(own.front()));
  }
  return text;
}

DocumentSet TrainingDocuments(const TrainPlan& plan, const Tokenizer& tokenizer) {
  DocumentSet documents;
  if (plan.source_files.empty()) AddDocuments(plan.files.train, tokenizer, &documents);
  for (size_t s = 0; s < plan.source_files.size(); ++s) {
    const SourceConfig& source = plan.config.sources[s];
    documents.BeginSource(source.name, source.weight);
    WithFrame(fmt::format("source \"{}\"", source.name),
              [&] { AddDocuments(plan.source_files[s], tokenizer, &documents); });
  }
  if (plan.variant.tags) documents.MakeTags(tokenizer);
  return documents;
}

UpsampleOptions MakeUpsampleOptions(const TrainConfig& config) {
  return {.kind = config.upsample, .long_tokens = config.long_document, .short_keep = config.short_keep};
}

ValidationSet MakeValidationSet(const TrainPlan& plan, const Tokenizer& tokenizer) {
  ValidationSet set{.pattern = plan.variant.pattern};
  set.pattern.scope = Scope::kDocument;
  if (std::exchange(set.pattern.anchors, 0) > 0) ++set.pattern.sinks;

  PackOptions options = MakePackOptions(plan, tokenizer);
  options.variant = {.pattern = set.pattern, .reset_positions = true};
  if (options.bos < 0 && !options.anchor.empty()) options.bos = options.anchor.back();
  options.anchor.clear();
  if (!IsPlain(plan.positions)) options.length = static_cast<int32_t>(plan.spec.context);
  options.positions = {};
  options.first_token_from_anchor = false;
  options.loss_rows = LossRows::kDocument;
  options.overflow = Overflow::kRestart;
  const std::vector<std::filesystem::path>& files = plan.files.validation;
  const DocumentSet documents = LoadDocuments(files, tokenizer);
  Packer packer(options);
  for (int64_t d = 0; d < documents.size(); ++d) packer.Add(documents.Get(d));
  packer.Finish();
  PackedSequence sequence;
  float weight = 0;
  while (static_cast<int64_t>(set.sequences.size()) < plan.config.validate_sequences && packer.Next(&sequence)) {
    for (const Segment& segment : sequence.segments) {
      if (segment.bos_tokens > 0) sequence.weights[segment.begin] = 0;
    }
    for (const float w : sequence.weights) weight += w;
    set.sequences.push_back(std::move(sequence));
  }
  if (weight == 0) {
    Fail(ErrorKind::kUsage,
         "nothing to validate on: {} held out files from {} hold no document of {} tokens or more with a token to "
         "predict",
         files.size(), files.front().string(), options.min_document);
  }
  return set;
}

}  // namespace hawser
