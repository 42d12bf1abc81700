// serve/formats.h - what requests want answers to be, ready to follow: made once, kept for requests to come.
#pragma once

#include <list>
#include <memory>
#include <mutex>
#include <string>

#include "hawser/infer/constraint.h"
#include "hawser/serve/openai.h"

namespace hawser {

/// THREADS: any.
class Formats {
 public:
  /// The tokenizer outlives it.
  explicit Formats(const Tokenizer* tokenizer) : tokenizer_(*tokenizer) {}

  /// Null for text of any kind. Errors: ApiError (400) for a grammar or schema that cannot be followed.
  std::shared_ptr<const Constraint> Of(const TextFormat& format);

 private:
  struct Known {
    TextFormat format;
    std::shared_ptr<const Constraint> constraint;
  };
  std::shared_ptr<const TokenTrie> Trie();

  const Tokenizer& tokenizer_;
  std::once_flag made_trie_;
  std::shared_ptr<const TokenTrie> trie_;
  std::mutex mutex_;
  std::list<Known> known_;  // the last used first
};

}  // namespace hawser
