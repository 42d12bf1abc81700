#include "hawser/eval/task_run.h"

#include <algorithm>
#include <chrono>
#include <ctime>
#include <optional>
#include <set>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/origin.h"
#include "hawser/base/progress.h"
#include "hawser/eval/answer_log.h"
#include "hawser/eval/report.h"
#include "hawser/eval/task_report.h"
#include "hawser/eval/task_results.h"
#include "hawser/io/json_text.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

std::vector<ScoredTask> MakeSamples(int64_t max_length, const Tokenizer& tokenizer, const TaskRunOptions& options) {
  std::vector<ScoredTask> tasks;
  std::set<std::string> names;
  for (const std::string& text : options.tasks) {
    ScoredTask scored{.options = TaskOptions(text)};
    scored.task = &FindTask(scored.options.task());
    if (!names.insert(scored.options.task()).second) {
      Fail(ErrorKind::kUsage, "task {} is given twice", scored.options.task());
    }
    tasks.push_back(std::move(scored));
  }
  for (ScoredTask& scored : tasks) {
    const TaskInput input{.options = scored.options,
                          .data_dir = options.data_dir,
                          .tokenizer = &tokenizer,
                          .max_length = max_length,
                          .seed = options.seed,
                          .seed_given = options.seed_given,
                          .limit = options.limit,
                          .chat = options.chat};
    scored.samples = WithFrame(fmt::format("task {}", scored.task->name), [&] { return scored.task->samples(input); });
    scored.options = input.options;
    scored.options.CheckAllUsed();
    if (scored.samples.empty()) Fail(ErrorKind::kUsage, "task {}: there is nothing to ask", scored.task->name);
  }
  return tasks;
}

/// "2026-03-01T12-00-00" in UTC.
std::string TimeName(int64_t seconds) {
  const auto time = static_cast<std::time_t>(seconds);
  std::tm utc{};
  gmtime_r(&time, &utc);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H-%M-%S", &utc);
  return text;
}

/// As the harness makes names of files out of names of models.
std::string Sanitized(std::string_view name) {
  std::string text;
  for (const char c : name) {
    if (std::string_view("\"<>:/|\\?*[]").find(c) != std::string_view::npos) {
      text += "__";
    } else {
      text += c;
    }
  }
  return text;
}

std::string ModelName(const nlohmann::json& model) {
  const fs::path path = model.value("model", "model");
  const std::string name = (path.has_filename() ? path : path.parent_path()).filename().string();
  return Sanitized(name.empty() ? "model" : name);
}

nlohmann::json RunJson(const Lm& lm, const TaskRunOptions& options) {
  nlohmann::json json = {{"engine", lm.Describe()}, {"model", options.model}, {"tasks", options.tasks}};
  json["limit"] = options.limit > 0 ? nlohmann::json(options.limit) : nlohmann::json();
  json["seed"] = options.seed_given ? nlohmann::json(options.seed) : nlohmann::json();
  return json;
}

std::vector<LmRequest> RequestsOf(const std::vector<ScoredTask>& tasks) {
  std::vector<LmRequest> requests;
  for (const ScoredTask& scored : tasks) {
    for (const Sample& sample : scored.samples) {
      requests.insert(requests.end(), sample.requests.begin(), sample.requests.end());
    }
  }
  return requests;
}

}  // namespace

std::vector<LmRequest> TaskRequests(const TaskRunOptions& options, const Tokenizer& tokenizer, int64_t max_length) {
  return RequestsOf(MakeSamples(max_length, tokenizer, options));
}

TaskRunResult RunTasks(Lm* lm, const Tokenizer& tokenizer, const TaskRunOptions& options) {
  const auto start = std::chrono::steady_clock::now();
  if (options.resume && options.output.empty()) Fail(ErrorKind::kUsage, "--resume goes on in a folder: name --output");
  std::vector<ScoredTask> tasks = MakeSamples(lm->max_length(), tokenizer, options);
  const std::vector<LmRequest> requests = RequestsOf(tasks);
  const nlohmann::json run = RunJson(*lm, options);
  std::optional<AnswerLog> log;
  if (!options.output.empty()) log.emplace(options.output, run, requests, options.resume);
  std::vector<LmAnswer> answers(requests.size());
  std::vector<bool> known(requests.size(), false);
  for (size_t r = 0; log && r < requests.size(); ++r) {
    if (!log->answers()[r]) continue;
    answers[r] = *log->answers()[r];
    known[r] = true;
  }
  TaskRunResult result{.finished_before = log && log->known() == requests.size()};
  if (log && log->known() > 0) {
    LogLine(fmt::format("{} of {} questions were answered before", HumanCount(static_cast<int64_t>(log->known())),
                        HumanCount(static_cast<int64_t>(requests.size()))));
  }
  if (!result.finished_before) {
    lm->Answer(requests, known, [&](std::span<const NumberedAnswer> some) {
      if (log) log->Add(some);
      for (const NumberedAnswer& numbered : some) answers[numbered.request] = numbered.answer;
    });
  }
  size_t next = 0;
  for (ScoredTask& scored : tasks) {
    for (const Sample& sample : scored.samples) {
      std::vector<LmAnswer> of;
      for (size_t r = 0; r < sample.requests.size(); ++r) of.push_back(std::move(answers[next++]));
      scored.scores.push_back(scored.task->score(sample, of));
      scored.answers.push_back(std::move(of));
    }
  }

  result.results = ResultsOf(tasks, options.bootstrap);
  nlohmann::json& json = result.results;
  const Origin origin = ThisRun();
  const nlohmann::json engine = lm->Describe();
  json["config"] = {{"model", "hawser"},
                    {"model_args", options.model},
                    {"model_num_parameters", engine.value("parameters", 0)},
                    {"model_dtype", engine.value("weights_dtype", "")},
                    {"batch_size", "auto"},
                    {"device", "cpu"},
                    {"limit", run["limit"]},
                    {"bootstrap_iters", options.bootstrap},
                    {"gen_kwargs", nullptr},
                    {"random_seed", 0},
                    {"numpy_seed", 1234},
                    {"torch_seed", 1234},
                    {"fewshot_seed", options.seed_given ? options.seed : 1234}};
  json["engine"] = engine;
  json["engine"]["version"] = origin.version;
  json["engine"]["machine"] = origin.machine;
  json["engine"]["command"] = origin.command;
  json["git_hash"] = nullptr;
  json["date"] = log ? log->started() : static_cast<int64_t>(std::time(nullptr));
  json["max_length"] = lm->max_length();
  json["eot_token_id"] = tokenizer.eos();
  const auto token = [&](int32_t id) {
    return id < 0 ? nlohmann::json() : nlohmann::json({tokenizer.Display(id), std::to_string(id)});
  };
  json["tokenizer_bos_token"] = token(tokenizer.bos());
  json["tokenizer_eos_token"] = token(tokenizer.eos());
  json["model_source"] = "hawser";
  json["model_name"] = options.model.value("model", "");
  json["model_name_sanitized"] = ModelName(options.model);
  json["chat_template"] = options.chat ? nlohmann::json(tokenizer.chat_template()) : nlohmann::json();
  json["task_hashes"] = nlohmann::json::object();
  const auto shown = [&](const LmRequest& request) { return lm->Shown(request); };
  for (const ScoredTask& scored : tasks) json["task_hashes"].update(nlohmann::json(TaskHashes(scored, shown)));
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  json["total_evaluation_time_seconds"] = fmt::format("{:.3f}", seconds);
  result.text = ResultsTable(json);
  if (!log) return result;

  const fs::path folder = options.output / ModelName(options.model);
  const std::string time = TimeName(log->started());
  result.file = folder / fmt::format("results_{}.json", time);
  std::error_code code;
  if (result.finished_before && fs::exists(result.file, code)) return result;
  result.finished_before = false;
  MakeDirectories(folder);
  for (const ScoredTask& scored : tasks) {
    for (const auto& [row, lines] : SampleLogs(scored, shown)) {
      WriteFileAtomically(folder / fmt::format("samples_{}_{}.jsonl", Sanitized(row), time), lines);
    }
    if (scored.task->predictions == nullptr) continue;
    for (const auto& [name, lines] : scored.task->predictions(scored.samples, scored.answers)) {
      const fs::path file = options.output / name;
      MakeDirectories(file.parent_path());
      WriteFileAtomically(file, lines);
    }
  }
  const ReportRun run_shown{.name = ModelName(options.model), .results = json};
  WriteTaskReport(options.output / "report.html",
                  MakeTaskReport("Evaluation of " + run_shown.name, std::span(&run_shown, 1)));
  WriteFileAtomically(result.file, JsonText(json, 2) + "\n");
  return result;
}

std::string TaskList() {
  std::string text = "tasks:\n";
  for (const Task* task : Tasks()) {
    text += fmt::format("  {:<14}  {}{}\n", task->name, task->summary,
                        task->data.empty() ? "" : fmt::format(" (data:{})", task->data));
    if (!task->options.empty()) text += fmt::format("  {:<14}    {}\n", "", task->options);
  }
  return text;
}

nlohmann::json TaskListJson() {
  nlohmann::json list = nlohmann::json::array();
  for (const Task* task : Tasks()) {
    nlohmann::json metrics = nlohmann::json::array();
    for (const Metric& metric : task->metrics) metrics.push_back(fmt::format("{},{}", metric.name, metric.filter));
    list.push_back({{"name", task->name},
                    {"summary", task->summary},
                    {"version", task->version},
                    {"options", task->options},
                    {"data", task->data},
                    {"metrics", metrics}});
  }
  return list;
}

}  // namespace hawser
