// train/run_text.h - the text of a run, once its tokenizer is there.
#pragma once

#include "hawser/tok/tokenizer.h"
#include "hawser/train/run.h"

namespace hawser {

/// Errors: kUsage where there is none, or one with more ids than the model has.
void CheckTokenizer(const TrainPlan& plan, const Tokenizer* tokenizer);

/// Errors: kUsage where the text fills no context, or has no document that the objective could use; those of
/// TrainingDocuments.
RunText ReadRunText(const TrainPlan& plan, const Tokenizer& tokenizer);

}  // namespace hawser
