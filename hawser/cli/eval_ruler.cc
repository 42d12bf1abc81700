// hawser eval ruler gen|run|score: RULER from file to file.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/cli/eval_files.h"
#include "hawser/cli/eval_tasks.h"
#include "hawser/eval/report.h"
#include "hawser/eval/ruler.h"
#include "hawser/eval/ruler_files.h"
#include "hawser/eval/ruler_score.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

struct GenOptions {
  RulerOptions ruler;
  std::string tasks = "all";
  ModelOptions model;  // the tokenizer's
  fs::path out;
};

int RunRulerGen(GenOptions options, Command command, const CommonOptions& common) {
  if (command.Has("--seed")) options.ruler.seed = common.seed;
  const std::vector<const RulerTask*> tasks = ParseRulerTasks(options.tasks);
  const std::unique_ptr<Tokenizer> tokenizer = OpenTokenizer(options.model);
  MakeDirectories(options.out);
  nlohmann::json made = nlohmann::json::array();
  TextTable table({"task", "samples", "longest", "text", "file"});
  ProgressBar bar("ruler", static_cast<int64_t>(tasks.size()));
  for (const RulerTask* task : tasks) {
    const std::vector<RulerSample> samples = MakeRulerSamples(*task, options.ruler, *tokenizer);
    const fs::path file = options.out / fmt::format("{}.jsonl", task->name);
    WriteFileAtomically(file, RulerDataLines(samples));
    int64_t longest = 0;
    for (const RulerSample& sample : samples) longest = std::max(longest, sample.length);
    const std::string source = RulerSource(*task, options.ruler);
    made.push_back({{"task", task->name},
                    {"samples", samples.size()},
                    {"longest", longest},
                    {"text", source},
                    {"file", file.string()}});
    table.Row({std::string(task->name), HumanCount(static_cast<int64_t>(samples.size())), HumanCount(longest), source,
               file.string()});
    bar.Update(static_cast<int64_t>(made.size()), task->name);
  }
  bar.Finish();
  if (common.json) {
    PrintJson({{"length", options.ruler.length},
               {"seed", options.ruler.seed},
               {"template", options.ruler.model_template},
               {"tasks", made}});
  } else {
    PrintText(table.ToString());
  }
  return 0;
}

std::function<int()> SetupRulerGen(Command command, CommonOptions& common) {
  const auto options = std::make_shared<GenOptions>();
  RulerOptions& ruler = options->ruler;
  command.Add("--task", options->tasks, "all, or tasks and families joined by commas: niah_single_1, niah, vt, qa")
      .ShowDefault();
  command.Add("--max-seq-length", ruler.length, "Tokens of a prompt and its answer together")
      .Range(1, int64_t{1} << 30)
      .ShowDefault();
  command.Add("--num-samples", ruler.samples, "Samples of each task").Range(1, int64_t{1} << 24).ShowDefault();
  command
      .Add("--template", ruler.model_template, "What stands around a prompt: base (nothing), llama2-chat, llama3, phi3")
      .ShowDefault();
  command
      .Add("--haystack", ruler.haystack,
           "Text of the essay tasks: pg19 (the books of --data-dir), a text, a folder of texts, or a .json file with "
           "{\"text\": ...}")
      .ShowDefault();
  command.Add("--squad", ruler.squad, "Questions of qa_1 in the layout of SQuAD; default: XQuAD's of --data-dir");
  command.Add("--hotpot", ruler.hotpot, "Questions of qa_2 in the layout of HotpotQA; default: those of --data-dir");
  command.Add("--data-dir", ruler.data_dir, "Folder with pg19/ and qa/ (default: HAWSER_DATA, then the cache)");
  command.Add("--tokenizer", options->model.model, "Tokenizer that counts: a file, a model folder or a .gguf file")
      .Required();
  command.Add("--out", options->out, "Folder to write NAME.jsonl to, one a task").Required().WritesFolder();
  return [options, command, &common] { return RunRulerGen(*options, command, common); };
}

int RunRulerScore(const fs::path& pred, const fs::path& out, const CommonOptions& common) {
  nlohmann::json models = nlohmann::json::array();
  std::string text;
  std::vector<RulerTaskScore> of_model;
  const auto finish = [&] {
    const std::string& model = of_model.front().model;
    TextTable table({model.empty() ? "task" : model, "score", "empty", "samples"});
    nlohmann::json tasks = nlohmann::json::object();
    double sum = 0;
    for (const RulerTaskScore& score : of_model) {
      const std::string name(score.task->name);
      table.Row({name, fmt::format("{:.2f}", score.score), HumanCount(score.empty), HumanCount(score.samples)});
      tasks[name] = {{"score", score.score}, {"empty", score.empty}, {"samples", score.samples}};
      sum += score.score;
    }
    const double mean = sum / static_cast<double>(of_model.size());
    table.Row({fmt::format("mean of {}", of_model.size()), fmt::format("{:.2f}", mean)});
    text += (text.empty() ? "" : "\n") + table.ToString();
    models.push_back({{"model", model}, {"tasks", tasks}, {"mean", mean}});
    if (!out.empty()) {
      const std::string tail = (model.empty() ? "" : "-" + model) + ".csv";
      WriteFileAtomically(out / ("summary" + tail), RulerSummaryCsv(of_model));
      WriteFileAtomically(out / ("submission" + tail), RulerSubmissionCsv(of_model));
    }
    of_model.clear();
  };
  if (!out.empty()) MakeDirectories(out);
  for (RulerTaskScore& score : ScoreRulerFolder(pred)) {
    if (!of_model.empty() && of_model.back().model != score.model) finish();
    of_model.push_back(std::move(score));
  }
  finish();
  if (common.json) {
    PrintJson({{"models", models}});
  } else {
    PrintText(text);
  }
  return 0;
}

std::function<int()> SetupRulerScore(Command command, CommonOptions& common) {
  struct Options {
    fs::path pred, out;
  };
  const auto options = std::make_shared<Options>();
  command
      .Add("--pred", options->pred,
           "Folder of predictions: NAME.jsonl, NAME-0.jsonl, NAME-1.jsonl, ... or NAME.MODEL.jsonl")
      .Required();
  command.Add("--out", options->out, "Also write summary.csv and submission.csv to this folder").WritesFolder();
  return [options, &common] { return RunRulerScore(options->pred, options->out, common); };
}

struct AnswerOptions {
  EvalOptions eval;
  std::string data, tasks = "all";
  int64_t length = 0;
};

int RunRulerRun(AnswerOptions options, Command command, const CommonOptions& common) {
  if (options.data.find(',') != options.data.npos) {
    Fail(ErrorKind::kUsage, "--data '{}': a folder with a comma in its name cannot be told to a task", options.data);
  }
  std::string task = "ruler:data=" + options.data;
  if (options.tasks != "all") {
    std::ranges::replace(options.tasks, ',', '+');
    task += ",tasks=" + options.tasks;
  }
  if (options.length > 0) task += fmt::format(",length={}", options.length);
  options.eval.tasks = {task};
  options.eval.keep_given = command.Has("--keep");
  return RunTaskList(options.eval, command.Has("--seed"), common);
}

std::function<int()> SetupRulerRun(Command command, CommonOptions& common) {
  const auto options = std::make_shared<AnswerOptions>();
  EvalOptions& eval = options->eval;
  AddModelOptions(command, eval.model);
  AddAdapterOption(command, eval.model);
  command
      .Add("--data", options->data,
           "Folder of samples: NAME.jsonl as gen writes them, or NAME/validation.jsonl as the original prepares them")
      .Required()
      .Reads();
  command
      .Add("--out,--output", eval.output,
           "Folder of the run: answers as they come, then results, report.html, and NAME.jsonl, which score reads")
      .Required()
      .WritesFolder();
  command.Add("--task", options->tasks, "all that are in --data, or tasks and families joined by commas").ShowDefault();
  command
      .Add("--max-seq-length", options->length,
           "Tokens that the samples were made for: rows and pictures of the results name it; 0: they name none")
      .Range(0, int64_t{1} << 30)
      .ShowDefault();
  AddRunOptions(command, eval,
                {.context = "Tokens of the longest input; default: the model's own context",
                 .index = "The prefix in this file, which hawser index wrote: prompts begin with it"});
  return [options, command, &common] { return RunRulerRun(*options, command, common); };
}

}  // namespace

std::function<int()> SetupEvalRuler(Command command, CommonOptions& common) {
  static constexpr CommandRow kParts[] = {
      {"gen", "Make the data of RULER, the same as the original's generators", SetupRulerGen},
      {"run", "Let a model answer what gen or the original made", SetupRulerRun},
      {"score", "Score a folder of predictions", SetupRulerScore},
  };
  return SetupParts(command, kParts, common);
}

}  // namespace hawser
