// data/pack_report.h - what packing does to a corpus, and what the mask saves.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <string>
#include <vector>

#include "hawser/data/loader.h"

namespace hawser {

/// One line for people: what went in and out, and everything dropped, by reason.
std::string Summary(const PackCounts& counts);
nlohmann::json ToJson(const PackCounts& counts);

/// The same of a mixture: tokens, share found and wanted, and epochs of each source.
std::string Summary(const std::vector<SourceTokens>& sources);
nlohmann::json ToJson(const std::vector<SourceTokens>& sources);

/// Of an epoch. Pairs and tiles may be of its first sequences only; `counts` is of all that was packed for them.
struct PackReport {
  struct Bucket {  // documents of [begin, end) tokens
    int64_t begin = 0, end = 0, documents = 0, tokens = 0;
  };
  struct Source {
    std::string name;
    DrawCounts counts;
  };
  int64_t context = 0;
  std::string attention;
  int64_t documents = 0, tokens = 0;  // of the whole data
  double mean_length = 0;             // tokens of a document
  double weighted_length = 0;         // of the document that a token stands in: sum n^2 / sum n
  std::vector<Bucket> histogram;      // ends at powers of two, the first and last one not empty
  std::vector<Source> sources;        // but for a mixture
  PackCounts counts;
  std::vector<SourceTokens> mixture;  // of the sequences measured; empty: no mixture
  int64_t targets = 0;                // rows of them with a target of some loss weight

  std::string map;                  // of positions; empty: none
  int64_t mapped = 0, unmoved = 0;  // texts of the sequences measured, as PackedSequence has them
  int64_t last_position = 0;        // the greatest in them
  struct Run {
    int64_t document = 0;         // of the layout: 0 the first, an anchor included
    int64_t first = 0, last = 0;  // positions, one behind the other
  };
  std::vector<Run> first_sequence;  // padding left out

  int64_t measured = 0;      // sequences that the following count
  int64_t pairs = 0;         // visible (query, key) pairs, as schedules count them
  int64_t causal_pairs = 0;  // of the same sequences without a mask
  int64_t tiles = 0;         // of 64 x 64 that kernels visit
  int64_t causal_tiles = 0;
  /// pairs / causal_pairs as the lengths of the documents drawn predict it, a document longer than the context counted
  /// as pieces of a context and a rest, and sequences as full: with m = n for intra and for documents behind an anchor
  /// of A tokens, m = n + A with copies of it, (sum m (m + 1) / 2 / sum m + A) / ((L + 1) / 2), A = 0 but for a shared
  /// anchor. 1 for a pattern of one document, negative where a window or the like limits a document's own attention.
  double expected_density = 1;

  double density() const { return Ratio(pairs, causal_pairs); }
  double tile_density() const { return Ratio(tiles, causal_tiles); }
  static double Ratio(int64_t part, int64_t whole) {
    return whole > 0 ? static_cast<double>(part) / static_cast<double>(whole) : 1.0;
  }
};

/// The runs of consecutive positions of a sequence, documents apart.
std::vector<PackReport::Run> PositionRuns(const PackedSequence& sequence);

/// Packs an epoch as a Loader of `seed` does; `max_sequences` > 0: measures no more of them. Where layers differ, pairs
/// and tiles are the mean over `layers` layers; `own` as in PatternsOfLayers. Errors: as Loader, and
/// LayeredPattern::OfLayer.
PackReport MeasurePacking(const DocumentSet& documents, const PackOptions& options, uint64_t seed,
                          const UpsampleOptions& upsample = {}, int64_t max_sequences = 0, int32_t layers = 1,
                          const LayeredPattern& own = {});

nlohmann::json ToJson(const PackReport& report);
std::string ToText(const PackReport& report);

}  // namespace hawser
