#include <algorithm>
#include <cmath>
#include <cstdint>
#include <map>
#include <set>
#include <unordered_map>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/eval/answer_text.h"
#include "hawser/eval/longbench.h"
#include "hawser/eval/python_text.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

using Words = std::vector<std::string>;

double F1(const Words& answer, const Words& reference) {
  std::map<std::string_view, int64_t> counts;
  for (const std::string& word : reference) ++counts[word];
  int64_t same = 0;
  for (const std::string& word : answer) {
    int64_t& left = counts[word];
    if (left-- > 0) ++same;
  }
  if (same == 0) return 0;
  const double precision = static_cast<double>(same) / static_cast<double>(answer.size());
  const double recall = static_cast<double>(same) / static_cast<double>(reference.size());
  return 2 * precision * recall / (precision + recall);
}

/// Sentences end at dots; words are what stands between single blanks, so a blank sentence has one empty word.
std::vector<Words> RougeSentences(std::string_view text) {
  std::vector<Words> sentences;
  for (const std::string_view piece : SplitWords(text, ".")) {
    const std::vector<std::string_view> words = PythonWords(piece);
    sentences.emplace_back(words.begin(), words.end());
    if (words.empty()) sentences.back().emplace_back();
  }
  return sentences;
}

/// Adds the words of one longest common subsequence. Where there are several: back from the ends, a word of the
/// reference is left out only where that is strictly better.
void AddCommon(const Words& reference, const Words& answer, std::set<std::string_view>* common) {
  const size_t rows = reference.size() + 1, columns = answer.size() + 1;
  constexpr size_t kMostCells = size_t{1} << 28;
  if (rows > kMostCells / columns) {
    Fail(ErrorKind::kUnsupported, "ROUGE-L compares sentences word by word: these of {} and {} words are too long",
         reference.size(), answer.size());
  }
  std::vector<int32_t> table(rows * columns, 0);
  for (size_t i = 1; i < rows; ++i) {
    for (size_t j = 1; j < columns; ++j) {
      table[i * columns + j] = reference[i - 1] == answer[j - 1]
                                   ? table[(i - 1) * columns + j - 1] + 1
                                   : std::max(table[(i - 1) * columns + j], table[i * columns + j - 1]);
    }
  }
  for (size_t i = reference.size(), j = answer.size(); i > 0 && j > 0;) {
    if (reference[i - 1] == answer[j - 1]) {
      common->insert(reference[i - 1]);
      --i, --j;
    } else if (table[(i - 1) * columns + j] > table[i * columns + j - 1]) {
      --i;
    } else {
      --j;
    }
  }
}

double Rouge(std::string_view answer, std::string_view reference) {
  const std::vector<Words> ours = RougeSentences(answer), theirs = RougeSentences(reference);
  std::set<std::string_view> our_words, their_words, common;
  for (const Words& sentence : ours) our_words.insert(sentence.begin(), sentence.end());
  for (const Words& sentence : theirs) their_words.insert(sentence.begin(), sentence.end());
  if (our_words.empty() || their_words.empty()) return 0;
  for (const Words& theirs_one : theirs) {
    for (const Words& ours_one : ours) AddCommon(theirs_one, ours_one, &common);
  }
  const double recall = static_cast<double>(common.size()) / static_cast<double>(their_words.size());
  const double precision = static_cast<double>(common.size()) / static_cast<double>(our_words.size());
  return 2 * (precision * recall / (precision + recall + 1e-8));
}

std::string Spaced(std::string_view text) {
  std::string out;
  for (const std::string& word : CharacterWords(text)) out.append(out.empty() ? "" : " ").append(word);
  return out;
}

double ClassScore(std::string_view answer, std::string_view reference, const Words& classes) {
  std::vector<std::string_view> named;
  for (const std::string& name : classes) {
    if (answer.find(name) != answer.npos) named.push_back(name);
  }
  // As published, a list that shrinks while it is walked: the name behind one taken out is passed over.
  for (size_t i = 0; i < named.size(); ++i) {
    if (named[i] != reference && reference.find(named[i]) != reference.npos) {
      named.erase(std::ranges::find(named, named[i]));
    }
  }
  return std::ranges::find(named, reference) == named.end() ? 0 : 1.0 / static_cast<double>(named.size());
}

double NumberScore(std::string_view answer, std::string_view number) {
  const Words numbers = DigitRuns(answer);
  if (numbers.empty()) return 0;
  return static_cast<double>(std::ranges::count(numbers, number)) / static_cast<double>(numbers.size());
}

/// The number behind the first `name` that has one.
std::string NumberOf(std::string_view reference, std::string_view name) {
  for (size_t at = 0; (at = reference.find(name, at)) != reference.npos;) {
    at += name.size();
    const std::string_view rest = reference.substr(at);
    const size_t digits = std::min(rest.find_first_not_of("0123456789"), rest.size());
    if (digits > 0) return std::string(rest.substr(0, digits));
  }
  return "";
}

std::u32string CodePoints(std::string_view text) {
  std::u32string out;
  for (size_t at = 0; at < text.size();) {
    const CodePoint c = CodePointAt(text, at);
    out += c.length == 0 ? static_cast<unsigned char>(text[at]) : c.value;
    at += std::max<size_t>(c.length, 1);
  }
  return out;
}

/// Twice the characters in matching blocks over all characters, as Python's difflib finds blocks: the longest first,
/// then those on both sides of it. Where b is long, characters that are frequent in it begin no block.
class BlockMatcher {
 public:
  BlockMatcher(std::u32string a, std::u32string b) : a_(std::move(a)), b_(std::move(b)) {
    for (size_t j = 0; j < b_.size(); ++j) places_[b_[j]].push_back(j);
    if (b_.size() < 200) return;
    std::erase_if(places_, [&](const auto& item) { return item.second.size() > b_.size() / 100 + 1; });
  }

  double Ratio() const {
    return 2.0 * static_cast<double>(Matched(0, a_.size(), 0, b_.size())) / static_cast<double>(a_.size() + b_.size());
  }

 private:
  size_t Matched(size_t a_begin, size_t a_end, size_t b_begin, size_t b_end) const {
    size_t best_a = a_begin, best_b = b_begin, best = 0;
    std::unordered_map<size_t, size_t> ends;  // of blocks that end at the character of a before: their lengths
    for (size_t i = a_begin; i < a_end; ++i) {
      std::unordered_map<size_t, size_t> next;
      const auto places = places_.find(a_[i]);
      if (places != places_.end()) {
        for (const size_t j : places->second) {
          if (j < b_begin) continue;
          if (j >= b_end) break;
          const auto before = j > 0 ? ends.find(j - 1) : ends.end();
          const size_t length = (before == ends.end() ? 0 : before->second) + 1;
          next[j] = length;
          if (length > best) best_a = i + 1 - length, best_b = j + 1 - length, best = length;
        }
      }
      ends = std::move(next);
    }
    while (best_a > a_begin && best_b > b_begin && a_[best_a - 1] == b_[best_b - 1]) --best_a, --best_b, ++best;
    while (best_a + best < a_end && best_b + best < b_end && a_[best_a + best] == b_[best_b + best]) ++best;
    if (best == 0) return 0;
    return best + Matched(a_begin, best_a, b_begin, best_b) + Matched(best_a + best, a_end, best_b + best, b_end);
  }

  std::u32string a_, b_;
  std::unordered_map<char32_t, std::vector<size_t>> places_;  // in b
};

/// Of the answer's first line without a backquote, # or //.
double CodeScore(std::string_view answer, std::string_view reference) {
  answer.remove_prefix(std::min(answer.find_first_not_of('\n'), answer.size()));
  std::string_view first;
  for (const std::string_view line : SplitAt(answer, '\n')) {
    if (line.find_first_of("`#") != line.npos || line.find("//") != line.npos) continue;
    first = line;
    break;
  }
  if (first.empty() || reference.empty()) return 0;
  return std::nearbyint(100 * BlockMatcher(CodePoints(first), CodePoints(reference)).Ratio()) / 100;
}

}  // namespace

double LongBenchScore(LongBenchMetric metric, std::string_view answer, std::string_view reference,
                      const std::vector<std::string>& classes) {
  switch (metric) {
    case LongBenchMetric::kF1:
      return F1(AnswerWords(answer), AnswerWords(reference));
    case LongBenchMetric::kF1Zh:
      return F1(CharacterWords(answer), CharacterWords(reference));
    case LongBenchMetric::kRouge:
      return Rouge(answer, reference);
    case LongBenchMetric::kRougeZh:
      return Rouge(Spaced(answer), Spaced(reference));
    case LongBenchMetric::kClass:
      return ClassScore(answer, reference, classes);
    case LongBenchMetric::kCount:
      return NumberScore(answer, reference);
    case LongBenchMetric::kRetrieval:
      return NumberScore(answer, NumberOf(reference, "Paragraph "));
    case LongBenchMetric::kRetrievalZh:
      return NumberScore(answer, NumberOf(reference, "段落"));
    case LongBenchMetric::kCode:
      return CodeScore(answer, reference);
  }
  return 0;
}

double LongBenchScore(const LongBenchSet& set, std::string_view answer, const std::vector<std::string>& references,
                      const std::vector<std::string>& classes) {
  if (set.first_line) {
    answer.remove_prefix(std::min(answer.find_first_not_of('\n'), answer.size()));
    answer = answer.substr(0, answer.find('\n'));
  }
  double best = 0;
  for (const std::string& reference : references) {
    best = std::max(best, LongBenchScore(set.metric, answer, reference, classes));
  }
  return best;
}

}  // namespace hawser
