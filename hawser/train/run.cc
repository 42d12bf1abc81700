#include "hawser/train/run.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/data/loader.h"
#include "hawser/data/pack_report.h"
#include "hawser/io/json.h"
#include "hawser/model/load.h"
#include "hawser/train/average.h"
#include "hawser/train/checkpoint.h"
#include "hawser/train/estimate.h"
#include "hawser/train/metrics.h"
#include "hawser/train/packing.h"
#include "hawser/train/tensorboard.h"
#include "hawser/train/trainer.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr const char* kRecipe = "recipe.toml";
constexpr const char* kMark = "hawser.json";

/// While alive, the first SIGINT or SIGTERM only sets a flag; a second one ends the process.
class InterruptGuard {
 public:
  InterruptGuard() {
    flag_ = 0;
    struct sigaction action {};
    action.sa_handler = [](int) { flag_ = 1; };
    action.sa_flags = static_cast<int>(SA_RESETHAND);
    sigaction(SIGINT, &action, &old_int_);
    sigaction(SIGTERM, &action, &old_term_);
  }
  ~InterruptGuard() {
    sigaction(SIGINT, &old_int_, nullptr);
    sigaction(SIGTERM, &old_term_, nullptr);
  }
  static bool Fired() { return flag_ != 0; }

 private:
  static inline volatile std::sig_atomic_t flag_ = 0;
  struct sigaction old_int_ {};
  struct sigaction old_term_ {};
};

/// Errors: kUsage naming the first key whose value the run in progress does not share.
void CheckSameRecipe(const TrainConfig& config, std::string_view recipe, const std::string& origin) {
  TrainConfig before;
  ApplyRecipe(before, recipe, origin);
  const std::vector<std::string> keys = KeysThatMatter(before, config);
  if (keys.empty()) return;
  Fail(ErrorKind::kUsage, "cannot resume: recipe key \"{}\" is not as in {}; use another --out or the same recipe",
       fmt::join(keys, "\", \""), origin);
}

/// True if `out` holds a run to go on with.
bool EnterRunFolder(const TrainPlan& plan, const fs::path& out, bool resume) {
  std::error_code code;
  const bool used = fs::exists(out, code) && !(fs::is_directory(out, code) && fs::is_empty(out, code));
  const fs::path recipe = out / kRecipe;
  const bool is_run = fs::exists(recipe, code);
  if (used && !is_run) {
    Fail(ErrorKind::kUsage, "{}: exists and is no run folder; give --out a new one", out.string());
  }
  if (is_run && !resume) {
    Fail(ErrorKind::kUsage, "{}: holds a run already; go on with --resume, or give --out another folder", out.string());
  }
  if (is_run) CheckSameRecipe(plan.config, ReadFile(recipe), recipe.string());
  MakeDirectories(out);
  return is_run;
}

/// Errors: kUsage where all of the text is shorter than one context.
void CheckText(const DocumentSet& documents, int64_t context) {
  if (documents.tokens() >= context) return;
  Fail(ErrorKind::kUsage,
       "the data hold {} tokens in {} documents, less than one context of {}; give more text or a shorter --context",
       documents.tokens(), documents.size(), context);
}

RunSummary FinishedSummary(const fs::path& out) {
  const fs::path path = out / kMark;
  const nlohmann::json json = WithFrame(path.string(), [&] { return ParseJson(ReadFile(path)); });
  const JsonObject object(json, path.string());
  constexpr int64_t kMany = int64_t{1} << 53;
  RunSummary summary;
  summary.steps = object.Int("steps", 0, kMany);
  summary.tokens = object.Int("tokens", 0, kMany);
  summary.loss = object.Number("final_loss");
  summary.seconds = object.Number("seconds");
  summary.density = object.Number("density");
  summary.was_finished = true;
  summary.out = out;
  return summary;
}

void SaveModel(const TrainPlan& plan, Trainer& trainer, const Tokenizer* tokenizer, const RunSummary& summary,
               Backend* backend) {
  const TrainConfig& config = plan.config;
  nlohmann::json mark = summary.ToJson();
  const auto save = [&](const ParamStore& weights) { SaveHuggingFace(weights, tokenizer, config.dtype, summary.out); };
  if (config.lora_rank > 0 && config.average_last < 2)
    SavePeft(trainer.adapters(), LoraOf(config), config.model, summary.out / "adapter");
  if (config.average_last > 1) {
    const fs::path checkpoints = summary.out / "checkpoints";
    const std::vector<int64_t> steps = LastCheckpoints(checkpoints, config.average_last);
    save(AverageCheckpoints(checkpoints, steps, plan.spec, config, backend));
    mark["averaged_steps"] = steps;
  } else if (config.lora_rank > 0) {
    save(trainer.Merged());
  } else {
    save(trainer.weights());
  }
  mark.erase("out");
  mark["attention"] = config.attention;  // of training; the model itself is an ordinary causal one
  mark["rope"] = ToString(plan.spec.rope);
  mark["context"] = plan.spec.context;
  WriteFileAtomically(summary.out / kMark, mark.dump(2) + "\n");
}

/// Weights with the spec of the plan, from scratch or from the model to continue, and their tokenizer.
struct StartingPoint {
  ParamStore weights;
  std::shared_ptr<Tokenizer> tokenizer;
};

void CheckTokenizer(const TrainPlan& plan, const Tokenizer* tokenizer) {
  if (tokenizer == nullptr) {
    Fail(ErrorKind::kUsage, "{}: brings no tokenizer; give one with --tokenizer", plan.config.model);
  }
  if (tokenizer->vocab_size() > plan.spec.vocab) {
    Fail(ErrorKind::kUsage, "the tokenizer has {} ids, the model {}; give the model's own with --tokenizer",
         tokenizer->vocab_size(), plan.spec.vocab);
  }
}

StartingPoint LoadStart(const TrainPlan& plan) {
  StartingPoint start{.tokenizer = plan.tokenizer};
  if (plan.config.model.empty()) {
    start.weights = ParamStore(plan.spec, DType::kF32);
    InitializeParams(start.weights, static_cast<uint64_t>(plan.config.seed));
  } else {
    LoadedModel model = LoadModel(plan.config.model, plan.config.tokenizer);
    start.weights = std::move(model.params);
    start.weights.mutable_spec() = plan.spec;
    start.tokenizer = model.tokenizer;
  }
  CheckTokenizer(plan, start.tokenizer.get());
  return start;
}

/// The numbers of a line of metrics that make curves.
void AppendScalars(const nlohmann::json& line, TensorBoardLog* board) {
  constexpr std::pair<std::string_view, std::string_view> kTags[] = {
      {"loss", "train/loss"},           {"lr", "train/lr"},
      {"grad_norm", "train/grad_norm"}, {"tokens_per_second", "train/tokens_per_second"},
      {"density", "train/density"},     {"validation_loss", "validation/loss"}};
  std::vector<std::pair<std::string_view, double>> scalars;
  for (const auto& [key, tag] : kTags) {
    if (const auto value = line.find(key); value != line.end()) scalars.emplace_back(tag, value->get<double>());
  }
  board->Append(line["step"], scalars);
}

class Run {
 public:
  Run(const TrainPlan& plan, fs::path out, Backend* backend, StartingPoint start)
      : plan_(plan),
        config_(plan.config),
        out_(std::move(out)),
        backend_(backend),
        tokenizer_(std::move(start.tokenizer)),
        pack_(MakePackOptions(plan, *tokenizer_)),
        documents_(TrainingDocuments(plan, *tokenizer_)),
        validation_(config_.validate_every > 0 ? MakeValidationSet(plan, *tokenizer_) : ValidationSet{}),
        loader_(&documents_, pack_, static_cast<uint64_t>(config_.seed), MakeUpsampleOptions(config_)),
        trainer_(backend, config_, plan.variant.pattern, std::move(start.weights)),
        info_{.recipe = ToToml(config_),
              .seed = static_cast<uint64_t>(config_.seed),
              .data_hash = documents_.Hash(config_.upsample == Upsample::kPerSource),
              .rope_hash = RopeHash(plan.spec)} {
    CheckText(documents_, plan.spec.context);
  }

  /// Goes on after the newest whole checkpoint, if there is one.
  void Restore() {
    const auto found = LoadCheckpoint(Checkpoints(), trainer_.state());
    if (!found) return;
    CheckSameRecipe(config_, found->recipe, Checkpoints().string());
    if (found->data_hash != info_.data_hash) {
      Fail(ErrorKind::kUsage, "cannot resume: the text of \"data\" is not what the checkpoint was trained on");
    }
    if (found->rope_hash != info_.rope_hash) {
      Fail(ErrorKind::kUsage,
           "cannot resume: the rotation table of rope \"{}\" over {} tokens has the hash {:016x}, the checkpoint was "
           "trained with {:016x}; go on with the version of hawser that made it, or start again in another --out",
           ToString(plan_.spec.rope), plan_.spec.context, info_.rope_hash, found->rope_hash);
    }
    std::string recipe = std::move(info_.recipe);
    info_ = *found;
    info_.recipe = std::move(recipe);
    saved_step_ = info_.step;
    trainer_.ResumeAfter(info_.step);
    loader_.Skip(info_.sequences);
    LogLine(fmt::format("resumed after step {} of {}", info_.step, config_.steps));
  }

  RunSummary Go(const RunObserver& observer) {
    LogHead();
    MetricsLog metrics(out_ / "metrics.jsonl", info_.step);
    TensorBoardLog board(out_, info_.step);
    const double peak = MeasurePeak(backend_, config_.dtype);
    const InterruptGuard guard;
    ProgressBar bar("train", config_.steps, info_.step);
    while (info_.step < config_.steps && !InterruptGuard::Fired()) {
      const auto [report, seconds] = Step();
      const bool last = info_.step == config_.steps;
      const double rate = static_cast<double>(report.tokens) / seconds;
      const bool validate = config_.validate_every > 0 && (last || info_.step % config_.validate_every == 0);
      if (last || validate || info_.step % config_.log_every == 0) {
        nlohmann::json line = {{"step", report.step},
                               {"loss", report.loss},
                               {"lr", report.lr},
                               {"grad_norm", report.grad_norm},
                               {"tokens", info_.tokens},
                               {"tokens_per_second", rate},
                               {"density", report.density},
                               {"seconds", info_.seconds},
                               {"gflops", report.flops / seconds * 1e-9},
                               {"peak_share", report.flops / seconds / peak}};
        if (validate) {
          const double loss = trainer_.Score(validation_.sequences, validation_.pattern);
          line["validation_loss"] = loss;
          LogLine(fmt::format("step {} validation loss {:.4f}", info_.step, loss));
        }
        metrics.Append(line);
        AppendScalars(line, &board);
      }
      bar.Update(info_.step, fmt::format("loss {:.4f} {:.0f} tok/s", report.loss, rate));
      if (last || (config_.checkpoint_every > 0 && info_.step % config_.checkpoint_every == 0)) {
        Save();
        if (observer) observer(out_);
      }
    }
    bar.Finish();
    LogLine(Summary(loader_.total_counts()));
    RunSummary summary{.steps = info_.step,
                       .tokens = info_.tokens,
                       .loss = info_.loss,
                       .seconds = info_.seconds,
                       .density = info_.density,
                       .packing = loader_.total_counts(),
                       .interrupted = info_.step < config_.steps,
                       .out = out_};
    if (summary.interrupted) {
      if (saved_step_ != info_.step) Save();
    } else {
      SaveModel(plan_, trainer_, tokenizer_.get(), summary, backend_);
    }
    if (observer) observer(out_);
    return summary;
  }

 private:
  fs::path Checkpoints() const { return out_ / "checkpoints"; }

  void LogHead() const {
    LogLine(backend_->Describe());
    LogLine(fmt::format("{} parameters, context {}, attention {}, rope {}, {}", NumParameters(plan_.spec),
                        plan_.spec.context, config_.attention, ToString(plan_.spec.rope), Name(config_.dtype)));
    LogLine(fmt::format("{} documents, {} tokens; {} steps of {} tokens", documents_.size(), documents_.tokens(),
                        config_.steps, plan_.tokens_per_step()));
  }

  /// One step and the seconds it took, packing included.
  std::pair<StepReport, double> Step() {
    const auto start = std::chrono::steady_clock::now();
    sequences_.resize(static_cast<size_t>(plan_.sequences_per_step));
    for (PackedSequence& sequence : sequences_) loader_.Next(&sequence);
    const StepReport report = trainer_.Step(sequences_);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    info_.density += (report.density - info_.density) / static_cast<double>(report.step);
    info_.step = report.step;
    info_.sequences = loader_.sequence();
    info_.tokens += report.tokens;
    info_.loss = report.loss;
    info_.seconds += seconds;
    return {report, seconds};
  }

  void Save() {
    SaveCheckpoint(Checkpoints(), info_, trainer_.state(), config_.keep);
    saved_step_ = info_.step;
  }

  const TrainPlan& plan_;
  const TrainConfig& config_;
  const fs::path out_;
  Backend* backend_;
  const std::shared_ptr<Tokenizer> tokenizer_;
  const PackOptions pack_;
  const DocumentSet documents_;
  const ValidationSet validation_;
  Loader loader_;
  Trainer trainer_;
  CheckpointInfo info_;  // of the last step done
  int64_t saved_step_ = 0;
  std::vector<PackedSequence> sequences_;
};

}  // namespace

nlohmann::json RunSummary::ToJson() const {
  nlohmann::json json = {{"steps", steps},
                         {"tokens", tokens},
                         {"final_loss", loss},
                         {"seconds", seconds},
                         {"tokens_per_second", tokens_per_second()},
                         {"density", density},
                         {"out", out.string()}};
  if (packing.sequences > 0) json["packing"] = hawser::ToJson(packing);
  return json;
}

RunText ReadRunText(const TrainPlan& plan) {
  const std::shared_ptr<Tokenizer> tokenizer =
      plan.config.model.empty() ? plan.tokenizer : InspectModel(plan.config.model, plan.config.tokenizer).tokenizer;
  CheckTokenizer(plan, tokenizer.get());
  RunText text{.documents = TrainingDocuments(plan, *tokenizer),
               .pack = MakePackOptions(plan, *tokenizer),
               .upsample = MakeUpsampleOptions(plan.config)};
  CheckText(text.documents, plan.spec.context);
  return text;
}

RunSummary RunTraining(const TrainPlan& plan, const fs::path& out, bool resume, Backend* backend,
                       const RunObserver& observer) {
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes then is an error of write, like a full disk
  const bool is_run = EnterRunFolder(plan, out, resume);
  if (is_run && fs::exists(out / kMark)) return FinishedSummary(out);
  Run run(plan, out, backend, LoadStart(plan));
  if (is_run) {
    run.Restore();
  } else {
    WriteFileAtomically(out / kRecipe, ToToml(plan.config));
  }
  return run.Go(observer);
}

}  // namespace hawser
