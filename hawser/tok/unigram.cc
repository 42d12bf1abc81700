#include "hawser/tok/unigram.h"

#include <algorithm>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/printable.h"
#include "hawser/tok/utf8.h"

namespace hawser {

UnigramModel::UnigramModel(std::vector<Piece> pieces, double unknown) : pieces_(std::move(pieces)), unknown_(unknown) {
  for (const Piece& piece : pieces_) {
    if (piece.text.size() <= kLongest) continue;
    Fail(ErrorKind::kUnsupported, "the piece \"{}\" has {} bytes; at most {} are supported",
         PrintableLine(piece.text, 40), piece.text.size(), kLongest);
  }
  std::erase_if(pieces_, [](const Piece& piece) { return piece.text.empty(); });
  std::reverse(pieces_.begin(), pieces_.end());  // the last of equals comes first, and stays
  std::ranges::stable_sort(pieces_, {}, &Piece::text);
  const auto same = [](const Piece& a, const Piece& b) { return a.text == b.text; };
  pieces_.erase(std::unique(pieces_.begin(), pieces_.end(), same), pieces_.end());
  for (const Piece& piece : pieces_) ++first_byte_[static_cast<unsigned char>(piece.text[0]) + 1u];
  for (size_t b = 0; b < 256; ++b) first_byte_[b + 1] += first_byte_[b];
}

void UnigramModel::Cut(std::string_view text, const std::function<void(std::string_view, int32_t)>& sink) const {
  struct Node {  // the best way to what ends here
    double score = 0;
    size_t begin = std::string_view::npos;
    int32_t id = -1;
  };
  std::vector<Node> best(text.size() + 1);
  const auto offer = [&](size_t begin, size_t end, double score, int32_t id) {
    Node& node = best[end];
    if (node.begin == std::string_view::npos || score > node.score) node = {score, begin, id};
  };
  for (size_t at = 0, length = 0; at < text.size(); at += length) {
    length = std::max<size_t>(CodePointAt(text, at).length, 1);
    const double before = best[at].score;
    bool alone = false;  // a piece is this character
    auto begin = pieces_.begin() + static_cast<ptrdiff_t>(first_byte_[static_cast<unsigned char>(text[at])]);
    auto end = pieces_.begin() + static_cast<ptrdiff_t>(first_byte_[static_cast<unsigned char>(text[at]) + 1u]);
    // Pieces of [begin, end) share their first `depth` bytes with the text; the shortest of them stands first.
    for (size_t depth = 1; begin != end; ++depth) {
      if (begin->text.size() == depth) {
        offer(at, at + depth, before + begin->score, begin->id);
        alone = alone || depth == length;
        ++begin;
      }
      if (at + depth == text.size()) break;
      const auto next = static_cast<unsigned char>(text[at + depth]);
      const auto byte_at = [depth](const Piece& piece) { return static_cast<unsigned char>(piece.text[depth]); };
      begin = std::ranges::lower_bound(begin, end, next, {}, byte_at);
      end = std::ranges::upper_bound(begin, end, next, {}, byte_at);
    }
    if (!alone) offer(at, at + length, before + unknown_, -1);
  }
  std::vector<std::pair<size_t, size_t>> cuts;  // from the end
  for (size_t end = text.size(); end > 0;) {
    const size_t begin = best[end].begin;
    if (best[end].id < 0 && !cuts.empty() && best[cuts.back().second].id < 0) {
      cuts.back().first = begin;  // goes on with the run behind it
    } else {
      cuts.emplace_back(begin, end);
    }
    end = begin;
  }
  for (auto cut = cuts.rbegin(); cut != cuts.rend(); ++cut) {
    sink(text.substr(cut->first, cut->second - cut->first), best[cut->second].id);
  }
}

}  // namespace hawser
