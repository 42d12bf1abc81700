#include "hawser/train/run.h"

#include <algorithm>
#include <chrono>
#include <csignal>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/folder.h"
#include "hawser/base/interrupt.h"
#include "hawser/base/lock.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/data/loader.h"
#include "hawser/data/pack_report.h"
#include "hawser/model/places.h"
#include "hawser/train/average.h"
#include "hawser/train/checkpoint.h"
#include "hawser/train/estimate.h"
#include "hawser/train/lr.h"
#include "hawser/train/metrics.h"
#include "hawser/train/packing.h"
#include "hawser/train/peft.h"
#include "hawser/train/run_folder.h"
#include "hawser/train/run_result.h"
#include "hawser/train/run_text.h"
#include "hawser/train/tensorboard.h"
#include "hawser/train/trainer.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

/// Weights with the spec of the plan, from scratch or from the model to continue, and their tokenizer.
struct StartingPoint {
  ParamStore weights;
  std::shared_ptr<Tokenizer> tokenizer;
  HfSource source = {};
};

StartingPoint LoadStart(const TrainPlan& plan) {
  StartingPoint start{.tokenizer = plan.tokenizer};
  if (plan.config.model.empty()) {
    start.weights = ParamStore(plan.spec, DType::kF32);
    InitializeParams(start.weights, static_cast<uint64_t>(plan.config.seed));
  } else {
    LoadedModel model = LoadModel(plan.config.model, plan.config.tokenizer);
    start.weights = std::move(model.params).WithSpec(plan.spec);
    start.tokenizer = model.tokenizer;
  }
  CheckTokenizer(plan, start.tokenizer.get());
  start.source = SourceOf(plan.config.model, plan.config.tokenizer);
  return start;
}

/// The numbers of a line of metrics that make curves.
void AppendScalars(const nlohmann::json& line, TensorBoardLog* board) {
  constexpr std::pair<std::string_view, std::string_view> kTags[] = {{"loss", "train/loss"},
                                                                     {"lr", "train/lr"},
                                                                     {"grad_norm", "train/grad_norm"},
                                                                     {"tokens_per_second", "train/tokens_per_second"},
                                                                     {"density", "train/density"},
                                                                     {"padding_share", "train/padding"},
                                                                     {"validation_loss", "validation/loss"}};
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
        source_(std::move(start.source)),
        text_(ReadRunText(plan, *tokenizer_)),
        validation_(config_.validate_every > 0 ? MakeValidationSet(plan, *tokenizer_) : ValidationSet{}),
        loader_(&text_.documents, text_.pack, static_cast<uint64_t>(config_.seed), text_.upsample),
        trainer_(backend, config_, plan.variant.pattern, std::move(start.weights)),
        info_{.recipe = ToToml(config_),
              .seed = static_cast<uint64_t>(config_.seed),
              .data_hash = text_.documents.Hash(config_.upsample == Upsample::kPerSource),
              .rope_hash = RopeHash(plan.spec)} {
    if (config_.adapter.empty()) return;
    const ParamStore adapters = ReadPeft(config_.adapter, plan.spec);
    backend->Copy(adapters.arena(), trainer_.state().adapters->arena());
    trainer_.ResumeAfter(0);
  }

  /// Goes on after the newest whole checkpoint of this run, if there is one.
  void Restore() {
    const auto found =
        LoadCheckpoint(Checkpoints(), trainer_.state(), [&](const CheckpointInfo& info) { Check(info); });
    std::error_code code;
    if (!found) {
      if (!fs::exists(out_ / kRunMark, code)) return;
      Fail(ErrorKind::kUsage,
           "{}: the run is finished, and no checkpoint is there to go on from; train again in another --out, or with "
           "this folder as the model to continue",
           out_.string());
    }
    if (found->data_hash != info_.data_hash) {
      Fail(ErrorKind::kUsage, "cannot resume: the text of \"data\" is not what the checkpoint was trained on");
    }
    if (found->rope_hash != info_.rope_hash) {
      Fail(ErrorKind::kUsage,
           "cannot resume: the rotation table of rope \"{}\" over {} tokens has the hash {:016x}, the checkpoint was "
           "trained with {:016x}; go on with the version of hawser that made it, or start again in another --out",
           PlacesText(plan_.spec), plan_.spec.context, info_.rope_hash, found->rope_hash);
    }
    info_ = *found;
    GoOnFrom(CheckSameRecipe(config_, found->recipe, Checkpoints().string()));
    saved_step_ = info_.step;
    trainer_.ResumeAfter(info_.step);
    loader_.Skip(info_.sequences);
    validation_losses_ = ReadValidationLosses(out_ / kRunMetrics);
    validation_losses_.erase(validation_losses_.upper_bound(info_.step), validation_losses_.end());
    DropCheckpoints(Checkpoints(), info_.step, config_.keep, BestStep());  // a kill may have come before it
    RemoveFile(out_ / kRunMark);                                           // from here on the run is not finished
    LogLine(fmt::format("resumed after step {} of {}", info_.step, config_.steps));
  }

  RunSummary Go(const RunObserver& observer) {
    LogHead();
    MetricsLog metrics(out_ / kRunMetrics, info_.step);
    TensorBoardLog board(out_, info_.step);
    const double peak = MeasurePeak(backend_, config_.dtype);
    const InterruptGuard guard;
    const auto share = [](const StepReport& report) {
      return static_cast<double>(report.padding) / static_cast<double>(report.tokens + report.padding);
    };
    ProgressBar bar("train", config_.steps, info_.step);
    while (info_.step < config_.steps && !InterruptGuard::Came()) {
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
                               {"padding", info_.padding},
                               {"targets", info_.targets},
                               {"padding_share", share(report)},
                               {"tokens_per_second", rate},
                               {"density", report.density},
                               {"seconds", info_.seconds},
                               {"gflops", report.flops / seconds * 1e-9},
                               {"peak_share", report.flops / seconds / peak}};
        if (validate) {
          const int64_t at_once = config_.micro_batch * plan_.sequence_tokens() / plan_.spec.context;
          const double loss = trainer_.Score(validation_.sequences, validation_.pattern, std::max<int64_t>(1, at_once));
          line["validation_loss"] = loss;
          validation_losses_[info_.step] = loss;
          LogLine(fmt::format("step {} validation loss {:.4f}", info_.step, loss));
        }
        if (std::holds_alternative<LongCe>(plan_.objective)) {
          const auto rows = static_cast<double>(std::max<int64_t>(1, report.gains.rows));
          line["cross_entropy"] = report.nats;
          line["gain_rows"] = report.gains.rows;
          line["gain_mean"] = report.gains.rows > 0 ? report.gains.sum / rows : 1.0;
          line["gain_at_most"] = static_cast<double>(report.gains.at_most) / rows;
          line["gain_below_one"] = static_cast<double>(report.gains.below_one) / rows;
        }
        if (!IsPlain(plan_.positions)) {
          int64_t mapped = 0, unmoved = 0;
          for (const PackedSequence& sequence : sequences_) {
            mapped += sequence.mapped;
            unmoved += sequence.unmoved;
          }
          line["mapped_texts"] = mapped;
          line["unmoved_texts"] = unmoved;
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
    const std::vector<SourceTokens> sources = loader_.source_tokens();
    if (!sources.empty()) LogLine(Summary(sources));
    RunSummary summary{.steps = info_.step,
                       .tokens = info_.tokens,
                       .padding = info_.padding,
                       .targets = info_.targets,
                       .loss = info_.loss,
                       .seconds = info_.seconds,
                       .density = info_.density,
                       .packing = loader_.total_counts(),
                       .sources = sources,
                       .interrupted = info_.step < config_.steps,
                       .out = out_};
    if (summary.interrupted) {
      if (saved_step_ != info_.step) Save();
    } else {
      SaveResult(plan_, trainer_, tokenizer_.get(), source_, summary, backend_);
    }
    if (observer) observer(out_);
    return summary;
  }

 private:
  fs::path Checkpoints() const { return out_ / kRunCheckpoints; }

  /// Errors: those of a checkpoint that this run did not write.
  void Check(const CheckpointInfo& info) const {
    const TrainConfig before = CheckSameRecipe(config_, info.recipe, "its recipe");
    const int64_t places = info.sequences * plan_.sequence_tokens();
    if (info.step > before.steps || info.sequences != info.step * plan_.sequences_per_step ||
        info.tokens + info.padding != places || info.seed != info_.seed) {
      Fail(ErrorKind::kFormat, "{} steps of {} with {} sequences and {} tokens are not of this run", info.step,
           before.steps, info.sequences, info.tokens);
    }
  }

  /// Takes over the recipe that the checkpoint was made with, made longer where this run is.
  void GoOnFrom(const TrainConfig& before) {
    Lengthen(&config_, before, info_.step);
    info_.recipe = ToToml(config_);
    trainer_.SetLengthened(config_.lengthened);
    if (config_.steps == before.steps) return;
    WriteFileAtomically(out_ / kRunRecipe, info_.recipe);
    LogLine(fmt::format(
        "goes on to {} steps instead of {}; schedule {}: the rate was {:.3g} at step {} and is {:.3g} at "
        "step {}, as in a run of {} steps",
        config_.steps, before.steps, Name(config_.schedule), LearningRate(config_, info_.step, config_.steps),
        info_.step, LearningRate(config_, info_.step + 1, config_.steps), info_.step + 1, config_.steps));
  }

  void LogHead() const {
    LogLine(backend_->Describe());
    LogLine(fmt::format("{} parameters, context {}, attention {}, rope {}, {}", NumParameters(plan_.spec),
                        plan_.spec.context, config_.attention, PlacesText(plan_.spec), Name(config_.dtype)));
    if (!IsPlain(plan_.positions)) {
      LogLine(fmt::format("positions {}: sequences of {} reach {}", config_.positions,
                          Counted(plan_.sequence_tokens(), "token"), plan_.spec.context));
    }
    if (!std::holds_alternative<PlainCe>(plan_.objective)) LogLine(fmt::format("objective {}", config_.objective));
    LogLine(PrefixText(text_.pack, plan_, *tokenizer_));
    LogLine(fmt::format("{}, {}; {} of {}, padding included: {:.3g} epochs at most",
                        Counted(text_.documents.size(), "document"), Counted(text_.documents.tokens(), "token"),
                        Counted(config_.steps, "step"), Counted(plan_.tokens_per_step(), "token"),
                        static_cast<double>(plan_.tokens()) / static_cast<double>(text_.documents.tokens())));
    const auto validated = static_cast<int64_t>(validation_.sequences.size());
    if (config_.validate_every > 0 && validated < config_.validate_sequences) {
      LogLine(fmt::format("note: validate_sequences = {}, and the files held out fill {}", config_.validate_sequences,
                          validated));
    }
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
    info_.padding += report.padding;
    info_.targets += report.targets;
    info_.loss = report.loss;
    info_.seconds += seconds;
    return {report, seconds};
  }

  /// Of the step that is done and those with a checkpoint; -1 where none was validated.
  int64_t BestStep() const {
    std::vector<int64_t> steps = CheckpointSteps(Checkpoints());
    steps.push_back(info_.step);
    const std::vector<int64_t> ranked = RankByLoss(steps, validation_losses_);
    return ranked.empty() ? -1 : ranked.front();
  }

  void Save() {
    SaveCheckpoint(Checkpoints(), info_, trainer_.state(), config_.keep, BestStep());
    saved_step_ = info_.step;
  }

  const TrainPlan& plan_;
  TrainConfig config_;
  const fs::path out_;
  Backend* backend_;
  const std::shared_ptr<Tokenizer> tokenizer_;
  const HfSource source_;
  const RunText text_;
  const ValidationSet validation_;
  Loader loader_;
  Trainer trainer_;
  CheckpointInfo info_;  // of the last step done
  int64_t saved_step_ = 0;
  std::map<int64_t, double> validation_losses_;  // by step
  std::vector<PackedSequence> sequences_;
};

}  // namespace

nlohmann::json RunSummary::ToJson() const {
  nlohmann::json json = {{"steps", steps},
                         {"tokens", tokens},
                         {"padding", padding},
                         {"targets", targets},
                         {"final_loss", loss},
                         {"seconds", seconds},
                         {"tokens_per_second", tokens_per_second()},
                         {"density", density},
                         {"out", out.string()}};
  if (packing.sequences > 0) json["packing"] = hawser::ToJson(packing);
  if (!sources.empty()) json["sources"] = hawser::ToJson(sources);
  return json;
}

RunSummary RunTraining(const TrainPlan& plan, const fs::path& out, bool resume, Backend* backend,
                       const RunObserver& observer) {
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes then is an error of write, like a full disk
  std::error_code code;
  if (fs::exists(out, code) && !fs::is_directory(out, code)) FailForeign(out);
  const FolderLock lock(out);
  const bool is_run = EnterRunFolder(plan.config, out, resume);
  RemoveAbandoned(out);
  RemoveAbandoned(out / "adapter");
  RemoveUnfinishedCheckpoints(out / kRunCheckpoints);
  if (is_run) {
    if (std::optional<RunSummary> summary = FinishedSummary(plan.config, out)) return *std::move(summary);
  }
  if (resume && !is_run) LogLine(fmt::format("{}: no run is there to resume; it begins", out.string()));
  Run run(plan, out, backend, LoadStart(plan));
  if (is_run) {
    run.Restore();
  } else {
    WriteFileAtomically(out / kRunRecipe, ToToml(plan.config));
  }
  return run.Go(observer);
}

}  // namespace hawser
