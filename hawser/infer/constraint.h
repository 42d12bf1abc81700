// infer/constraint.h - a grammar over a vocabulary: which tokens may come next. States of the automaton, the ways
// between them and the tokens that each allows are worked out once and kept, for all texts under the grammar.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <string_view>
#include <vector>

#include "hawser/infer/grammar.h"
#include "hawser/infer/token_trie.h"

namespace hawser {

/// A bit for each token id.
using TokenSet = std::vector<uint64_t>;
inline bool Holds(std::span<const uint64_t> set, int32_t id) {
  return (set[static_cast<size_t>(id) / 64] >> (id % 64) & 1) != 0;
}

class ConstraintStates;  // constraint.cc

/// THREADS: any.
class Constraint {
 public:
  /// Errors: kFormat where the grammar can be read in too many ways at its beginning.
  Constraint(Grammar grammar, std::shared_ptr<const TokenTrie> trie);
  ~Constraint();

  const TokenTrie& trie() const { return *trie_; }

 private:
  friend class ConstraintWalk;
  std::shared_ptr<ConstraintStates> States(const ConstraintStates* full) const;

  Grammar grammar_;
  std::shared_ptr<const TokenTrie> trie_;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<ConstraintStates> states_;  // those in use now; texts keep older ones as long as they need
};

/// The place of one text in its grammar.
class ConstraintWalk {
 public:
  explicit ConstraintWalk(std::shared_ptr<const Constraint> constraint);

  /// The text may end here.
  bool may_end() const { return may_end_; }
  /// Nothing may follow.
  bool must_end() const { return must_end_; }
  /// Sets `allowed` to the tokens whose bytes may come next. `cut_blank`: as if a token did not begin with the one
  /// blank that it begins with. Errors: kFormat where the grammar can be read in too many ways to be followed.
  void Allowed(bool cut_blank, TokenSet* allowed);
  /// Goes on over bytes of a token that Allowed gave. False, and nothing changes, where they may not come.
  bool Take(std::string_view bytes);

 private:
  void Enter(int32_t state);
  void Renew();

  std::shared_ptr<const Constraint> constraint_;
  std::shared_ptr<ConstraintStates> states_;
  int32_t state_ = 0;
  bool may_end_ = false, must_end_ = false;
};

}  // namespace hawser
