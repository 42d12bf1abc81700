// data/synthetic.h - a corpus made from a seed: harbour logs that state facts early and ask for them late, amid filler.
// A model must look back over the distance to answer, so retrieval can be measured at every distance.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hawser {

/// One question: `answer` is the place of the word that can only be known from the fact, `fact` the place where it was
/// stated before; places count words from 0. answer - fact is the distance a model has to look back.
struct SyntheticQuery {
  int32_t fact = 0;
  int32_t answer = 0;
};

struct SyntheticDocument {
  std::string text;  // words and punctuation, each but the first with a blank before it
  int32_t words = 0;
  std::vector<SyntheticQuery> queries;
};

/// Cargoes there are: guessing names the right one once in so many times.
inline constexpr int32_t kSyntheticCargoes = 32;

/// Every word of the language with its leading blank, as tokenizer pieces: each document is `words` pieces long.
std::vector<std::string> SyntheticWords();

/// Document number `number` of a seed, of about `words` words (whole sentences; never more). Three kinds of sentences:
///   fact   " ship Marla copper ."                  a name not used before, a cargo drawn at random
///   query  " ask Marla copper ."                   about a uniformly drawn earlier fact
///   filler " the old pilot watched a grey gull ."  from a small grammar
SyntheticDocument MakeSyntheticDocument(uint64_t seed, uint64_t number, int32_t words);

}  // namespace hawser
