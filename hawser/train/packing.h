// train/packing.h - what a recipe says about documents and how they are packed.
#pragma once

#include <string>
#include <vector>

#include "hawser/data/document_set.h"
#include "hawser/data/packer.h"
#include "hawser/data/upsample.h"
#include "hawser/tok/tokenizer.h"
#include "hawser/train/run.h"

namespace hawser {

/// Errors: kUsage (an anchor or EOS that neither recipe nor tokenizer gives, anchor ids outside the vocabulary).
PackOptions MakePackOptions(const TrainPlan& plan, const Tokenizer& tokenizer);

/// The documents to train on, with tags where the variant has them. Errors: LoadDocuments, DocumentSet::MakeTags.
/// Which tokens stand before the documents and why, a line for people.
std::string PrefixText(const PackOptions& options, const TrainPlan& plan, const Tokenizer& tokenizer);

DocumentSet TrainingDocuments(const TrainPlan& plan, const Tokenizer& tokenizer);

UpsampleOptions MakeUpsampleOptions(const TrainConfig& config);

/// What the first validate_sequences sequences of the held out files are packed into, and read with. The same tokens
/// count whatever the variant of training: each document (or as much of it as a sequence holds) is alone, as the model
/// is served: behind one BOS (where there is none, behind the last token of the anchor), at positions from 0, not
/// seeing other documents; windows, pinned tokens and layers as in training, anchors as sinks. The first token of a
/// document, which only some variants learn from BOS, does not count. Errors: kUsage where the files hold nothing to
/// count.
struct ValidationSet {
  LayeredPattern pattern;
  std::vector<PackedSequence> sequences;
};
ValidationSet MakeValidationSet(const TrainPlan& plan, const Tokenizer& tokenizer);

}  // namespace hawser
