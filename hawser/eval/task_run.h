// eval/task_run.h - tasks from their texts to results: samples, answers, scores, and the files of an evaluation.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "hawser/eval/lm.h"
#include "hawser/eval/task.h"

namespace hawser {

struct TaskRunOptions {
  std::vector<std::string> tasks;  // "NAME:key=value,...", all asked together
  std::filesystem::path data_dir = {};
  std::filesystem::path output = {};  // folder of the run; empty: no files
  bool resume = false;
  int64_t limit = 0;
  uint64_t seed = 0;
  bool seed_given = false;
  bool chat = false;
  int64_t bootstrap = 0;      // resamples of error bars that have no formula
  nlohmann::json model = {};  // how the model was opened, for the files: {"model": PATH, "dtype": ..., ...}
};

struct TaskRunResult {
  nlohmann::json results;           // as in results_*.json
  std::string text;                 // for people
  std::filesystem::path file = {};  // results_*.json
  bool finished_before = false;     // nothing was left to ask
};

/// What the tasks ask, in their order. Errors: as RunTasks.
std::vector<LmRequest> TaskRequests(const TaskRunOptions& options, const Tokenizer& tokenizer, int64_t max_length);

/// With `output`: OUTPUT/answers.jsonl grows while the model answers; OUTPUT/MODEL/samples_TASK_TIME.jsonl and last
/// OUTPUT/MODEL/results_TIME.json are written when all is known, in the forms of lm-evaluation-harness, and before it
/// Task::predictions. TIME is that of the first start. Errors: those of the tasks and of AnswerLog; kUsage for a task
/// named twice.
TaskRunResult RunTasks(Lm* lm, const Tokenizer& tokenizer, const TaskRunOptions& options);

/// Every task with what it measures, for --list.
std::string TaskList();
nlohmann::json TaskListJson();

}  // namespace hawser
