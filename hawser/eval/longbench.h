// eval/longbench.h - LongBench (arXiv 2308.14508, 2412.15204): its data sets, prompts and metrics.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/eval/predictions.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

enum class LongBenchMetric : uint8_t {
  kF1,         // of words
  kF1Zh,       // of characters
  kRouge,      // ROUGE-L F of sentences as sets of words
  kRougeZh,    // of characters
  kClass,      // the right class named, and how many others
  kCount,      // share of the numbers that are right
  kRetrieval,  // the same, of the paragraph's number
  kRetrievalZh,
  kCode,  // likeness of one line
};

/// One of the 21 data sets of version 1.
struct LongBenchSet {
  std::string_view name, group;
  LongBenchMetric metric;
  int64_t max_new;  // tokens of an answer
  bool first_line;  // of the answer counts alone
  bool chat;        // asked as a turn of a chat where the model is one; not so examples and code
};
std::span<const LongBenchSet> LongBenchSets();
/// `name` may end in _e. Null where there is none.
const LongBenchSet* FindLongBenchSet(std::string_view name);

/// One answer against one reference, from 0 to 1.
double LongBenchScore(LongBenchMetric metric, std::string_view answer, std::string_view reference,
                      const std::vector<std::string>& classes);
/// The best over the references.
double LongBenchScore(const LongBenchSet& set, std::string_view answer, const std::vector<std::string>& references,
                      const std::vector<std::string>& classes);

/// What a line has to bring. Errors: kFormat where the set scores by classes and there are none, or is split by length
/// (its name ends in _e) and there is none (-1).
void CheckLongBenchLine(const LongBenchSet& set, bool by_length, const std::vector<std::string>& classes,
                        int64_t length);

/// The published prompts by data set, with {context} and {input}, from the data (data_files.h). Errors: as
/// ReadDataFile.
std::map<std::string, std::string> ReadLongBenchPrompts(const std::filesystem::path& data_dir);

/// A prompt filled in.
std::string LongBenchPrompt(std::string_view form, std::string_view context, std::string_view input);

/// `text`, if it is of more than `most` tokens, as its first and its last most / 2 tokens.
std::string CutMiddle(const std::string& text, int64_t most, const Tokenizer& tokenizer);

/// The letter that an answer of version 2 chooses, or 0.
char LongBenchChoice(std::string_view answer);

}  // namespace hawser
