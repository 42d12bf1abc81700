#include "hawser/cli/training.h"

#include <algorithm>
#include <string>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/interrupt.h"
#include "hawser/base/limits.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/eval/report.h"
#include "hawser/eval/run_report.h"
#include "hawser/model/places.h"
#include "hawser/train/estimate.h"
#include "hawser/train/run.h"

namespace hawser {
namespace {

std::string MemoryTable(const RunEstimate& e, const TrainConfig& config) {
  TextTable table({"memory", "bytes", ""});
  const auto row = [&](const char* what, int64_t bytes, std::string note) {
    if (bytes > 0) table.Row({what, HumanBytes(bytes), std::move(note)});
  };
  row("weights", e.state.weights, "f32");
  row("weights in use", e.state.in_use, fmt::format("{}, refreshed by every step", Name(config.dtype)));
  row("gradients", e.state.gradients, "f32");
  row("moments", e.state.moments, "f32, two of each trained value");
  row("adapters", e.state.adapters, "f32, with gradients");
  row("activations", e.activations,
      fmt::format("{} tokens at once, {:.0f} bytes a token", HumanCount(e.micro_batch_tokens),
                  e.activation_bytes_per_token()));
  row("kernels", e.kernels, "operands packed for attention, a tile of logits");
  row("text", e.text_bytes, "token ids");
  row("waiting", e.waiting, "packed sequences to draw from");
  row("at the end", e.finish, config.average_last > 1 ? "mean of checkpoints" : "adapters merged");
  row("program", e.program, "code, libraries, tokenizer, gaps of the heap");
  row("in all", e.bytes(), "");
  const bool keeps = config.recompute == Recompute::kNone;
  return table.ToString() + fmt::format("activations with recompute = \"{}\": {}\n", keeps ? "layer" : "none",
                                        HumanBytes(keeps ? e.activations_layer : e.activations_none));
}

std::string EstimateText(const RunEstimate& e, const TrainPlan& plan) {
  std::string text = fmt::format("{} {}, {} tokens of text: {:.3g} epochs\n\n{}\n", HumanCount(e.documents),
                                 e.documents == 1 ? "document" : "documents", HumanCount(e.text_tokens), e.epochs(plan),
                                 MemoryTable(e, plan.config));
  text += fmt::format("density of the first step {:.3f}, padding {:.1f} %; {:.3g} useful FLOPs a step\n", e.density,
                      100 * e.padding, e.step_flops);
  const double tokens_per_second = e.tokens(plan) / e.seconds;
  if (e.sample_layers > 0) {
    text += fmt::format(
        "time: about {}, {:.0f} tokens/s, at the {:.1f} GFLOP/s measured on {} of the text in sequences of "
        "{} through {} of this shape\n",
        HumanSeconds(e.seconds), tokens_per_second, e.flops_per_second * 1e-9, Counted(e.sample_tokens, "token"),
        e.sample_length, Counted(e.sample_layers, "layer"));
  } else {
    text += fmt::format(
        "time: at least {}, {:.0f} tokens/s, at the {:.1f} GFLOP/s of a matrix product of 1024^3; the model is "
        "too large for a sample\n",
        HumanSeconds(e.seconds), tokens_per_second, e.flops_per_second * 1e-9);
  }
  return text;
}

std::string PlanText(const TrainPlan& plan) {
  std::string text =
      fmt::format("{}, context {}, attention {}, rope {}\n", Counted(NumParameters(plan.spec), "parameter"),
                  plan.spec.context, plan.config.attention, PlacesText(plan.spec));
  if (!IsPlain(plan.positions)) {
    text +=
        fmt::format("positions {}: sequences of {}\n", plan.config.positions, Counted(plan.sequence_tokens(), "token"));
  }
  if (!std::holds_alternative<PlainCe>(plan.objective)) text += fmt::format("objective {}\n", plan.config.objective);
  text += fmt::format("{} of {} = {}; {} at once\n", Counted(plan.config.steps, "step"),
                      Counted(plan.tokens_per_step(), "token"), Counted(plan.tokens(), "token"),
                      Counted(plan.config.micro_batch, "sequence"));
  text += fmt::format("{} to train on, {} held out\n", Counted(static_cast<int64_t>(plan.files.train.size()), "file"),
                      plan.files.validation.size());
  return text;
}

}  // namespace

void AddTrainingOptions(Command command, TrainingOptions& options) {
  const auto key = [&](const std::string& flag, const std::string& name, const std::string& help) {
    return command.AddCall(
        flag, [&options, name](const std::string& value) { options.settings.push_back(name + "=" + value); }, help);
  };
  command.Add("--out", options.out, "Run folder: checkpoints, metrics.jsonl, report.html and the trained model")
      .WritesFolder();
  command
      .Add("--data", options.data,
           "Documents: .txt files (one each), .jsonl and .tokens files, or folders of them; a mixture: books/=3 "
           "code/=1")
      .Reads();
  key("--holdout", "holdout", "Keep the last N data files for validation");
  key("--context", "context", "Tokens of a training sequence, and of the model's context");
  key("--attention", "attention", "What a token sees: full, intra, anchor, anchor-reset, ...; see help attention");
  key("--bos", "bos", "BOS before each document: auto (the tokenizer's rule), on or off");
  key("--rope", "rope", "Position scheme: ntk, yarn:factor=8, alibi:ntk,factor=4, theta=5e6, ...; see help rope");
  key("--positions", "positions",
      "Train on short sequences whose positions skip: pose, pose:window=512, skipalign, randpos; see help positions");
  key("--objective", "objective",
      "Loss: ce, longce:k=4096,delta=4096,most=5, or focus:tokens=16384; see help objective");
  key("--steps", "steps", "Optimizer steps (extend: 200)");
  key("--tokens", "tokens", "Tokens in all, instead of --steps");
  key("--batch-tokens", "batch_tokens", "Tokens of an optimizer step, in whole sequences (16384; extend: 8192)");
  key("--lr", "lr", "Highest learning rate (default: by the width of the model, 3e-3 at 64, 2e-5 at 4096)");
  key("--dtype", "dtype", "f32, or bf16 with f32 master weights (extend: bf16)");
  key("--lora", "lora_rank", "Train adapters of this rank instead of the weights; --set lora_targets=... says where");
  key("--adapter", "adapter", "Train these adapters (PEFT) further instead of new ones").Reads();
  command.Add("--set", options.sets, "Any recipe key: key=value; may be given again; see help recipe");
  command
      .Add("--resume", options.resume_run,
           "Go on after the newest checkpoint in --out; --resume RUN alone goes on with that run by its own recipe")
      .OptionalArgument();
  command.Add("--dry-run", options.dry_run, "Print steps, memory and the time it may take, and stop");
}

void ApplySeed(Command command, const CommonOptions& common, TrainConfig& config) {
  if (!command.Has("--seed")) return;
  if (common.seed > INT64_MAX) {
    Fail(ErrorKind::kUsage, "the seed of a recipe is at most {}, found --seed {}", INT64_MAX, common.seed);
  }
  config.seed = static_cast<int64_t>(common.seed);
}

bool ResumesByItsRecipe(Command command, TrainingOptions& options, std::filesystem::path& positional,
                        TrainConfig& config) {
  options.resume = command.Has("--resume");
  const std::filesystem::path named = options.resume_run;
  if (named.empty()) return false;
  if (!options.out.empty()) {
    if (!positional.empty()) {
      Fail(ErrorKind::kUsage, "--resume {} and --out {}: which run is to go on? Give one of them", named.string(),
           options.out.string());
    }
    positional = named;
    return false;
  }
  options.out = named;
  if (!positional.empty()) return false;
  config = RecipeOfRun(named);
  return true;
}

void ApplyTrainingOptions(Command command, const CommonOptions& common, const TrainingOptions& options,
                          TrainConfig& config) {
  if (!options.data.empty()) SetData(config, options.data);
  ApplySeed(command, common, config);
  if (command.Has("--steps")) config.tokens = 0;  // the option replaces the other way to say how long
  if (command.Has("--tokens")) config.steps = 0;
  for (const std::string& setting : options.settings) ApplySetting(config, setting);
  for (const std::string& setting : options.sets) ApplySetting(config, setting);
  for (const auto& [option, value] : {std::pair("--steps", config.steps), std::pair("--tokens", config.tokens)}) {
    if (command.Has(option) && config.steps == 0 && config.tokens == 0) {
      Fail(ErrorKind::kUsage, "{}: wanted 1 or more, found {}", option, value);
    }
  }
}

int RunTrainingCommand(const CommonOptions& common, const TrainingOptions& options, const TrainConfig& config) {
  if (options.out.empty() && !options.dry_run) Fail(ErrorKind::kUsage, "where to? Give --out FOLDER");
  const TrainPlan plan = MakePlan(config);
  for (const std::string& note : plan.notes) LogLine("note: " + note);
  const auto backend = MakeBackend(common.device);
  if (options.dry_run) {
    const RunEstimate estimate = EstimateRun(plan, backend.get());
    if (common.json) {
      nlohmann::json json = plan.ToJson();
      json.update(estimate.ToJson());
      PrintJson(json);
    } else {
      PrintText(PlanText(plan) + EstimateText(estimate, plan));
    }
    CheckFits("this run", estimate.bytes() - RssBytes());
    return 0;
  }
  CheckFits("this run (weights, gradients, moments and activations)", plan.state_bytes() + plan.activation_bytes());
  const RunSummary summary = RunTraining(plan, options.out, options.resume, backend.get(), WriteRunReport);
  const std::string out = summary.out.string();
  if (summary.interrupted) {
    LogLine(fmt::format("stopped after step {} of {}; hawser train --resume '{}' goes on", summary.steps,
                        plan.config.steps, out));
  } else if (summary.was_finished) {
    LogLine(fmt::format("{}: the run is finished ({}); nothing to do", out, Counted(summary.steps, "step")));
  }
  if (common.json) {
    nlohmann::json json = summary.ToJson();
    json["finished_before"] = summary.was_finished;
    PrintJson(json);
  } else {
    const double places = static_cast<double>(std::max<int64_t>(1, summary.tokens + summary.padding));
    const double share = 100.0 * static_cast<double>(summary.padding) / places;
    const std::string padding = share < 0.5 ? "" : fmt::format(" (and {:.0f} % padding)", share);
    PrintText(fmt::format("{}, {}{}, loss {:.4f}, {:.1f} s, {:.0f} tokens/s, density {:.3f}: {}\n",
                          Counted(summary.steps, "step"), Counted(summary.tokens, "token"), padding, summary.loss,
                          summary.seconds, summary.tokens_per_second(), summary.density, out));
  }
  return summary.interrupted ? kInterrupted : 0;
}

}  // namespace hawser
