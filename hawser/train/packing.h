// train/packing.h - what a recipe says about documents and how they are packed.
#pragma once

#include "hawser/data/document_set.h"
#include "hawser/data/packer.h"
#include "hawser/data/upsample.h"
#include "hawser/tok/tokenizer.h"
#include "hawser/train/run.h"

namespace hawser {

/// Errors: kUsage (an anchor or EOS that neither recipe nor tokenizer gives, anchor ids outside the vocabulary).
PackOptions MakePackOptions(const TrainPlan& plan, const Tokenizer& tokenizer);

/// The documents to train on, with tags where the variant has them. Errors: LoadDocuments, DocumentSet::MakeTags.
DocumentSet TrainingDocuments(const TrainPlan& plan, const Tokenizer& tokenizer);

UpsampleOptions MakeUpsampleOptions(const TrainConfig& config);

}  // namespace hawser
