#include "hawser/eval/score_plan.h"

#include <algorithm>

#include "hawser/base/error.h"

namespace hawser {
namespace {

using Ids = std::span<const int32_t>;

constexpr int64_t kLeastShare = 16;  // neighbours join where that saves at least 1/16 of the rows of the later one

size_t CommonPrefix(Ids a, Ids b) { return static_cast<size_t>(std::ranges::mismatch(a, b).in1 - a.begin()); }

/// Texts of neighbouring owners that may share a stem.
struct Cluster {
  size_t begin = 0, end = 0;     // texts
  std::vector<size_t> inputs;    // the text that stands for each distinct input
  std::vector<size_t> input_of;  // [end - begin] in inputs
  size_t stem = 0, read = 0;     // tokens that all inputs begin with, and tokens of all inputs

  int64_t rows() const { return static_cast<int64_t>(stem + read - stem * inputs.size()); }
};

Cluster OfOwner(std::span<const ScoredText> texts, size_t begin) {
  Cluster cluster{.begin = begin, .end = begin};
  for (; cluster.end < texts.size() && texts[cluster.end].owner == texts[begin].owner; ++cluster.end) {
    const Ids input = texts[cluster.end].input();
    size_t same = 0;
    while (same < cluster.inputs.size() && !std::ranges::equal(texts[cluster.inputs[same]].input(), input)) ++same;
    cluster.input_of.push_back(same);
    if (same < cluster.inputs.size()) continue;
    const size_t common = CommonPrefix(texts[begin].input(), input);
    cluster.stem = cluster.inputs.empty() ? common : std::min(cluster.stem, common);
    cluster.inputs.push_back(cluster.end);
    cluster.read += input.size();
  }
  return cluster;
}

Cluster Joined(std::span<const ScoredText> texts, const Cluster& a, const Cluster& b) {
  Cluster joined = a;
  joined.end = b.end;
  joined.stem = std::min({a.stem, b.stem, CommonPrefix(texts[a.begin].input(), texts[b.begin].input())});
  joined.read += b.read;
  joined.inputs.insert(joined.inputs.end(), b.inputs.begin(), b.inputs.end());
  for (const size_t input : b.input_of) joined.input_of.push_back(a.inputs.size() + input);
  return joined;
}

ScoreUnit Lay(std::span<const ScoredText> texts, const Cluster& cluster, bool share) {
  ScoreUnit unit{.first_owner = texts[cluster.begin].owner, .last_owner = texts[cluster.end - 1].owner};
  const bool branched = share && cluster.inputs.size() > 1 && cluster.stem > 0;
  const size_t stem = branched ? cluster.stem : 0;
  std::vector<size_t> sequence_of, base;  // of inputs: row r >= stem is row base + r
  for (const size_t text : cluster.inputs) {
    const Ids input = texts[text].input();
    if (unit.sequences.empty() || !branched) {
      unit.sequences.push_back({.ids = std::vector(input.begin(), input.begin() + static_cast<int64_t>(stem)),
                                .stem = static_cast<int32_t>(stem)});
    }
    ScoreSequence& sequence = unit.sequences.back();
    sequence_of.push_back(unit.sequences.size() - 1);
    base.push_back(sequence.ids.size() - stem);
    sequence.ids.insert(sequence.ids.end(), input.begin() + static_cast<int64_t>(stem), input.end());
    if (branched && input.size() > stem) sequence.branches.push_back(static_cast<int32_t>(input.size() - stem));
  }
  for (size_t text = cluster.begin; text < cluster.end; ++text) {
    const size_t input = cluster.input_of[text - cluster.begin];
    const std::vector<int32_t>& ids = texts[text].ids;
    for (size_t row = ids.size() - 1 - static_cast<size_t>(texts[text].scored); row + 1 < ids.size(); ++row) {
      const size_t place = row < stem ? row : base[input] + row;
      unit.sequences[sequence_of[input]].targets.push_back({static_cast<int32_t>(place), ids[row + 1], text});
    }
  }
  return unit;
}

}  // namespace

int64_t ScoreUnit::rows() const {
  int64_t sum = 0;
  for (const ScoreSequence& sequence : sequences) sum += sequence.rows();
  return sum;
}

std::vector<ScoreUnit> PlanScoring(std::span<const ScoredText> texts, const ScorePlanOptions& options) {
  std::vector<ScoreUnit> units;
  Cluster current;
  for (size_t begin = 0; begin < texts.size();) {
    const Cluster next = OfOwner(texts, begin);
    begin = next.end;
    if (current.end > current.begin && options.share) {
      Cluster joined = Joined(texts, current, next);
      const int64_t saved = current.rows() + next.rows() - joined.rows();
      if (kLeastShare * saved >= next.rows() && saved > 0 && joined.rows() <= options.most_rows) {
        current = std::move(joined);
        continue;
      }
    }
    if (current.end > current.begin) units.push_back(Lay(texts, current, options.share));
    current = next;
  }
  if (current.end > current.begin) units.push_back(Lay(texts, current, options.share));
  return units;
}

}  // namespace hawser
