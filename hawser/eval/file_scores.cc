#include "hawser/eval/file_scores.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <span>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/eval/context_lines.h"
#include "hawser/eval/gsm8k.h"
#include "hawser/eval/logged_sample.h"
#include "hawser/eval/longbench.h"
#include "hawser/eval/metrics.h"
#include "hawser/eval/mmlu_subjects.h"
#include "hawser/eval/niah.h"
#include "hawser/eval/passkey.h"
#include "hawser/eval/ruler_score.h"
#include "hawser/eval/tasks.h"

namespace hawser {
namespace {

using Scorer = std::function<double(const Prediction&)>;

constexpr std::string_view kAll = "all";

double ScoreChoice(const Prediction& p) {
  const char letter = LongBenchChoice(p.text);
  return letter != 0 && p.references[0] == std::string(1, letter) ? 1 : 0;
}

double ScorePasskey(const Prediction& p) { return PasskeyFound(p.layout, p.text, p.references[0]) ? 1 : 0; }

/// As the task scores them: a share of ten, or of the numbers.
double ScoreNeedle(const Prediction& p) {
  return p.layout == "four" ? NumbersFound(p.text, p.references) : JudgeNeedle(p.text) / 10.0;
}

/// The whole needle, or half of the numbers.
double FindNeedle(const Prediction& p) {
  return p.layout == "four" ? NumbersFound(p.text, p.references) >= 0.5 : JudgeNeedle(p.text) == 10;
}

double ScoreDigits(const Prediction& p) { return FirstDigitsAre(p.text, p.references[0]) ? 1 : 0; }

/// `find`: the answer in what was worked out. A reference is a number, or a solution that ends in one.
template <std::string (*find)(std::string_view)>
double ScoreWorked(const Prediction& p) {
  return Gsm8kNormalized(find(p.text)) == Gsm8kNormalized(p.references[0]) ? 1 : 0;
}

struct NamedScorer {
  std::string_view name, metric;  // a task may have several
  double (*score)(const Prediction&);
};
constexpr NamedScorer kOthers[] = {
    {"longbench_v2", kAll, ScoreChoice},
    {"infinitebench_passkey", kAll, ScoreDigits},
    {"passkey", kAll, ScorePasskey},
    {"niah", kAll, ScoreNeedle},
    {"niah", "found", FindNeedle},
    {"gsm8k", "strict-match", ScoreWorked<Gsm8kStrict>},
    {"gsm8k", "flexible-extract", ScoreWorked<Gsm8kFlexible>},
    {"gsm8k_cot", "strict-match", ScoreWorked<Gsm8kCotStrict>},
    {"gsm8k_cot", "flexible-extract", ScoreWorked<Gsm8kFlexible>},
};

/// Tasks that ask for likelihoods. Their scores come from sample logs.
constexpr const Task* kLikelihoods[] = {&kMmlu, &kHellaswag,  &kArcEasy, &kArcChallenge,
                                        &kPiqa, &kWinogrande, &kLambada, &kWikitext};

bool IsMmlu(std::string_view part) {
  const std::vector<std::string_view> subjects = MmluSubjects();
  return std::ranges::find(subjects, part) != subjects.end() ||
         std::ranges::find(MmluCategories(), part, &MmluCategory::name) != MmluCategories().end();
}

/// Subjects and groups of MMLU are scored alike. Null: none of these tasks.
const Task* FindLikelihoods(std::string_view task) {
  const auto found = std::ranges::find_if(kLikelihoods, [&](const Task* of) {
    return of->name == task || (of == &kMmlu && task.starts_with("mmlu_") && IsMmlu(task.substr(5)));
  });
  return found == std::end(kLikelihoods) ? nullptr : *found;
}

struct Choices {
  const Task* task;
  size_t least, most;
};
constexpr Choices kChoices[] = {{&kMmlu, 4, 4},         {&kHellaswag, 4, 4}, {&kArcEasy, 3, 5},
                                {&kArcChallenge, 3, 5}, {&kPiqa, 2, 2},      {&kWinogrande, 2, 2}};

SampleScore ScoreLogged(const Task& task, const nlohmann::json& line) {
  const LoggedSample logged = ReadLoggedSample(line);
  const size_t answers = logged.answer.likelihoods.size();
  const bool one = &task == &kLambada || &task == &kWikitext;
  if (one != (answers == 1)) {
    Fail(ErrorKind::kFormat, "\"resps\": wanted {}, found {} of them", one ? "one answer" : "an answer a choice",
         answers);
  }
  if (&task == &kWikitext && logged.sample.numbers.empty()) {
    Fail(ErrorKind::kFormat, "\"doc\": wanted the \"page\", whose words are counted");
  }
  if (&task == &kLambada && (logged.sample.choices.size() != 1 || !logged.greedy_told)) {
    Fail(ErrorKind::kFormat, "wanted a word in \"arguments\", and in \"resps\" whether it is the likeliest");
  }
  const auto wanted = std::ranges::find(kChoices, &task, &Choices::task);
  if (wanted != std::end(kChoices) && (answers < wanted->least || answers > wanted->most)) {
    Fail(ErrorKind::kFormat, "{} has {} to {} choices, found {}", task.name, wanted->least, wanted->most, answers);
  }
  if (!one && logged.one_choice != (&task == &kWinogrande)) {
    Fail(ErrorKind::kFormat, "this is {} log of winogrande", logged.one_choice ? "a" : "no");
  }
  return task.score(logged.sample, std::span(&logged.answer, 1));
}

std::vector<FileScore> ScoreLog(const Task& task, const std::filesystem::path& path, AnswerCheck* check) {
  std::vector<std::vector<MetricValue>> values(task.metrics.size());
  nlohmann::json filter;
  ReadJsonItems(path, [&](const nlohmann::json& line) {
    if (IsOtherFilter(line, &filter)) return true;
    check->See(line);
    const SampleScore score = ScoreLogged(task, line);
    std::vector<AnswerCheck::Beside> beside;
    for (size_t m = 0; m < values.size(); ++m) {
      values[m].push_back(score.values[m]);
      const auto told = line.find(task.metrics[m].name);
      if (told != line.end() && told->is_number()) beside.push_back({told->get<double>(), score.values[m].value});
    }
    check->Compare(beside);
    check->SeeFiltered(line);
    return true;
  });
  if (values[0].empty()) Fail(ErrorKind::kFormat, "{}: no samples", path.string());
  std::vector<FileScore> scores;
  for (size_t m = 0; m < values.size(); ++m) {
    const Metric& metric = task.metrics[m];
    const MetricSummary summary = Summarize(metric, values[m]);
    if (summary.samples == 0) continue;  // acc_norm of letters
    const bool percent = metric.mean == Mean::kMean;
    const double scale = percent ? 100 : 1;
    scores.push_back({.part = std::string(metric.name),
                      .score = percent ? std::round(summary.value * 1e4) / 1e2 : summary.value,
                      .error = scale * summary.error,
                      .samples = summary.samples,
                      .percent = percent});
  }
  return scores;
}

/// At least one, each with the name of what it measures.
std::vector<std::pair<std::string_view, Scorer>> FindScorers(std::string_view task) {
  for (const RulerTask& of : RulerTasks()) {
    if (of.name != task) continue;
    return {{kAll, [&of](const Prediction& p) { return ScoreRuler(of, p.text, p.references); }}};
  }
  if (const LongBenchSet* set = FindLongBenchSet(task)) {
    const bool by_length = task.ends_with("_e");
    return {{kAll, [set, by_length](const Prediction& p) {
               CheckLongBenchLine(*set, by_length, p.classes, p.length);
               return LongBenchScore(*set, p.text, p.references, p.classes);
             }}};
  }
  std::vector<std::pair<std::string_view, Scorer>> found;
  for (const NamedScorer& other : kOthers) {
    if (other.name == task) found.emplace_back(other.metric, other.score);
  }
  if (!found.empty()) return found;
  if (FindLikelihoods(task) != nullptr) {
    Fail(ErrorKind::kUsage, "{} asks for likelihoods, which no text has: it is scored from the log of its samples",
         task);
  }
  std::vector<std::string_view> known = OtherScorers();
  for (const RulerTask& of : RulerTasks()) known.push_back(of.name);
  for (const LongBenchSet& set : LongBenchSets()) known.push_back(set.name);
  Fail(ErrorKind::kUsage, "no scorer for '{}'{}", task, SuggestName(task, known));
}

std::vector<std::string> PartsOf(std::string_view task, const Prediction& p) {
  if (task == "longbench_v2") return {p.difficulty, p.size};
  if (FindLongBenchSet(task) != nullptr && task.ends_with("_e")) {
    return {p.length < 4000 ? "0-4k" : p.length < 8000 ? "4-8k" : "8k+"};
  }
  return {};
}

FileScore ScoreOf(std::string part, std::span<const MetricValue> values) {
  const MetricSummary summary = Summarize({.name = "score"}, values);
  return {.part = std::move(part),
          .score = std::round(summary.value * 1e4) / 1e2,
          .error = 100 * summary.error,
          .samples = summary.samples};
}

std::vector<FileScore> ScoreTexts(std::string_view task, const std::filesystem::path& path, AnswerCheck* check) {
  const auto scorers = FindScorers(task);
  const std::vector<Prediction> predictions = ReadPredictions(path, check);
  using Values = std::vector<MetricValue>;
  std::vector<FileScore> scores;
  for (const auto& [metric, score] : scorers) {
    Values all;
    std::vector<std::pair<std::string, Values>> parts;  // in the order in which they come
    for (const Prediction& prediction : predictions) {
      const std::string which = fmt::format("{}: item {}", path.string(), prediction.id);
      const MetricValue value{.value = WithFrame(which, [&, &score = score] { return score(prediction); })};
      all.push_back(value);
      const AnswerCheck::Beside beside{prediction.told, value.value};
      if (metric == kAll || prediction.filter == metric) check->Compare({&beside, 1});
      for (const std::string& part : PartsOf(task, prediction)) {
        if (part.empty()) continue;
        auto found = std::ranges::find(parts, part, &std::pair<std::string, Values>::first);
        if (found == parts.end()) found = parts.insert(parts.end(), {part, {}});
        found->second.push_back(value);
      }
    }
    scores.push_back(ScoreOf(std::string(metric), all));
    for (const auto& [part, values] : parts) scores.push_back(ScoreOf(part, values));
  }
  return scores;
}

}  // namespace

std::vector<std::string_view> OtherScorers() {
  std::vector<std::string_view> names;
  for (const NamedScorer& other : kOthers) {
    if (std::ranges::find(names, other.name) == names.end()) names.push_back(other.name);
  }
  for (const Task* task : kLikelihoods) names.push_back(task->name);
  return names;
}

double ScorePrediction(std::string_view task, const Prediction& prediction) {
  return FindScorers(task).front().second(prediction);
}

std::vector<FileScore> ScoreFile(std::string_view task, const std::filesystem::path& path) {
  const Task* likelihoods = FindLikelihoods(task);
  if (likelihoods == nullptr) FindScorers(task);  // is it one at all?
  CheckLogName(task, path);
  AnswerCheck check(task);
  std::vector<FileScore> scores =
      likelihoods != nullptr ? ScoreLog(*likelihoods, path, &check) : ScoreTexts(task, path, &check);
  if (const std::string note = check.Contradictions(); !note.empty()) {
    LogLine(fmt::format("note: {}: {}", path.string(), note));
  }
  return scores;
}

}  // namespace hawser
