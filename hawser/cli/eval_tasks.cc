#include "hawser/cli/eval_tasks.h"

#include <limits>
#include <memory>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/cli/focus.h"
#include "hawser/data/shards.h"
#include "hawser/eval/engine_lm.h"
#include "hawser/eval/focus_lm.h"
#include "hawser/eval/report.h"
#include "hawser/eval/task_run.h"
#include "hawser/model/fingerprint.h"

namespace hawser {

const std::vector<const char*>& TaskFlags() {
  static const std::vector<const char*> kFlags = {"--attention", "--batch-tokens", "--limit", "--data-dir",
                                                  "--output",    "--resume",       "--chat",  "--bootstrap",
                                                  "--focus",     "--index",        "--keep"};
  return kFlags;
}

void AddRunOptions(Command command, EvalOptions& options, const RunHelp& help) {
  command.Add("--context", options.ppl.context, help.context).Range(2, int64_t{1} << 30);
  command.Add(
      "--kv", options.kv,
      "Cache policy of a stream, text or task: full (default), streaming, sepllm, bounded:800, ...; see help kv");
  AddPrefixOptions(command, options.prefix, help.index);
  command.Add(
      "--rope", options.rope,
      "Position scheme instead of the model's: yarn:factor=8, alibi:ntk,factor=4, theta=5e6, ...; see help rope");
  command.Add(
      "--attention", options.attention,
      "What a token of a window, text or task sees: full, window=W, sinks=3 window=256 sep full-layers=0+31, ...");
  AddFocusOption(command, options.focus);
  command
      .Add("--batch-tokens", options.ppl.batch_tokens,
           "Tokens of one forward pass over windows, or over texts of tasks")
      .Range(1, std::numeric_limits<int64_t>::max())
      .ShowDefault();
  command.Add("--dtype", options.dtype, "Weights and activations: f32, bf16, or auto: as they lie in the file")
      .OneOf({"f32", "bf16", "auto"})
      .ShowDefault();
  command
      .Add("--bos", options.bos,
           "BOS in front of a text: auto (ppl: the convention of the protocol; retrieval: the tokenizer's rule), on or "
           "off")
      .OneOf({"auto", "on", "off"})
      .ShowDefault();
  command
      .Add("--limit", options.limit, "Ask the first N samples of each row of a task, or read the first N texts; 0: all")
      .Range(0, std::numeric_limits<int64_t>::max());
  command.Add("--resume", options.resume, "Go on with the run in that folder: nothing is done twice");
  command.Add("--chat", options.chat, "Prompts of tasks become turns of a chat, by the model's template");
}

namespace {

/// What answers: the model with its caches, or through candidates.
std::unique_ptr<Lm> MakeLm(const EvalOptions& options, const EngineLmOptions& engine, const ModelToRun& run,
                           Backend* backend) {
  const Tokenizer& tokenizer = *run.model.tokenizer;
  if (options.focus.empty()) return std::make_unique<EngineLm>(backend, run.weights, tokenizer, engine);
  if (engine.kv || engine.attention || engine.prefix != nullptr) {
    Fail(ErrorKind::kUsage,
         "--focus does not go with --kv, --attention and --index: chunks and window have caches of their own");
  }
  const FocusToRun focus = OpenFocus(options.focus, run.weights);
  return std::make_unique<FocusLm>(
      backend, run.weights, focus.candidates, tokenizer,
      FocusLmOptions{
          .focus = focus.options, .max_length = options.ppl.context, .bos = engine.bos, .chat = engine.chat});
}

}  // namespace

int RunTaskList(const EvalOptions& options, bool seed_given, const CommonOptions& common) {
  EngineLmOptions engine{.max_length = options.ppl.context,
                         .bos = ParseBosRule(options.bos),
                         .chat = options.chat,
                         .batch_tokens = options.ppl.batch_tokens};
  if (!options.kv.empty()) engine.kv = ParseKvForm(options.kv);
  if (!options.attention.empty()) engine.attention = ParseLayeredPattern(options.attention);
  const ModelToRun run = OpenEvalModel(options);
  if (engine.max_length == 0) engine.max_length = run.model.spec.context;
  const auto backend = MakeBackend(common.device);
  LogLine(backend->Describe());
  engine.prefix = OpenPrefixOf(options.prefix, options.keep_given, backend.get(), run.weights, /*declared_length=*/0);
  const std::unique_ptr<Lm> lm = MakeLm(options, engine, run, backend.get());
  TaskRunOptions tasks{.tasks = options.tasks,
                       .data_dir = options.data_dir,
                       .output = options.output,
                       .resume = options.resume,
                       .limit = options.limit,
                       .seed = common.seed,
                       .seed_given = seed_given,
                       .chat = options.chat,
                       .bootstrap = options.bootstrap};
  AddModelTo(&tasks.model, options, run);
  // What lies under a name may be another model on another day.
  tasks.model["weights"] = fmt::format("{:016x}", ModelFingerprint(run.weights));
  tasks.model["tokenizer"] = fmt::format("{:016x}", TokenizerFingerprint(*run.model.tokenizer));
  if (!options.model.adapter.empty()) tasks.model["adapter"] = options.model.adapter.string();
  if (!options.focus.empty()) tasks.model["focus"] = options.focus;
  if (engine.prefix != nullptr) {
    tasks.model["index"] = options.prefix.index.string();
    tasks.model["keep"] = ToString(engine.prefix->rule());
  }
  const TaskRunResult result = RunTasks(lm.get(), *run.model.tokenizer, tasks);
  if (result.finished_before) LogLine(fmt::format("finished before: {}", result.file.string()));
  if (common.json) {
    PrintJson(result.results);
  } else {
    PrintText(result.text + (result.file.empty() ? "" : result.file.string() + "\n"));
  }
  return 0;
}

}  // namespace hawser
