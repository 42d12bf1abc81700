// data/loader.h - an endless, shuffled, resumable stream of packed sequences.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/rng.h"
#include "hawser/data/document_set.h"
#include "hawser/data/packer.h"
#include "hawser/data/upsample.h"

namespace hawser {

/// What the sequences taken so far hold of a source of a mixture.
struct SourceTokens {
  std::string name;
  double share = 0;       // of all tokens, as its weight says
  int64_t documents = 0;  // that it has
  int64_t tokens = 0;     // of text taken
  double epochs = 0;      // how often that is the whole source
};

/// Every epoch packs its documents (all of them, or what up-sampling draws) in an order that depends on (seed, epoch)
/// alone, and draws its sequences from a window of the next ones, so that the pieces of one long document do not follow
/// each other. The state of the stream is its seed and the number of sequences taken: Skip(n) after construction gives
/// the same stream as n calls of Next. The last, partial sequence of an epoch follows options.keep_partial.
///
/// Of a mixture each source is such a stream of its own, but that its next epoch begins where the last one ends, in the
/// same sequence. The next sequence is of the source with the fewest tokens of text taken over its weight (the first of
/// equals): at any moment the tokens of a source are off its share by a sequence at most. An epoch then has the tokens
/// of all documents together.
class Loader {
 public:
  // Of the window, in ids that wait: wide enough that the pieces of one long document come far apart.
  static constexpr int64_t kWindowTokens = int64_t{1} << 22;

  /// `documents` outlives the loader; a mixture is not up-sampled. Errors: kUsage, also when a whole epoch fills no
  /// sequence, or nothing of a source can be trained on.
  Loader(const DocumentSet* documents, PackOptions options, uint64_t seed, UpsampleOptions upsample = {});

  void Next(PackedSequence* out);
  /// The same, but false at the end of the epoch.
  bool NextOfEpoch(PackedSequence* out);
  /// Packs and throws away `n` sequences.
  void Skip(int64_t n);

  int64_t sequence() const { return sequence_; }  // number of the next one
  int64_t epoch() const { return epoch_; }        // that the next one is sought in, from 0
  PackCounts counts() const;        // of this epoch so far, the window included; of a mixture, of all epochs
  PackCounts total_counts() const;  // of all epochs so far, the window included
  const std::vector<DrawCounts>& draw_counts() const { return draw_counts_; }  // of this epoch, by source
  std::vector<SourceTokens> source_tokens() const;                             // empty without a mixture

 private:
  /// A source of a mixture.
  Loader(const DocumentSet* documents, PackOptions options, uint64_t seed, const MixtureSource* source);
  void BeginEpoch();
  void GoOn();
  bool Pack();
  bool NextOfMixture(PackedSequence* out);

  const DocumentSet* documents_;
  PackOptions options_;
  UpsampleOptions upsample_;
  std::vector<std::unique_ptr<Loader>> sources_;  // of a mixture
  int64_t text_tokens_ = 0;                       // taken
  PackCounts finished_;                           // epochs
  std::vector<DrawCounts> draw_counts_;
  uint64_t seed_;
  const MixtureSource* source_ = nullptr;  // that this is the stream of
  int64_t epoch_ = 0;
  int64_t sequence_ = 0;
  size_t cursor_ = 0;
  std::vector<uint32_t> order_;
  std::unique_ptr<Packer> packer_;
  std::vector<PackedSequence> window_;
  Rng draws_;  // from the window
};

}  // namespace hawser
