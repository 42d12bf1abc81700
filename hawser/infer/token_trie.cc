#include "hawser/infer/token_trie.h"

#include <algorithm>
#include <string>
#include <utility>

namespace hawser {

TokenTrie::TokenTrie(const Tokenizer& tokenizer) : vocab_(tokenizer.vocab_size()) {
  std::vector<std::pair<std::string, int32_t>> pieces;
  for (int32_t id = 0; id < vocab_; ++id) {
    std::string piece = tokenizer.Piece(id);
    if (!piece.empty()) pieces.emplace_back(std::move(piece), id);
  }
  std::ranges::sort(pieces);
  std::vector<int32_t> path;  // nodes from the first byte to where we are
  std::string before;
  const auto leave = [&](size_t depth) {
    for (; path.size() > depth; path.pop_back()) {
      nodes_[static_cast<size_t>(path.back())].end = static_cast<int32_t>(nodes_.size());
    }
  };
  for (const auto& [piece, id] : pieces) {
    const auto common = static_cast<size_t>(std::ranges::mismatch(before, piece).in1 - before.begin());
    leave(common);
    for (size_t i = common; i < piece.size(); ++i) {
      path.push_back(static_cast<int32_t>(nodes_.size()));
      const auto at = static_cast<int32_t>(ids_.size());
      nodes_.push_back({static_cast<uint8_t>(piece[i]), static_cast<int32_t>(i), 0, at, at});
    }
    ids_.push_back(id);  // ids of one piece follow each other
    nodes_[static_cast<size_t>(path.back())].tokens_end = static_cast<int32_t>(ids_.size());
    longest_ = std::max(longest_, static_cast<int32_t>(piece.size()));
    before = piece;
  }
  leave(0);
}

}  // namespace hawser
