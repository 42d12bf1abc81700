#include "hawser/eval/ruler.h"

#include <algorithm>
#include <functional>
#include <map>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/base/text.h"
#include "hawser/eval/data_files.h"
#include "hawser/eval/haystack.h"
#include "hawser/eval/python_text.h"
#include "hawser/eval/ruler_text.h"

namespace hawser {
namespace {

using enum RulerKind;
using enum RulerHaystack;
using enum RulerValue;

constexpr RulerTask kTasks[] = {
    {"niah_single_1", kNiah, 128, kNoise, kWords, kNumbers},
    {"niah_single_2", kNiah, 128, kEssay, kWords, kNumbers},
    {"niah_single_3", kNiah, 128, kEssay, kWords, kUuids},
    {"niah_multikey_1", kNiah, 128, kEssay, kWords, kNumbers, 4},
    {"niah_multikey_2", kNiah, 128, kNeedle, kWords, kNumbers},
    {"niah_multikey_3", kNiah, 128, kNeedle, kUuids, kUuids},
    {"niah_multivalue", kNiah, 128, kEssay, kWords, kNumbers, 1, 4},
    {"niah_multiquery", kNiah, 128, kEssay, kWords, kNumbers, 4, 1, 4},
    {"vt", kTracking, 30},
    {"cwe", kCommonWords, 120},
    {"fwe", kFrequentWords, 50},
    {"qa_1", kSquad, 32},
    {"qa_2", kHotpot, 32},
};

constexpr RulerTemplate kTemplates[] = {
    {"base", "", ""},
    {"llama2-chat", "[INST] ", " [/INST]"},
    {"llama3", "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n",
     "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"},
    {"phi3", "<|user|>\n", "<|end|>\n<|assistant|>\n"},
};

/// Counts as the original does: without BOS, with the names of special tokens in templates as those tokens.
class Counter {
 public:
  Counter(const Tokenizer& tokenizer, const RulerTemplate& form) : tokenizer_(tokenizer), form_(form) {}

  int64_t Tokens(std::string_view text) const {
    return static_cast<int64_t>(tokenizer_.Encode(text, /*parse_special=*/!form_.before.empty()).size());
  }
  int64_t Tokens(const RulerText& text) const { return Tokens(Input(text) + text.prefix); }
  /// All that stands before the answer prefix.
  std::string Input(const RulerText& text) const {
    std::string input;
    if (!text.turn.empty()) {
      input.append(form_.before).append(text.turn).append(form_.after).append(text.prefix).append(text.reply) += '\n';
    }
    return input.append(form_.before).append(text.shot).append(text.body).append(form_.after);
  }

 private:
  const Tokenizer& tokenizer_;
  const RulerTemplate& form_;
};

/// How a text of a task grows, and how it is brought to a length.
struct Fit {
  std::function<std::optional<RulerText>(int64_t units, int64_t sample)> build;
  int64_t step = 0;
  int64_t limit = 0;    // tokens
  int64_t kept = 0;     // of them, for the answer and the one-shot example
  int64_t probed = 0;   // units of the first text, from which the others are estimated
  bool floors = false;  // whether the estimate is in whole numbers
  bool least = false;   // whether the smallest text is taken where none fits
  const Counter* count = nullptr;
};

[[noreturn]] void FailTooShort(int64_t limit, std::optional<int64_t> least) {
  Fail(ErrorKind::kUsage, "{} tokens are too few: a text of this task takes {}; set a greater length", limit,
       least ? fmt::format("at least {} with its answer", *least) : std::string("more with its answer"));
}

/// The most units that fit, or one step where nothing does.
int64_t FindUnits(const Fit& fit) {
  const std::optional<RulerText> probe = fit.build(fit.probed, 0);
  HAWSER_CHECK(probe.has_value());
  const double each = static_cast<double>(fit.count->Tokens(*probe)) / static_cast<double>(fit.probed);
  const double many = static_cast<double>(fit.limit) / each;
  int64_t low = fit.step, found = fit.step;
  int64_t high = std::max(fit.floors ? 2 * static_cast<int64_t>(many) : static_cast<int64_t>(many * 3), 2 * fit.step);
  while (low <= high) {
    const int64_t middle = (low + high) / 2;
    const std::optional<RulerText> text = fit.build(middle, 0);
    if (text && fit.count->Tokens(*text) + fit.kept <= fit.limit) {
      found = middle;
      low = middle + 1;
    } else {
      high = middle - 1;
    }
  }
  return found;
}

/// A text of sample number `sample` that fits, and its tokens with what is kept. Errors: kUsage where none does.
std::pair<RulerText, int64_t> Shrink(const Fit& fit, int64_t units, int64_t sample) {
  for (;; units -= fit.step) {
    std::optional<RulerText> text = fit.build(units, sample);
    std::optional<int64_t> length;
    if (text) length = fit.count->Tokens(*text) + fit.kept;
    if (length && (*length <= fit.limit || (fit.least && units <= fit.step))) return {std::move(*text), *length};
    if (units <= fit.step) FailTooShort(fit.limit, length);
  }
}

std::string FileLabel(const std::filesystem::path& path) { return path.filename().string(); }

std::filesystem::path QuestionFile(const RulerTask& task, const RulerOptions& options) {
  const bool squad = task.kind == kSquad;
  const std::filesystem::path& own = squad ? options.squad : options.hotpot;
  if (!own.empty()) return own;
  const DataFile& known = KnownDataFile(squad ? "qa/xquad.en.json" : "qa/hotpotqa_dev_distractor_first100.json");
  std::filesystem::path place = NeedData(options.data_dir, known.path, squad ? "squad" : "hotpot");
  CheckDataFile(known, place, ReadFile(place));
  return place;
}

class Maker {
 public:
  Maker(const RulerTask& task, const RulerOptions& options, const Tokenizer& tokenizer)
      : task_(task),
        options_(options),
        tokenizer_(tokenizer),
        count_(tokenizer, FindRulerTemplate(options.model_template)),
        random_(options.seed) {}

  std::vector<RulerSample> Make() {
    if (task_.kind == kFrequentWords) return MakeCoded();
    const Fit fit = FitOf();
    if (task_.kind == kTracking) return MakeTracked(fit);
    return MakeFitting(fit, FindUnits(fit));
  }

 private:
  std::vector<RulerSample> MakeFitting(const Fit& fit, int64_t units) {
    std::vector<RulerSample> samples;
    for (int64_t i = 0; i < samples_; ++i) {
      const auto [text, length] = Shrink(fit, units, i);
      Add(text, length, &samples);
    }
    return samples;
  }

  /// vt: the search counts its one-shot example as it was made, every sample gets it with new names of other tokens.
  std::vector<RulerSample> MakeTracked(const Fit& plain) {
    std::string shot;
    const std::vector<std::string> names = MakeShot(&shot);
    Fit search = plain;
    search.kept += count_.Tokens(shot);
    const int64_t units = FindUnits(search);
    Fit fit = plain;
    fit.build = [&](int64_t count, int64_t sample) {
      std::optional<RulerText> text = plain.build(count, sample);
      text->shot = RenameShot(shot, names, random_) + "\n";
      return text;
    };
    return MakeFitting(fit, units);
  }

  Fit FitOf() {
    const bool small = options_.length < 4096;
    Fit fit{.step = 10, .limit = options_.length, .kept = task_.max_new, .count = &count_};
    switch (task_.kind) {
      case kNiah:
        fit.step = task_.haystack == kEssay ? 500 : small ? 5 : 25;
        if (task_.haystack == kEssay) ReadEssay();
        if (task_.key == kWords || task_.value == kWords) {
          names_ =
              RulerKeyWords(ReadRulerWords(options_.data_dir, "noun"), ReadRulerWords(options_.data_dir, "adjective"));
        }
        fit.build = [this](int64_t units, int64_t) {
          return MakeNiah(task_, names_, essay_, static_cast<size_t>(units), random_);
        };
        break;
      case kTracking:
        fit.step = small ? 5 : 10;
        fit.build = [this](int64_t units, int64_t) {
          return MakeTracking(static_cast<size_t>(units), /*shot=*/false, random_);
        };
        break;
      case kCommonWords:
        for (const char* kind : {"noun", "adjective", "verb"}) {
          std::ranges::copy(ReadRulerWords(options_.data_dir, kind), std::back_inserter(vocabulary_));
        }
        vocabulary_ = CommonVocabulary(std::move(vocabulary_), random_);
        fit.probed = 4096;
        fit.floors = true;
        fit.build = [this, small](int64_t units, int64_t) {
          return MakeCommonWords(vocabulary_, static_cast<size_t>(units), small, random_);
        };
        break;
      default: {
        const std::filesystem::path file = QuestionFile(task_, options_);
        questions_ = task_.kind == kSquad ? ReadSquad(file) : ReadHotpot(file);
        const auto asked = static_cast<int64_t>(questions_.questions.size());
        if (samples_ > asked) {
          LogLine(
              fmt::format("note: {} has {}, so no more samples are made", FileLabel(file), Counted(asked, "question")));
          samples_ = asked;
        }
        fit.build = [this](int64_t units, int64_t sample) {
          return MakeQuestion(questions_, static_cast<size_t>(sample), static_cast<size_t>(units), random_);
        };
      }
    }
    if (fit.probed == 0) fit.probed = fit.step;
    return fit;
  }

  void ReadEssay() {
    // No text is longer than three times the length in words (FindUnits).
    const std::string text = ReadHaystack(options_.haystack, options_.data_dir, 3 * options_.length + 1000);
    for (const std::string_view word : PythonWords(text)) essay_.emplace_back(word);
  }

  /// The one-shot example of vt with its answer; returns its names.
  std::vector<std::string> MakeShot(std::string* shot) {
    const Counter plain(tokenizer_, kTemplates[0]);
    const Fit fit{.build = [this](int64_t units,
                                  int64_t) { return MakeTracking(static_cast<size_t>(units), /*shot=*/true, random_); },
                  .step = 5,
                  .limit = 500,
                  .probed = 5,
                  .least = true,  // a tokenizer of bytes
                  .count = &plain};
    const RulerText text = Shrink(fit, FindUnits(fit), 0).first;
    *shot = fmt::format("{}{} {}\n", text.body, text.prefix, fmt::join(text.outputs, " "));
    return text.outputs;
  }

  /// fwe, whose words are as many as the length allows.
  std::vector<RulerSample> MakeCoded() {
    const int64_t limit = options_.length - task_.max_new;
    const int64_t step = limit / 32, kinds = limit / 50;
    if (kinds < 4) FailTooShort(options_.length, 200 + task_.max_new);
    const auto draw = [&] { return DrawCodedWords(static_cast<size_t>(kinds), random_); };
    std::vector<std::string> words = draw();
    int64_t most = limit / 6;
    while (count_.Tokens(MakeFrequentWords(words, most, random_)) < limit) most += step;
    most -= step;
    std::vector<RulerSample> samples;
    for (int64_t i = 0; i < samples_; ++i) {
      words = draw();
      for (int64_t units = most;; units -= step) {
        if (units <= 0) FailTooShort(options_.length, std::nullopt);
        const RulerText text = MakeFrequentWords(words, units, random_);
        if (text.outputs.empty()) FailTooShort(options_.length, std::nullopt);
        const int64_t tokens = count_.Tokens(text);
        if (tokens > limit) continue;
        Add(text, tokens + task_.max_new, &samples);
        break;
      }
    }
    return samples;
  }

  void Add(const RulerText& text, int64_t length, std::vector<RulerSample>* samples) {
    RulerSample sample{.index = static_cast<int64_t>(samples->size()),
                       .input = count_.Input(text),
                       .answer_prefix = text.prefix,
                       .outputs = text.outputs,
                       .length = length};
    if (task_.kind == kNiah) {
      const std::string_view before = std::string_view(sample.input).substr(0, sample.input.find(text.outputs[0]));
      sample.answer_char = std::ranges::count_if(before, [](char c) { return (c & 0xc0) != 0x80; });
      sample.answer_token = count_.Tokens(before);
    }
    samples->push_back(std::move(sample));
  }

  const RulerTask& task_;
  const RulerOptions& options_;
  const Tokenizer& tokenizer_;
  Counter count_;
  RulerRandom random_;
  int64_t samples_ = options_.samples;
  std::vector<std::string> essay_, vocabulary_;
  RulerKeyWords names_;
  RulerQuestions questions_;
};

}  // namespace

std::span<const RulerTask> RulerTasks() { return kTasks; }

std::vector<const RulerTask*> ParseRulerTasks(std::string_view text) {
  std::vector<const RulerTask*> tasks;
  std::vector<std::string_view> wanted;
  for (const std::string_view list : SplitAt(text, ',')) {
    for (const std::string_view name : SplitAt(list, '+')) wanted.push_back(name);
  }
  std::vector<bool> used(wanted.size(), false);
  for (const RulerTask& task : kTasks) {
    bool take = false;
    for (size_t i = 0; i < wanted.size(); ++i) {
      const bool family = task.name.starts_with(std::string(wanted[i]) + "_");
      if (wanted[i] != "all" && !family && !GlobMatch(wanted[i], task.name)) continue;
      take = used[i] = true;
    }
    if (take) tasks.push_back(&task);
  }
  const auto unknown = std::ranges::find(used, false);
  if (unknown != used.end()) {
    std::vector<std::string_view> known = {"all"};
    for (const RulerTask& task : kTasks) known.push_back(task.name);
    const std::string_view name = wanted[static_cast<size_t>(unknown - used.begin())];
    Fail(ErrorKind::kUsage, "ruler: unknown task '{}'{}", name, SuggestName(name, known));
  }
  return tasks;
}

const RulerTemplate& FindRulerTemplate(std::string_view name) {
  for (const RulerTemplate& form : kTemplates) {
    if (form.name == name) return form;
  }
  std::vector<std::string_view> known;
  for (const RulerTemplate& form : kTemplates) known.push_back(form.name);
  Fail(ErrorKind::kUsage, "ruler: unknown template '{}'{}", name, SuggestName(name, known));
}

std::string RulerSource(const RulerTask& task, const RulerOptions& options) {
  if (task.any()) return FileLabel(QuestionFile(task, options));
  if (task.kind != kNiah) return "";
  if (task.haystack == kEssay) return HaystackLabel(options.haystack);
  return task.haystack == kNoise ? "noise" : "needles";
}

std::vector<RulerSample> MakeRulerSamples(const RulerTask& task, const RulerOptions& options,
                                          const Tokenizer& tokenizer) {
  return WithFrame(fmt::format("ruler {}", task.name), [&] { return Maker(task, options, tokenizer).Make(); });
}

}  // namespace hawser
