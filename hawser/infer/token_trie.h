// infer/token_trie.h - a vocabulary by its bytes, so that what tokens have in common is looked at once.
#pragma once

#include <cstdint>
#include <vector>

#include "hawser/tok/tokenizer.h"

namespace hawser {

/// Tokens that stand for bytes; others (control pieces) are not in it. Immutable.
class TokenTrie {
 public:
  explicit TokenTrie(const Tokenizer& tokenizer);

  /// In preorder: what begins with the bytes up to a node lies between it and its `end`.
  struct Node {
    uint8_t byte = 0;
    int32_t depth = 0;       // bytes before this one
    int32_t end = 0;         // the first node behind those below
    int32_t tokens = 0;      // where its ids begin in ids()
    int32_t tokens_end = 0;  // none: no token ends here
  };
  const std::vector<Node>& nodes() const { return nodes_; }
  const std::vector<int32_t>& ids() const { return ids_; }
  int32_t vocab() const { return vocab_; }
  int32_t longest() const { return longest_; }  // bytes of a token

 private:
  int32_t vocab_, longest_ = 0;
  std::vector<Node> nodes_;
  std::vector<int32_t> ids_;
};

}  // namespace hawser
