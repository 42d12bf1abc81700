#include "hawser/eval/ruler_score.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "hawser/base/error.h"
#include "hawser/base/folder.h"
#include "hawser/base/text.h"
#include "hawser/eval/answer_text.h"
#include "hawser/eval/python_text.h"
#include "hawser/eval/report.h"

namespace hawser {
namespace {

/// Stripped, control characters as line ends, stripped again.
std::string Cleaned(std::string_view answer) {
  std::string text(PythonStrip(answer));
  for (char& c : text) {
    if (static_cast<unsigned char>(c) < 0x20) c = '\n';
  }
  return std::string(PythonStrip(text));
}

/// The model of a file of `task`; nothing where it is no file of that task.
std::optional<std::string> ModelOf(std::string_view stem, std::string_view task) {
  if (!stem.starts_with(task)) return std::nullopt;
  stem.remove_prefix(task.size());
  if (stem.empty()) return "";
  if (stem.front() == '.') return std::string(stem.substr(1));
  if (stem.front() == '-' && ParseNumber<int64_t>(stem.substr(1))) return "";
  return std::nullopt;
}

int64_t PieceOf(const std::filesystem::path& file) {
  const std::string stem = file.stem().string();
  const size_t dash = stem.rfind('-');
  return dash == stem.npos ? -1 : ParseNumber<int64_t>(std::string_view(stem).substr(dash + 1)).value_or(-1);
}

}  // namespace

double ScoreRuler(const RulerTask& task, std::string_view answer, const std::vector<std::string>& references) {
  const std::string text = LowerText(Cleaned(answer));
  const auto found = static_cast<double>(std::ranges::count_if(
      references, [&](const std::string& reference) { return text.find(LowerText(reference)) != text.npos; }));
  if (references.empty()) return 0;
  return task.any() ? (found > 0 ? 1 : 0) : found / static_cast<double>(references.size());
}

std::vector<RulerTaskScore> ScoreRulerFolder(const std::filesystem::path& folder) {
  std::map<std::string, std::map<size_t, std::vector<std::filesystem::path>>> files;  // by model and task
  for (const std::filesystem::path& file : EntriesOf(folder)) {
    if (file.extension() != ".jsonl") continue;
    for (size_t t = 0; t < RulerTasks().size(); ++t) {
      const auto model = ModelOf(file.stem().string(), RulerTasks()[t].name);
      if (model) files[*model][t].push_back(file);
    }
  }
  if (files.empty()) {
    Fail(ErrorKind::kUsage, "{}: no predictions; wanted files such as niah_single_1.jsonl", folder.string());
  }
  std::vector<RulerTaskScore> scores;
  for (auto& [model, tasks] : files) {
    for (auto& [t, pieces] : tasks) {
      std::ranges::stable_sort(pieces, {}, PieceOf);
      RulerTaskScore score{.task = &RulerTasks()[t], .model = model};
      double sum = 0;
      AnswerCheck check(score.task->name);
      for (const std::filesystem::path& piece : pieces) {
        for (Prediction& prediction : ReadPredictions(piece, &check)) {
          sum += ScoreRuler(*score.task, prediction.text, prediction.references);
          score.empty += Cleaned(prediction.text).empty();
          score.predictions.push_back(std::move(prediction));
        }
      }
      score.samples = static_cast<int64_t>(score.predictions.size());
      score.score = std::round(sum / static_cast<double>(score.samples) * 1e4) / 1e2;
      scores.push_back(std::move(score));
    }
  }
  return scores;
}

std::string RulerSummaryCsv(const std::vector<RulerTaskScore>& scores) {
  std::string names = "Tasks", values = "Score", nulls = "Nulls";
  for (const RulerTaskScore& score : scores) {
    names += fmt::format(",{}", score.task->name);
    values += fmt::format(",{}", score.score);
    nulls += fmt::format(",{}/{}", score.empty, score.samples);
  }
  return names + "\n" + values + "\n" + nulls + "\n";
}

std::string RulerSubmissionCsv(const std::vector<RulerTaskScore>& scores) {
  std::string csv = "Task,ID,Prediction\n";
  for (const RulerTaskScore& score : scores) {
    for (const Prediction& prediction : score.predictions) {
      csv += fmt::format("{},{},{}\n", score.task->name, CsvField(prediction.id), CsvField(Cleaned(prediction.text)));
    }
  }
  return csv;
}

}  // namespace hawser
