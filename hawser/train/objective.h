// train/objective.h - what a run minimises: cross-entropy, cross-entropy of tokens that count by what the far context
// tells about them, or that of tokens which are read through candidates (focus.h).
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "hawser/base/form.h"
#include "hawser/data/packer.h"
#include "hawser/model/decoder.h"
#include "hawser/train/focus.h"

namespace hawser {

struct PlainCe {
  static constexpr std::string_view kName = "ce", kHelp = "cross-entropy";
  template <class Visitor>
  void Fields(Visitor&&) {}
  bool operator==(const PlainCe&) const = default;
};

/// LongCE (arXiv:2410.23771): the weight of a token is multiplied by min(P(token | all before it) / P(token | the k to
/// k + delta - 1 tokens before it), most), no gradient through it, and the loss divided by the weights without that.
/// Tokens with less before them in their document keep their weight.
struct LongCe {
  static constexpr std::string_view kName = "longce",
                                    kHelp =
                                        "a token counts by how much likelier it is with all before it than with "
                                        "the nearest tokens (arXiv:2410.23771)";
  int64_t k = 4096, delta = 4096;
  double most = 5;

  template <class Visitor>
  void Fields(Visitor&& v) {
    v(k, {"k", "nearest tokens, at least", 1, 1 << 30});
    v(delta, {"delta", "tokens that a short pass scores, the last with k + delta - 1 before it", 1, 1 << 30});
    v(most, {"most", "the greatest gain", 1, 1e6});
  }
  bool operator==(const LongCe&) const = default;
};

using Objective = std::variant<PlainCe, LongCe, FocusLoss>;

/// Errors: ParseForm. An empty text is ce.
Objective ParseObjective(std::string_view text);

/// What the short passes of a step cost.
struct ShortPasses {
  int64_t rows = 0, visible_pairs = 0;
};

/// For each row of `sequences`, one after the other, the nats of its target without the far context; NaN where it has
/// no target of any weight, or too little before it. Windows of documents (data/windows.h) run behind the anchors that
/// the pattern shares, their positions shifted to begin there, about `rows_at_once` rows in a batch.
std::vector<float> ShortContextNats(Decoder* decoder, std::span<const PackedSequence> sequences,
                                    const LayeredPattern& pattern, const LongCe& long_ce, int64_t rows_at_once,
                                    ShortPasses* passes);

/// The layouts of those windows, which say what they cost before any of them runs.
std::vector<TokenLayout> ShortLayouts(std::span<const PackedSequence> sequences, const LayeredPattern& pattern,
                                      const LongCe& long_ce);

}  // namespace hawser
