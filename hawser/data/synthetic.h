// data/synthetic.h - a corpus made from a seed: harbour logs that state facts early and ask for them late, amid filler.
// A model must look back over the distance to answer, so retrieval can be measured at every distance.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace hawser {

/// One question: `answer` is the place of the word that can only be known from `fact`, the place where it stood last;
/// places count words from 0. answer - fact is the distance a model has to look back.
struct SyntheticQuery {
  int32_t fact = 0;
  int32_t answer = 0;
};

struct SyntheticDocument {
  std::string text;  // words and punctuation, each but the first with a blank before it
  int32_t words = 0;
  std::vector<SyntheticQuery> queries;
};

/// Kinds of facts (captain, cargo, ...), and the names each has of its own: guessing finds one in so many.
inline constexpr int32_t kSyntheticKinds = 24;
inline constexpr int32_t kSyntheticNames = 12;

/// Every word of the language with its leading blank, as tokenizer pieces: each document is `words` pieces long.
std::vector<std::string> SyntheticWords();

/// Document number `number` of a seed, of about `words` words (whole sentences; never more). Three kinds of sentences:
///   fact   " note captain Marla ."                 a kind not stated before, one of its names at random
///   query  " ask captain Marla ."                  about a kind stated before, far ones more often
///   filler " the old sailor watched a grey gull ." from a small grammar
SyntheticDocument MakeSyntheticDocument(uint64_t seed, uint64_t number, int32_t words);

/// The same with one fact alone, at `depth` of the text (0: its beginning, 1: right before the question), and one
/// question, at the end. REQUIRES: words >= 32.
SyntheticDocument MakeNeedleDocument(uint64_t seed, uint64_t number, int32_t words, double depth);

}  // namespace hawser
