// eval/task.h - a task is a value: samples that ask a model, and a score of the answers. A new task is one file with a
// Task in it and its name in tasks.h and tasks.cc; runner, files, error bars and resuming are everybody's.
#pragma once

#include <algorithm>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/eval/lm.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

/// NAME or NAME:key=value,key=value; lists are joined by +. Getters note what was asked for, with its default, so that
/// the values in force can be told and a key that nobody asks for is refused.
class TaskOptions {
 public:
  TaskOptions() = default;
  /// Errors: kUsage (a pair without '=', a key given twice).
  explicit TaskOptions(std::string_view text);

  const std::string& task() const { return task_; }
  bool Given(const std::string& key) const { return given_.contains(key); }
  std::string Text(const std::string& key, const std::string& fallback) const;
  /// Whole numbers may be sizes (base/size.h). Errors: kUsage naming key and bounds.
  int64_t Int(const std::string& key, int64_t fallback, int64_t low, int64_t high) const;
  double Real(const std::string& key, double fallback, double low, double high) const;
  std::vector<std::string> List(const std::string& key, const std::string& fallback) const;
  std::vector<int64_t> Ints(const std::string& key, const std::string& fallback, int64_t low, int64_t high) const;
  /// One of `known`. Errors: kUsage with the known ones.
  std::string OneOf(const std::string& key, const std::string& fallback, std::span<const std::string_view> known) const;

  /// Errors: kUsage for keys that were given and not asked for.
  void CheckAllUsed() const;
  /// Every key that was asked for, with the value in force.
  const std::map<std::string, std::string>& used() const { return used_; }

 private:
  std::string task_;
  std::map<std::string, std::string> given_;
  mutable std::map<std::string, std::string> used_;
};

/// Errors: kUsage where the list of `key` names a value twice: what counts twice would narrow error bars.
template <class T>
void CheckNoneTwice(std::string_view key, std::span<const T> values) {
  for (auto value = values.begin(); value != values.end(); ++value) {
    if (std::find(values.begin(), value, *value) == value) continue;
    Fail(ErrorKind::kUsage, "{}: {} is given twice", key, *value);
  }
}

struct TaskInput {
  TaskOptions options;
  std::filesystem::path data_dir = {};   // --data-dir; empty: data_files.h says where
  const Tokenizer* tokenizer = nullptr;  // of the model, for tasks that fit lengths
  int64_t max_length = 0;                // the model's longest input, tokens
  uint64_t seed = 0;
  bool seed_given = false;  // else the task's own
  int64_t limit = 0;        // samples of each result row at most, the first ones; 0: all
  bool chat = false;        // contexts become turns of a chat
};

/// One document of a data set, or one made up.
struct Sample {
  std::string row = {};                  // of results it counts in: "mmlu_anatomy"; empty: the task's name
  std::vector<std::string> groups = {};  // rows that sum it up, one the next: {"mmlu_stem", "mmlu"}
  std::vector<std::string> also = {};    // further rows that sum it up, each by itself
  int64_t id = 0;                        // in its row, from 0
  std::shared_ptr<const nlohmann::ordered_json> doc = {};  // the document, as the log shows it; null: {}
  std::string target = {};                                 // the answer wanted, for the log
  int64_t of = 0;                                          // samples of its row before --limit; 0: as many as there are
  std::vector<LmRequest> requests = {};
  // What score() needs: any of these.
  int32_t gold = -1;                                    // the right choice
  std::vector<std::string> choices = {};                // as their lengths are counted
  std::vector<std::string> references = {};             // right answers
  std::vector<double> numbers = {};                     // words and bytes, ...
  std::vector<std::pair<std::string, double>> at = {};  // its place in a grid, {"length", 4096}, {"depth", 0.5}: cells
  std::vector<std::pair<std::string, double>> facts = {};  // for the log: prompt tokens, place of the key, ...
};

/// How the values v with weights w of the samples of a row become one number.
enum class Mean : uint8_t {
  kMean,         // sum v w / sum w, error bar: standard deviation (n - 1) / sqrt(n)
  kPerplexity,   // exp(-mean v), error bar by bootstrap where that is asked for
  kPerUnit,      // exp(-sum v / sum w): perplexity of a word or byte
  kBitsPerUnit,  // -sum v / (sum w ln 2)
};

struct Metric {
  std::string_view name;
  std::string_view filter = "none";
  Mean mean = Mean::kMean;
  bool higher_is_better = true;
};

/// NaN: the sample does not count in this metric.
struct MetricValue {
  double value = 0;
  double weight = 1;
};

struct SampleScore {
  std::vector<MetricValue> values;                                // one a metric of the task
  std::map<std::string, std::string, std::less<>> filtered = {};  // text that a filter made of the answer, by filter
};

using TaskFigures = std::map<std::string, std::map<std::string, double>>;

struct Task {
  std::string_view name, summary;
  int32_t version = 1;
  /// Deterministic. Errors: kUsage (options), and those of data_files.h.
  std::vector<Sample> (*samples)(const TaskInput& input) = nullptr;
  /// `answers`: one a request of the sample.
  SampleScore (*score)(const Sample& sample, std::span<const LmAnswer> answers) = nullptr;
  std::vector<Metric> metrics;
  bool rows_weigh_alike = false;  // a group is the mean of what stands below it; else of all its samples
  std::string_view options = "";  // for people: "shots=K, subjects=A+B"
  std::string_view data = "";     // what `hawser pull data:NAME` fetches for it; empty: it needs nothing
  /// The answers as the scorers of the benchmark read them: contents of files by their path in the folder of the run.
  /// `answers`: those of each sample. Null: the sample logs are all.
  std::map<std::string, std::string> (*predictions)(std::span<const Sample> samples,
                                                    std::span<const std::vector<LmAnswer>> answers) = nullptr;
  /// What is neither a mean of a row nor of a cell, by row or kind of rows: {"passkey_landmark": {"k_max": 2048}}.
  TaskFigures (*figures)(std::span<const Sample> samples, std::span<const SampleScore> scores) = nullptr;
};

/// All tasks, in the order of --list.
std::span<const Task* const> Tasks();
/// The task of `options`. Errors: kUsage with the nearest names.
const Task& FindTask(std::string_view name);

}  // namespace hawser
