// hawser eval MODEL TASK...: measures a model: tasks of questions and answers (eval/task.h), or a measure with options
// of its own (eval_measures.h).
#include <algorithm>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/cli/command.h"
#include "hawser/cli/eval_files.h"
#include "hawser/cli/eval_measures.h"
#include "hawser/cli/eval_tasks.h"
#include "hawser/eval/report.h"
#include "hawser/eval/task_run.h"

namespace hawser {
namespace {

const EvalMeasure* FindMeasure(std::string_view name) {
  const auto found = std::ranges::find(EvalMeasures(), name, &EvalMeasure::name);
  return found == EvalMeasures().end() ? nullptr : &*found;
}

bool Takes(const std::vector<const char*>& flags, std::string_view flag) {
  return std::ranges::find(flags, flag) != flags.end();
}

/// Errors: kUsage for an option that is given and means nothing to `what`, with the reason where `why` has one.
void RefuseOthers(Command command, std::string_view what, const std::vector<const char*>& own,
                  const std::vector<std::pair<const char*, const char*>>& why) {
  for (const auto& [flag, reason] : why) {
    if (command.Has(flag)) Fail(ErrorKind::kUsage, "eval {} takes no {}: {}", what, flag, reason);
  }
  std::vector<std::pair<std::string_view, const std::vector<const char*>*>> others;
  for (const EvalMeasure& measure : EvalMeasures()) others.emplace_back(measure.name, &measure.flags);
  others.emplace_back("of tasks", &TaskFlags());
  for (const auto& [name, flags] : others) {
    for (const char* flag : *flags) {
      if (Takes(own, flag) || !command.Has(flag)) continue;
      Fail(ErrorKind::kUsage, "eval {} takes no {}; eval {} does", what, flag, name);
    }
  }
}

void CheckNames(const EvalOptions& options) {
  std::vector<std::string_view> known;
  for (const EvalMeasure& measure : EvalMeasures()) known.push_back(measure.name);
  for (const Task* task : Tasks()) known.push_back(task->name);
  const auto is_known = [&](std::string_view name) { return std::ranges::find(known, name) != known.end(); };
  for (const std::string& text : options.tasks) {
    const std::string_view name = std::string_view(text).substr(0, text.find(':'));
    if (FindMeasure(name) != nullptr && options.tasks.size() > 1) {
      Fail(ErrorKind::kUsage, "{} is measured by itself: hawser eval {} {}", name, options.model.model.string(), name);
    }
    if (is_known(name)) continue;
    const std::string model = options.model.model.string();
    if (is_known(model)) {
      Fail(ErrorKind::kUsage, "MODEL stands before the task: hawser eval {} {}", name, model);
    }
    Fail(ErrorKind::kUsage, "unknown task '{}'{}", name, SuggestName(name, known));
  }
}

int List(const CommonOptions& common) {
  if (common.json) {
    nlohmann::json list = TaskListJson();
    for (const EvalMeasure& measure : EvalMeasures()) {
      list.push_back({{"name", measure.name}, {"summary", measure.summary}, {"flags", measure.flags}});
    }
    PrintJson({{"tasks", list}});
    return 0;
  }
  std::string text = TaskList() + "\nmeasures, each by itself:\n";
  for (const EvalMeasure& measure : EvalMeasures()) {
    text +=
        fmt::format("  {:<14}  {}\n  {:<14}    {}\n", measure.name, measure.summary, "", fmt::join(measure.flags, " "));
  }
  PrintText(text);
  return 0;
}

int RunEval(const EvalOptions& options, Command command, const CommonOptions& common) {
  if (options.list) return List(common);
  if (options.model.model.empty()) {
    Fail(ErrorKind::kUsage,
         "which model, and which task? hawser eval MODEL TASK...; hawser eval --list shows the tasks");
  }
  if (options.tasks.empty()) {
    Fail(ErrorKind::kUsage, "which task? hawser eval {} TASK...; hawser eval --list shows them",
         options.model.model.string());
  }
  CheckNames(options);
  const TaskOptions fields(options.tasks.front());
  if (const EvalMeasure* measure = FindMeasure(fields.task())) {
    RefuseOthers(command, measure->name, measure->flags, measure->refused);
    return measure->run(options, fields, common);
  }
  RefuseOthers(command, options.tasks.front(), TaskFlags(), {});
  return RunTaskList(options, command.Has("--seed"), common);
}

}  // namespace

std::function<int()> SetupEval(Command command, CommonOptions& common) {
  const auto options = std::make_shared<EvalOptions>();
  AddModelOptions(command, options->model, /*required=*/false);
  AddAdapterOption(command, options->model);
  command.Add("task", options->tasks,
              "What to measure: ppl, retrieval, longppl, compare, or one or more tasks, each as NAME or "
              "NAME:key=value,...; see "
              "--list");
  command.Add("--list", options->list, "Show what can be measured, and its options");
  command.Add("--data", options->data,
              "Text to predict (ppl, longppl, compare): .txt and .jsonl files, or folders of them");
  command.Add("--documents", options->documents, "Documents to ask (retrieval), each as long as --context")
      .Range(1, 1 << 20)
      .ShowDefault();
  AddRunOptions(
      command, *options,
      {.context = "Tokens of a window, or of a task's longest input; default: the model's own context. Of a stream: "
                  "the length declared to position schemes that depend on it; default: they follow what is seen. "
                  "longppl: tokens of the judge that each text is cut to; default: the judge's context, at most "
                  "32768. compare: the same, or of the model where nobody judges",
       .index = "The prefix in this file, which hawser index wrote: the text of ppl goes on behind it, prompts of "
                "tasks and texts of longppl begin with it; compare has index:FILE among its --methods"});
  command.Add("--protocol", options->protocol,
              "windowed (default), streaming, or one of rolling, sliding, truncate, chunk-half, chunk-stride, full, "
              "lines; with --kv the default is streaming");
  command.Add("--max-tokens", options->ppl.max_tokens, "Tokens of text at most; 0: all")
      .Range(0, std::numeric_limits<int64_t>::max());
  command
      .Add("--stride", options->ppl.stride,
           "Slide windows by S tokens, each token predicted once; for sliding and chunk-stride the default is "
           "half the context")
      .Range(0, std::numeric_limits<int64_t>::max());
  command
      .Add("--stretch", options->ppl.stretch,
           "Report a stream by stretches of N tokens (default: at most 128 of them); compare draws stretches of N "
           "tokens (256)")
      .Range(1, std::numeric_limits<int64_t>::max());
  command.Add("--nll", options->nll_file, "Also write the nats of every predicted token, a line each").Writes();
  command.Add("--methods", options->methods,
              "Methods to compare, between semicolons: \"full; sink:4,796; window=256; sepllm @ yarn:factor=2\": a "
              "cache, an attention pattern or index:FILE,keep=0.1, and behind @ a position scheme");
  command.Add("--kept", options->kept, "Keys that each method with a ? in place of a number is to keep: sink:4,?")
      .RangeReal(1, 0x1p40);
  const CommandOption judge =
      command.Add("--judge", options->judge,
                  "Model that says which tokens hang on far text (longppl, compare); may be MODEL itself");
  command.Add("--judge-tokenizer", options->judge_tokenizer, "Its tokenizer, where it brings none");
  command.Add("--judge-rope", options->judge_rope, "Its position scheme instead of its own");
  command.Add("--keys", options->keys, "Instead of a judge: the key tokens of an earlier --save-keys").Excludes(judge);
  command.Add("--save-keys", options->save_keys, "Write the key tokens that the judge found").Writes();
  command.Add("--data-dir", options->data_dir,
              "Folder of the tasks' data (default: HAWSER_DATA); the cache of hawser pull data:NAME is looked in too");
  command
      .Add("--output", options->output,
           "Folder of the run: answers or methods as they come, then results and report.html")
      .WritesFolder();
  command.Add("--bootstrap", options->bootstrap, "Resamples for error bars of perplexities; 0: none, of compare 2000")
      .Range(0, int64_t{1} << 24);
  return [options, command, &common, files = SetupEvalFiles(command, common)] {
    if (const std::optional<int> code = files()) return *code;
    options->keep_given = command.Has("--keep");
    return RunEval(*options, command, common);
  };
}

}  // namespace hawser
