#include "hawser/eval/ruler_text.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <set>
#include <string_view>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/eval/data_files.h"
#include "hawser/eval/python_text.h"

namespace hawser {
namespace {

constexpr std::string_view kFiller =
    "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again.";
constexpr size_t kHops = 4;  // of a chain of variables
constexpr size_t kCommonAnswers = 10;

std::vector<std::string> SortedSet(std::vector<std::string> words) {
  std::ranges::sort(words);
  words.erase(std::unique(words.begin(), words.end()), words.end());
  return words;
}

template <class T>
void FreshShuffle(std::vector<T>& items, const RulerRandom& random) {
  PythonRandom(random.seed).Shuffle(items);
}

std::string RandomName(PythonRandom& random, std::string_view alphabet, size_t letters) {
  const std::vector<char> name = random.Choices(std::span<const char>(alphabet), letters);
  return {name.begin(), name.end()};
}

constexpr std::string_view kUpper = "ABCDEFGHIJKLMNOPQRSTUVWXYZ";
constexpr std::string_view kLower = "abcdefghijklmnopqrstuvwxyz";

std::string_view PluralOf(RulerValue value) {
  return value == RulerValue::kNumbers ? "numbers" : value == RulerValue::kWords ? "words" : "uuids";
}

std::string RandomValue(RulerValue value, const RulerKeyWords& names, PythonRandom& random) {
  switch (value) {
    case RulerValue::kNumbers:
      return fmt::format("{}", random.RandInt(1000000, 9999999));
    case RulerValue::kWords:
      return names[random.RandBelow(names.size())];
    case RulerValue::kUuids:
      return random.Uuid4();
  }
  return {};
}

/// Sentences end behind . ! or ? and quotes that close, where a capital, a quote or a digit follows the blank.
std::vector<std::string> SplitSentences(std::string_view text) {
  std::vector<std::string> sentences;
  const auto closes = [&](size_t end) {  // whether the word that ends at `end` ends a sentence
    while (end > 0) {
      const std::string_view head = text.substr(0, end);
      const auto quote = [&](std::string_view mark) { return head.ends_with(mark); };
      if (quote("\"") || quote("'") || quote(")")) {
        end -= 1;
      } else if (quote("\u201d") || quote("\u2019")) {
        end -= 3;
      } else {
        return std::string_view(".!?").find(head.back()) != std::string_view::npos;
      }
    }
    return false;
  };
  const auto opens = [&](std::string_view rest) {
    return rest.starts_with("\u201c") || rest.starts_with("\u2018") ||
           (!rest.empty() && (std::string_view("\"'0123456789").find(rest[0]) != std::string_view::npos ||
                              kUpper.find(rest[0]) != std::string_view::npos));
  };
  size_t begin = 0;
  for (size_t blank = text.find(' '); blank != text.npos; blank = text.find(' ', blank + 1)) {
    if (!closes(blank) || !opens(text.substr(blank + 1))) continue;
    sentences.emplace_back(text.substr(begin, blank - begin));
    begin = blank + 1;
  }
  if (begin < text.size()) sentences.emplace_back(text.substr(begin));
  return sentences;
}

/// Where needles go, in percent: the 40 rounded points from 0 to 100.
std::vector<int> Depths() {
  std::vector<int> depths;
  for (int i = 0; i < 40; ++i) depths.push_back(static_cast<int>(std::nearbyint(i * 100.0 / 39)));
  return depths;
}

std::string HideInEssay(const std::vector<std::string>& words, size_t units, const std::vector<std::string>& needles,
                        PythonRandom& random) {
  std::string text;
  for (size_t i = 0; i < units; ++i) text.append(i > 0 ? " " : "").append(words[i % words.size()]);
  const std::vector<std::string> sentences = SplitSentences(text);
  const auto count = static_cast<double>(sentences.size());
  std::vector<size_t> places;
  for (const int depth : random.Sample(Depths(), needles.size())) {
    places.push_back(static_cast<size_t>(count * (depth / 100.0)));
  }
  std::ranges::sort(places);
  std::string context;
  size_t begin = 0;
  for (size_t i = 0; i <= needles.size(); ++i) {
    const size_t end = i < needles.size() ? places[i] : sentences.size();
    if (i > 0) context += " ";
    context += fmt::format("{}", fmt::join(sentences.begin() + static_cast<std::ptrdiff_t>(begin),
                                           sentences.begin() + static_cast<std::ptrdiff_t>(end), " "));
    if (i < needles.size()) context += " " + needles[i];
    begin = end;
  }
  return context;
}

void ReplaceAll(std::string& text, std::string_view from, std::string_view to) {
  for (size_t at = 0; (at = text.find(from, at)) != text.npos; at += to.size()) text.replace(at, from.size(), to);
}

std::string Numbered(const std::vector<std::string>& words) {
  std::string list;
  for (size_t i = 0; i < words.size(); ++i) list += fmt::format("{}{}. {}", i > 0 ? " " : "", i + 1, words[i]);
  return list;
}

/// A list of `count` words with the first ten of them (fewer where there are fewer) `common` times, the others `others`
/// times.
std::string WordList(const std::vector<std::string>& vocabulary, size_t count, size_t common, size_t others,
                     RulerRandom& random, std::vector<std::string>* answers) {
  if (count > vocabulary.size()) {
    Fail(ErrorKind::kUnsupported, "ruler: a list of {} different words is wanted, and the list that is here has {}",
         count, vocabulary.size());
  }
  const std::vector<std::string> words = random.python.Sample(vocabulary, count);
  const auto often = words.begin() + static_cast<std::ptrdiff_t>(std::min<size_t>(kCommonAnswers, words.size()));
  answers->assign(words.begin(), often);
  std::vector<std::string> list;
  for (size_t i = 0; i < common; ++i) list.insert(list.end(), words.begin(), often);
  for (size_t i = 0; i < others; ++i) list.insert(list.end(), often, words.end());
  FreshShuffle(list, random);
  return Numbered(list);
}

}  // namespace

std::vector<std::string> ReadRulerWords(const std::filesystem::path& data_dir, std::string_view kind) {
  const std::string text = ReadDataFile(data_dir, fmt::format("ruler/wordlists/{}list.txt", kind));
  std::vector<std::string> words;
  for (const std::string_view line : SplitWords(text, "\n")) words.emplace_back(PythonStrip(line));
  return words;
}

RulerKeyWords::RulerKeyWords(std::vector<std::string> nouns, const std::vector<std::string>& adjectives)
    : nouns_(SortedSet(std::move(nouns))) {
  std::vector<std::string> heads;
  for (const std::string& adjective : adjectives) heads.push_back(adjective + "-");
  heads = SortedSet(std::move(heads));
  // Pairs of "blue-" and "blue-eyed-" may lie between each other, those of other heads cannot.
  for (size_t begin = 0, end; begin < heads.size(); begin = end) {
    end = begin + 1;
    while (end < heads.size() && heads[end].starts_with(heads[begin])) ++end;
    Block block{.begin = size_, .head = heads[begin], .pairs = {}};
    for (size_t i = begin; end - begin > 1 && i < end; ++i) {
      for (const std::string& noun : nouns_) block.pairs.push_back(heads[i] + noun);
    }
    block.pairs = SortedSet(std::move(block.pairs));
    size_ += end - begin > 1 ? block.pairs.size() : nouns_.size();
    blocks_.push_back(std::move(block));
  }
}

std::string RulerKeyWords::operator[](size_t i) const {
  const Block& block = *std::prev(std::ranges::upper_bound(blocks_, i, {}, &Block::begin));
  return block.pairs.empty() ? block.head + nouns_[i - block.begin] : block.pairs[i - block.begin];
}

RulerText MakeNiah(const RulerTask& task, const RulerKeyWords& names, const std::vector<std::string>& essay,
                   size_t units, RulerRandom& random) {
  std::vector<std::string> keys, needles;
  std::vector<std::vector<std::string>> values;
  const auto sentence = [&](const std::string& key, const std::string& value) {
    return fmt::format("One of the special magic {} for {} is: {}.", PluralOf(task.value), key, value);
  };
  for (int k = 0; k < std::max(task.keys, task.queries); ++k) {
    keys.push_back(RandomValue(task.key, names, random.python));
    values.emplace_back();
    for (int v = 0; v < task.values; ++v) {
      values.back().push_back(RandomValue(task.value, names, random.python));
      needles.push_back(sentence(keys.back(), values.back().back()));
    }
  }
  FreshShuffle(needles, random);

  std::string context;
  if (task.haystack == RulerHaystack::kEssay) {
    context = HideInEssay(essay, units, needles, random.python);
  } else {
    std::vector<std::string> sentences;
    for (size_t i = 0; i < units; ++i) {
      if (task.haystack == RulerHaystack::kNoise) {
        sentences.emplace_back(kFiller);
        continue;
      }
      const std::string key = RandomValue(task.key, names, random.python);
      sentences.push_back(sentence(key, RandomValue(task.value, names, random.python)));
    }
    std::vector<size_t> places = random.python.SampleIndices(units, needles.size());
    std::ranges::sort(places, std::greater<>());
    for (size_t i = 0; i < needles.size(); ++i) {
      sentences.insert(sentences.begin() + static_cast<std::ptrdiff_t>(places[i]), needles[i]);
    }
    context = fmt::format("{}", fmt::join(sentences, "\n"));
  }

  std::vector<std::string> asked;
  RulerText text;
  for (const size_t i : random.python.SampleIndices(keys.size(), static_cast<size_t>(task.queries))) {
    asked.push_back(keys[i]);
    std::ranges::copy(values[i], std::back_inserter(text.outputs));
  }
  std::string query = asked.back();
  if (asked.size() > 1) {
    asked.pop_back();
    query = fmt::format("{}, and {}", fmt::join(asked, ", "), query);
  }
  std::string_view type = PluralOf(task.value);
  const bool one = task.queries * task.values == 1;
  if (one) type.remove_suffix(1);
  text.body = fmt::format(
      "{0} special magic {1} {2} hidden within the following text. Make sure to memorize it. I will quiz you about the "
      "{1} afterwards.\n{3}\nWhat {4} the special magic {1} for {5} mentioned in the provided text?",
      one ? "A" : "Some", type, one ? "is" : "are", context, one ? "is" : "are all", query);
  text.prefix =
      fmt::format(" The special magic {} for {} mentioned in the provided text {}", type, query, one ? "is" : "are");
  return text;
}

RulerText MakeTracking(size_t units, bool shot, RulerRandom& random) {
  RulerText text;
  do {
    text.outputs.clear();
    for (size_t i = 0; i <= kHops; ++i) text.outputs.push_back(RandomName(random.python, kUpper, shot ? 3 : 5));
  } while (SortedSet(text.outputs).size() <= kHops);
  const int64_t value = shot ? 12345 : random.numpy.RandInt(10000, 99999);
  std::vector<std::string> sentences(units, std::string(kFiller));
  std::vector<size_t> places = random.python.SampleIndices(units, kHops + 1);
  std::ranges::sort(places);
  for (size_t j = 0; j <= kHops; ++j) {
    sentences.insert(sentences.begin() + static_cast<std::ptrdiff_t>(places[j] + j),
                     j == 0 ? fmt::format("VAR {} = {}", text.outputs[0], value)
                            : fmt::format("VAR {} = VAR {} ", text.outputs[j], text.outputs[j - 1]));
  }
  text.body = fmt::format(
      "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n{}\nQuestion: Find all "
      "variables that are assigned the value {} in the text above.",
      fmt::join(sentences, "\n"), value);
  text.prefix = fmt::format(
      " Answer: According to the chain(s) of variable assignment in the text above, {} variables are assigned the "
      "value {}, they are: ",
      kHops + 1, value);
  return text;
}

std::string RenameShot(std::string text, const std::vector<std::string>& names, RulerRandom& random) {
  for (const std::string& name : names) ReplaceAll(text, name, RandomName(random.python, kUpper, name.size()));
  ReplaceAll(text, "12345", fmt::format("{}", random.numpy.RandInt(10000, 99999)));
  return text;
}

std::vector<std::string> CommonVocabulary(std::vector<std::string> words, const RulerRandom& random) {
  words = SortedSet(std::move(words));
  FreshShuffle(words, random);
  return words;
}

RulerText MakeCommonWords(const std::vector<std::string>& vocabulary, size_t units, bool small, RulerRandom& random) {
  const auto fill = [](std::string_view list) {
    return fmt::format(
        "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
        "appear most often.\n{}\nQuestion: What are the 10 most common words in the above list?",
        list);
  };
  RulerText text;
  text.prefix = " Answer: The top 10 words that appear most often in the list are:";
  std::vector<std::string> shown;
  const std::string shot = WordList(vocabulary, small ? 20 : 40, small ? 3 : 10, small ? 1 : 3, random, &shown);
  const std::string list = WordList(vocabulary, units, small ? 6 : 30, small ? 1 : 3, random, &text.outputs);
  text.turn = fill(shot);
  text.reply = " " + Numbered(shown);
  text.body = fill(list);
  return text;
}

std::vector<std::string> DrawCodedWords(size_t count, RulerRandom& random) {
  std::set<std::string> distinct;
  for (size_t drawn = 0; drawn < count || distinct.size() < count; ++drawn) {
    distinct.insert(RandomName(random.python, kLower, 6));
  }
  std::vector<std::string> words(distinct.begin(), distinct.end());
  FreshShuffle(words, random);
  words[0] = "...";
  return words;
}

RulerText MakeFrequentWords(const std::vector<std::string>& words, int64_t units, const RulerRandom& random) {
  constexpr double kZeta = 1.6449340668482264;  // of 2
  std::vector<std::string_view> drawn;
  for (size_t i = 0; i < words.size(); ++i) {
    const double share = std::pow(static_cast<double>(i + 1), -2.0);
    drawn.insert(drawn.end(), static_cast<size_t>(static_cast<double>(units) * share / kZeta), words[i]);
  }
  FreshShuffle(drawn, random);
  RulerText text;
  text.outputs.assign(words.begin() + 1, words.begin() + 4);
  if (std::ranges::find(drawn, std::string_view(words[3])) == drawn.end()) text.outputs.clear();
  text.body = fmt::format(
      "Read the following coded text and track the frequency of each coded word. Find the three most frequently "
      "appeared coded words. {}\nQuestion: Do not provide any explanation. Please ignore the dots '....'. What are the "
      "three most frequently appeared words in the above coded text?",
      fmt::join(drawn, " "));
  text.prefix = " Answer: According to the coded text above, the three most frequently appeared words are:";
  return text;
}

std::optional<RulerText> MakeQuestion(const RulerQuestions& set, size_t number, size_t units, RulerRandom& random) {
  const RulerQuestions::Question& question = set.questions[number];
  const size_t all = set.documents.size(), needed = question.documents.size(), more = question.more.size();
  std::vector<size_t> chosen;
  if (units >= all) {
    for (size_t i = 0; i < units; ++i) chosen.push_back(i % all);
  } else if (units > needed + more) {
    chosen = question.documents;
    chosen.insert(chosen.end(), question.more.begin(), question.more.end());
    std::vector<size_t> others;
    std::vector<bool> taken(all, false);
    for (const size_t i : chosen) taken[i] = true;
    for (size_t i = 0; i < all; ++i) {
      if (!taken[i]) others.push_back(i);
    }
    std::ranges::copy(random.python.Sample(others, units - needed - more), std::back_inserter(chosen));
  } else if (units >= needed) {
    chosen = question.documents;
    std::ranges::copy(random.python.Sample(question.more, units - needed), std::back_inserter(chosen));
  } else {
    return std::nullopt;
  }
  FreshShuffle(chosen, random);
  constexpr std::string_view kAsk =
      "Answer the question based on the given documents. Only give me the answer and do not output any other words.";
  std::string context;
  for (size_t i = 0; i < chosen.size(); ++i) {
    context += fmt::format("{}Document {}:\n{}", i > 0 ? "\n\n" : "", i + 1, set.documents[chosen[i]]);
  }
  return RulerText{.body = fmt::format("{0}\n\nThe following are given documents.\n\n{1}\n\n{0}\n\nQuestion: {2}", kAsk,
                                       context, question.text),
                   .shot = {},
                   .turn = {},
                   .reply = {},
                   .prefix = " Answer:",
                   .outputs = question.answers};
}

}  // namespace hawser
