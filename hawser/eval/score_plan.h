// eval/score_plan.h - texts to score, laid out for the decoder so that what several of them begin with is computed
// once.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace hawser {

/// ids [n >= 2]: all but the last are read, the last `scored` (1 ... n - 1) are predicted.
struct ScoredText {
  std::vector<int32_t> ids;
  int64_t scored = 0;
  size_t owner = 0;  // ascending; texts of one owner stay together

  std::span<const int32_t> input() const { return std::span(ids).first(ids.size() - 1); }
};

/// A stem and branches behind it, none of which sees another: row r of a branch stands behind the whole stem at
/// position stem + r. Without branches it is a plain sequence.
struct ScoreSequence {
  std::vector<int32_t> ids;       // the stem, then the branches one behind another
  int32_t stem = 0;               // 0: no branches
  std::vector<int32_t> branches;  // their lengths, each >= 1
  struct Target {
    int32_t row = 0;    // in ids
    int32_t token = 0;  // predicted there
    size_t text = 0;
  };
  std::vector<Target> targets;

  int64_t rows() const { return static_cast<int64_t>(ids.size()); }
};

struct ScorePlanOptions {
  bool share = true;         // false: only texts that read the same are computed together
  int64_t most_rows = 4096;  // of a sequence that texts of several owners share
};

/// Every text, its owners in order. Texts of one owner share what all of them begin with; neighbours join where that
/// saves a fair share of rows. Depends on the texts alone.
struct ScoreUnit {
  size_t first_owner = 0, last_owner = 0;  // both in it
  std::vector<ScoreSequence> sequences;

  int64_t rows() const;
};
std::vector<ScoreUnit> PlanScoring(std::span<const ScoredText> texts, const ScorePlanOptions& options);

}  // namespace hawser
