// data/loader.h - an endless, shuffled, resumable stream of packed sequences.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "hawser/base/rng.h"
#include "hawser/data/document_set.h"
#include "hawser/data/packer.h"
#include "hawser/data/upsample.h"

namespace hawser {

/// Every epoch packs its documents (all of them, or what up-sampling draws) in an order that depends on (seed, epoch)
/// alone, and draws its sequences from a window of the next ones, so that the pieces of one long document do not follow
/// each other. The state of the stream is its seed and the number of sequences taken: Skip(n) after construction gives
/// the same stream as n calls of Next. The last, partial sequence of an epoch follows options.keep_partial.
class Loader {
 public:
  // Of the window, in ids that wait: wide enough that the pieces of one long document come far apart.
  static constexpr int64_t kWindowTokens = int64_t{1} << 22;

  /// `documents` outlives the loader. Errors: kUsage, also when a whole epoch fills no sequence.
  Loader(const DocumentSet* documents, PackOptions options, uint64_t seed, UpsampleOptions upsample = {});

  void Next(PackedSequence* out);
  /// The same, but false at the end of the epoch.
  bool NextOfEpoch(PackedSequence* out);
  /// Packs and throws away `n` sequences.
  void Skip(int64_t n);

  int64_t sequence() const { return sequence_; }                  // number of the next one
  int64_t epoch() const { return epoch_; }                        // that the next one is sought in, from 0
  const PackCounts& counts() const { return packer_->counts(); }  // of this epoch so far, the window included
  const std::vector<DrawCounts>& draw_counts() const { return draw_counts_; }  // of this epoch, by source
  PackCounts total_counts() const;  // of all epochs so far, the window included

 private:
  void BeginEpoch();
  bool Pack();

  const DocumentSet* documents_;
  PackOptions options_;
  UpsampleOptions upsample_;
  PackCounts finished_;  // epochs
  std::vector<DrawCounts> draw_counts_;
  uint64_t seed_;
  int64_t epoch_ = 0;
  int64_t sequence_ = 0;
  size_t cursor_ = 0;
  std::vector<uint32_t> order_;
  std::unique_ptr<Packer> packer_;
  std::vector<PackedSequence> window_;
  Rng draws_;  // from the window
};

}  // namespace hawser
