// tok/unigram.h - the unigram language model of subwords (arXiv:1804.10959): a text is cut into the pieces whose
// probabilities have the greatest product.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/tok/prefix_set.h"

namespace hawser {

class UnigramModel {
 public:
  struct Piece {
    std::string text;
    double score = 0;  // log of its probability
    int32_t id = 0;
  };

  UnigramModel() = default;
  /// Of pieces with the same text the last one counts. What no piece covers costs `unknown` a character, a score below
  /// all others. Errors: kUnsupported for a piece longer than kLongest.
  UnigramModel(std::vector<Piece> pieces, double unknown);

  static constexpr size_t kLongest = 1024;  // bytes of a piece: encoding takes that much work a byte at most

  bool empty() const { return pieces_.empty(); }

  /// Gives `sink` the pieces in their order; runs of characters that none covers as one, with the id -1. Of equal
  /// products the one wins whose piece begins first, and then the shorter piece. `text` is UTF-8.
  void Cut(std::string_view text, const std::function<void(std::string_view piece, int32_t id)>& sink) const;

 private:
  PrefixSet<Piece, &Piece::text> pieces_;
  double unknown_ = 0;
};

}  // namespace hawser
