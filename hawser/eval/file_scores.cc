#include "hawser/eval/file_scores.h"

#include <cmath>
#include <functional>
#include <span>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/eval/longbench.h"
#include "hawser/eval/metrics.h"
#include "hawser/eval/niah.h"
#include "hawser/eval/passkey.h"
#include "hawser/eval/ruler_score.h"

namespace hawser {
namespace {

using Scorer = std::function<double(const Prediction&)>;

double ScoreChoice(const Prediction& p) {
  const char letter = LongBenchChoice(p.text);
  return letter != 0 && p.references[0] == std::string(1, letter) ? 1 : 0;
}

double ScorePasskey(const Prediction& p) { return PasskeyFound(p.layout, p.text, p.references[0]) ? 1 : 0; }

/// As the task scores them: a share of ten, or of the numbers.
double ScoreNeedle(const Prediction& p) {
  return p.layout == "four" ? NumbersFound(p.text, p.references) : JudgeNeedle(p.text) / 10.0;
}

struct NamedScorer {
  std::string_view name;
  double (*score)(const Prediction&);
};
constexpr NamedScorer kOthers[] = {
    {"longbench_v2", ScoreChoice},
    {"infinitebench_passkey", [](const Prediction& p) { return FirstDigitsAre(p.text, p.references[0]) ? 1.0 : 0.0; }},
    {"passkey", ScorePasskey},
    {"niah", ScoreNeedle},
};

Scorer FindScorer(std::string_view task) {
  for (const RulerTask& of : RulerTasks()) {
    if (of.name == task) return [&of](const Prediction& p) { return ScoreRuler(of, p.text, p.references); };
  }
  if (const LongBenchSet* set = FindLongBenchSet(task)) {
    const bool by_length = task.ends_with("_e");
    return [set, by_length](const Prediction& p) {
      CheckLongBenchLine(*set, by_length, p.classes, p.length);
      return LongBenchScore(*set, p.text, p.references, p.classes);
    };
  }
  for (const NamedScorer& other : kOthers) {
    if (other.name == task) return other.score;
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

}  // namespace

std::vector<std::string_view> OtherScorers() {
  std::vector<std::string_view> names;
  for (const NamedScorer& other : kOthers) names.push_back(other.name);
  return names;
}

double ScorePrediction(std::string_view task, const Prediction& prediction) { return FindScorer(task)(prediction); }

std::vector<FileScore> ScoreFile(std::string_view task, const std::filesystem::path& path) {
  const Scorer score = FindScorer(task);
  using Values = std::vector<MetricValue>;
  Values all;
  std::vector<std::pair<std::string, Values>> parts;  // in the order in which they come
  for (const Prediction& prediction : ReadPredictions(path)) {
    const std::string which = fmt::format("{}: item {}", path.string(), prediction.id);
    const MetricValue value{.value = WithFrame(which, [&] { return score(prediction); })};
    all.push_back(value);
    for (const std::string& part : PartsOf(task, prediction)) {
      if (part.empty()) continue;
      auto found = std::ranges::find(parts, part, &std::pair<std::string, Values>::first);
      if (found == parts.end()) found = parts.insert(parts.end(), {part, {}});
      found->second.push_back(value);
    }
  }
  std::vector<FileScore> scores = {ScoreOf("all", all)};
  for (const auto& [part, values] : parts) scores.push_back(ScoreOf(part, values));
  return scores;
}

}  // namespace hawser
