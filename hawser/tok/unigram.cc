#include "hawser/tok/unigram.h"

#include <algorithm>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/printable.h"
#include "hawser/tok/utf8.h"

namespace hawser {

UnigramModel::UnigramModel(std::vector<Piece> pieces, double unknown) : unknown_(unknown) {
  for (const Piece& piece : pieces) {
    if (piece.text.size() <= kLongest) continue;
    Fail(ErrorKind::kUnsupported, "the piece \"{}\" has {} bytes; at most {} are supported",
         PrintableLine(piece.text, 40), piece.text.size(), kLongest);
  }
  pieces_ = PrefixSet<Piece, &Piece::text>(std::move(pieces));
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
    pieces_.ForEachAt(text, at, [&](const Piece& piece) {
      offer(at, at + piece.text.size(), before + piece.score, piece.id);
      alone = alone || piece.text.size() == length;
    });
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
