// data/upsample.h - which documents an epoch takes: all of them, or long ones more often than short ones.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hawser/data/document_set.h"

namespace hawser {

/// Length up-sampling (arXiv:2402.10171 section 3). Each epoch
///   kNone       takes every document once
///   kGlobal     keeps every document of `long_tokens` tokens or more, and each shorter one with probability
///               `short_keep`, drawn anew every epoch
///   kPerSource  keeps documents in the same way, and then gives each source the share of tokens that it has in the
///               whole data: of the N tokens kept over all sources, a source with the share s gets s N. It takes its
///               kept documents in a shuffled order until it has its budget (the last document may exceed it), from the
///               start again, shuffled anew, where they are used up: long documents of a source that has few of them
///               are repeated. A source that keeps none takes from all its documents
enum class Upsample : uint8_t { kNone, kGlobal, kPerSource };

struct UpsampleOptions {
  Upsample kind = Upsample::kNone;
  int64_t long_tokens = 4096;
  double short_keep = 0.1;

  bool operator==(const UpsampleOptions&) const = default;
};

/// Of one source in one epoch, in tokens. tokens + repeated = drawn + left_short + left_budget.
struct DrawCounts {
  int64_t documents = 0;    // that it has
  int64_t tokens = 0;       // that it has
  int64_t drawn = 0;        // that the epoch takes, repetitions included
  int64_t left_short = 0;   // of short documents not kept
  int64_t left_budget = 0;  // of documents kept, and left when the budget was reached
  int64_t repeated = 0;     // taken a second time or more
};

/// Numbers of the documents of an epoch, ascending; depends on (documents, options, seed, epoch) alone.
/// `counts`, if given, gets one entry a source. Errors: kUsage if nothing is drawn from documents that have tokens.
std::vector<uint32_t> DrawDocuments(const DocumentSet& documents, const UpsampleOptions& options, uint64_t seed,
                                    uint64_t epoch, std::vector<DrawCounts>* counts = nullptr);

}  // namespace hawser
