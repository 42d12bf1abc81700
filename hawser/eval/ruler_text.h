// eval/ruler_text.h - one sample of a RULER task from a number of units (sentences, words, documents): what the search
// for a length calls again and again. Every call draws, so the order of calls is part of the data.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/base/python_random.h"
#include "hawser/eval/ruler.h"

namespace hawser {

/// The two generators that the original seeds once a task.
struct RulerRandom {
  explicit RulerRandom(uint64_t seed) : seed(seed), python(seed), numpy(static_cast<uint32_t>(seed)) {}
  uint64_t seed;  // of shuffles, each from a fresh generator
  PythonRandom python;
  NumpyRandom numpy;
};

/// The words of a list of the data, "noun", "adjective" or "verb" (data_files.h). Errors: as ReadDataFile.
std::vector<std::string> ReadRulerWords(const std::filesystem::path& data_dir, std::string_view kind);

/// The sorted set of all pairs "adjective-noun", the names of needles: millions, of which only those asked for are
/// made.
class RulerKeyWords {
 public:
  RulerKeyWords() = default;  // none
  RulerKeyWords(std::vector<std::string> nouns, const std::vector<std::string>& adjectives);

  size_t size() const { return size_; }
  std::string operator[](size_t i) const;

 private:
  struct Block {
    size_t begin;
    std::string head;
    std::vector<std::string> pairs;  // where there are several heads; else head and nouns
  };
  std::vector<std::string> nouns_;
  std::vector<Block> blocks_;
  size_t size_ = 0;
};

struct RulerText {
  std::string body;    // the task's template, filled
  std::string shot;    // an example in front of it in the same turn, with the end of its line
  std::string turn;    // the question of an example with a turn of its own; the prefix is the same
  std::string reply;   // the answer there
  std::string prefix;  // the answer's
  std::vector<std::string> outputs;
};

/// Questions on documents, by their places in a sorted list.
struct RulerQuestions {
  struct Question {
    std::string text;
    std::vector<std::string> answers;
    std::vector<size_t> documents, more;  // needed, and of the same article
  };
  std::vector<std::string> documents;
  std::vector<Question> questions;
};

RulerQuestions ReadSquad(const std::filesystem::path& path);
RulerQuestions ReadHotpot(const std::filesystem::path& path);

/// `names`: where keys or values are words; `essay`: words, for that haystack alone. REQUIRES: units >= keys * values.
RulerText MakeNiah(const RulerTask& task, const RulerKeyWords& names, const std::vector<std::string>& essay,
                   size_t units, RulerRandom& random);

/// `shot`: the one-shot example, with names of three letters.
RulerText MakeTracking(size_t units, bool shot, RulerRandom& random);
/// The example with fresh names and a fresh value.
std::string RenameShot(std::string text, const std::vector<std::string>& names, RulerRandom& random);

/// The sorted set of the words of all three lists, shuffled.
std::vector<std::string> CommonVocabulary(std::vector<std::string> words, const RulerRandom& random);
/// With its one-shot example. REQUIRES: units >= 10. Errors: kUnsupported for more units than words.
RulerText MakeCommonWords(const std::vector<std::string>& vocabulary, size_t units, bool small, RulerRandom& random);

/// Different words of six letters in the order of their ranks; the first is "...".
std::vector<std::string> DrawCodedWords(size_t count, RulerRandom& random);
/// `units`: about as many words as there are in the text. REQUIRES: four words or more.
RulerText MakeFrequentWords(const std::vector<std::string>& words, int64_t units, const RulerRandom& random);

/// Nothing where `units` is less than the documents the question needs.
std::optional<RulerText> MakeQuestion(const RulerQuestions& set, size_t question, size_t units, RulerRandom& random);

}  // namespace hawser
