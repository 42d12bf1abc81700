#include "hawser/train/run_text.h"

#include <algorithm>
#include <memory>
#include <variant>

#include "hawser/base/error.h"
#include "hawser/base/size.h"
#include "hawser/train/packing.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

/// Errors: kUsage where all of the text, with what packing puts before and after documents, fills no context.
void CheckText(const DocumentSet& documents, const PackOptions& pack) {
  int64_t tokens = pack.variant.pattern.anchors;
  for (int64_t d = 0; d < documents.size() && tokens < pack.length; ++d) {
    tokens += PackedTokens(pack, documents.length(d), documents.tag_tokens(d));
  }
  if (tokens >= pack.length) return;
  Fail(ErrorKind::kUsage,
       "the data hold {} in {}, less than one context of {}{}; give more text or a shorter --context",
       Counted(documents.tokens(), "token"), Counted(documents.size(), "document"), pack.length,
       tokens == documents.tokens() ? "" : fmt::format(" ({} with BOS, anchor, tags and EOS)", tokens));
}

/// Errors: kUsage where no document is long enough for the objective to tell far context from near.
void CheckObjective(const TrainPlan& plan, const DocumentSet& documents, const PackOptions& pack) {
  if (std::holds_alternative<PlainCe>(plan.objective)) return;
  const LongCe* long_ce = std::get_if<LongCe>(&plan.objective);
  const FocusLoss* focus = std::get_if<FocusLoss>(&plan.objective);
  // What a document has to be longer than. A window may be shorter than its least where the text is.
  const int64_t wanted =
      long_ce != nullptr ? long_ce->k + long_ce->delta : *std::ranges::min_element(focus->targets) + 1;
  int64_t longest = 0;
  for (int64_t d = 0; d < documents.size() && longest <= wanted; ++d) {
    longest = std::max(longest, PackedTokens(pack, documents.length(d), documents.tag_tokens(d)));
  }
  if (longest > wanted) return;
  if (focus != nullptr) {
    Fail(ErrorKind::kUsage,
         "objective = \"{}\": the longest document has {} tokens, which leaves no memory beside a window and the "
         "targets; give longer documents",
         plan.config.objective, longest);
  }
  Fail(ErrorKind::kUsage,
       "objective = \"{}\": the longest document has {} tokens, k + delta are {}: no token has a far context; give "
       "longer documents or smaller k and delta",
       plan.config.objective, longest, wanted);
}

/// Errors: kUsage where SkipAlign finds no point to skip at in any document, so that no sequence reaches the context.
void CheckPositions(const TrainPlan& plan, const DocumentSet& documents) {
  constexpr int64_t kMost = 4096;  // documents that are looked at: each is read for it
  if (!std::holds_alternative<SkipAlign>(plan.positions) || documents.size() > kMost) return;
  const auto trained = [](float weight) { return weight > 0; };
  for (int64_t d = 0; d < documents.size(); ++d) {
    const std::vector<float> weights = documents.Get(d).weights;
    if (std::ranges::any_of(weights, trained) && !std::ranges::all_of(weights, trained)) return;
  }
  Fail(ErrorKind::kUsage,
       "positions = \"{}\": no document has parts with and without loss, so there is no point to skip at; give prompts "
       "with completions, or take pose",
       plan.config.positions);
}

}  // namespace

void CheckTokenizer(const TrainPlan& plan, const Tokenizer* tokenizer) {
  if (tokenizer == nullptr) {
    Fail(ErrorKind::kUsage, "{}: brings no tokenizer; give one with --tokenizer", plan.config.model);
  }
  if (tokenizer->vocab_size() > plan.spec.vocab) {
    Fail(ErrorKind::kUsage, "the tokenizer has {} ids, the model {}; give the model's own with --tokenizer",
         tokenizer->vocab_size(), plan.spec.vocab);
  }
}

RunText ReadRunText(const TrainPlan& plan, const Tokenizer& tokenizer) {
  RunText text{.documents = TrainingDocuments(plan, tokenizer),
               .pack = MakePackOptions(plan, tokenizer),
               .upsample = MakeUpsampleOptions(plan.config)};
  CheckText(text.documents, text.pack);
  CheckObjective(plan, text.documents, text.pack);
  CheckPositions(plan, text.documents);
  return text;
}

RunText ReadRunText(const TrainPlan& plan) {
  const std::shared_ptr<Tokenizer> tokenizer =
      plan.config.model.empty() ? plan.tokenizer : InspectModel(plan.config.model, plan.config.tokenizer).tokenizer;
  CheckTokenizer(plan, tokenizer.get());
  return ReadRunText(plan, *tokenizer);
}

}  // namespace hawser
