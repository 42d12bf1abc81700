#include <algorithm>
#include <cmath>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/model/fold_rules.h"
#include "hawser/model/places.h"
#include "hawser/tok/separators.h"
#include "hawser/train/conflicts.h"
#include "hawser/train/peft.h"
#include "hawser/train/run.h"
#include "hawser/train/trained.h"
#include "hawser/train/trainer.h"
#include "hawser/zoo/builtin.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

void MakeAbsolute(std::string& path) {
  if (!path.empty()) path = fs::absolute(path).lexically_normal().string();
}

/// Sets the places of `spec`, which was trained on `old_context` tokens: the recipe's, else the model's own as long as
/// it reaches, else the model's own with a larger factor, or NTK-aware scaling where it has none.
void ExtendRope(TrainConfig& config, ModelSpec& spec, int64_t old_context) {
  const RopeSpec given = spec.rope;
  if (config.rope.empty() && spec.places != Places::kNone && config.context > MaxContext(spec, old_context)) {
    config.rope = GrownPlaces(spec, old_context, config.context);
  }
  // What a scheme without a bound of its own is meant for.
  const int64_t trained = config.rope.empty() ? old_context : OriginalContext(spec, old_context);
  if (!config.rope.empty()) ApplyPlaces(config.rope, old_context, config.context, &spec);
  if (!config.rope_numerics.empty()) {
    if (spec.places != Places::kRope) {
      Fail(ErrorKind::kUsage, "recipe key \"rope_numerics\": this model has no rotary positions but {}",
           PlacesText(spec));
    }
    spec.rope.numerics =
        WithFrame("recipe key \"rope_numerics\"", [&] { return ParseRopeNumerics(config.rope_numerics); });
  }
  QkvDType(spec, config.dtype);  // refuses what a model cannot run in
  CheckTrainable(spec);
  const int64_t reach = MaxContext(spec, trained);
  if (reach < config.context && HasScaling(spec)) {
    Fail(ErrorKind::kUsage, "rope \"{}\" reaches {}, the context is {}; give it a factor of {} or more",
         PlacesText(spec), Counted(reach, "token"), config.context,
         std::ceil(static_cast<double>(config.context) * ScalingFactor(spec) / static_cast<double>(reach)));
  }
  // Another base is a scaling of its own: how far it reaches, training decides.
  if (reach < config.context && spec.rope.theta <= given.theta) {
    LogLine(fmt::format("note: rope \"{}\" is meant for {}, the context is {}", PlacesText(spec),
                        Counted(reach, "token"), config.context));
  }
}

/// The map of positions, its window that of the model to continue where it is left open. Errors: kUsage.
void SetPositions(int64_t old_context, TrainPlan* plan) {
  TrainConfig& config = plan->config;
  PositionMap map = ParsePositionMap(config.positions);
  if (!IsPlain(map) && WindowOf(map) == 0) {
    if (config.model.empty()) {
      Fail(ErrorKind::kUsage, "positions = \"{}\" needs the tokens of a sequence for a model from scratch: window=512",
           config.positions);
    }
    map = WithWindow(map, old_context);
  }
  if (WindowOf(map) > config.context) {
    Fail(ErrorKind::kUsage,
         "positions = \"{}\" takes sequences of {}, which is more than context = {}, what they are to reach; "
         "give a larger context or a smaller window",
         config.positions, Counted(WindowOf(map), "token"), config.context);
  }
  if (!IsPlain(map) && WindowOf(map) < 2) {
    Fail(ErrorKind::kUsage, "positions = \"{}\": sequences of {}, wanted 2 or more", config.positions,
         Counted(WindowOf(map), "token"));
  }
  plan->positions = map;
  config.positions = ToString(map);
}

/// Candidates beside a model that stays as it is, its context included. Errors: kUsage, kUnsupported.
void SetFocus(int64_t old_context, TrainPlan* plan) {
  TrainConfig& config = plan->config;
  if (config.model.empty()) {
    Fail(ErrorKind::kUsage, "objective = \"{}\" trains candidates beside a model: set the recipe key \"model\"",
         config.objective);
  }
  if (config.context != old_context) {
    Fail(ErrorKind::kUsage,
         "objective = \"{}\": the model and its context of {} stay as they are, found context = {}; how long "
         "texts are says tokens=... of the objective",
         config.objective, Counted(old_context, "token"), config.context);
  }
  plan->objective = Resolve(std::get<FocusLoss>(plan->objective), plan->spec);
}

/// Bilevel positions for a model from scratch. Errors: kUsage.
void SetSegments(const TrainConfig& config, const Tokenizer& tokenizer, ModelSpec* spec) {
  if (config.segments == 0) return;
  spec->segments.places = static_cast<int32_t>(config.segments);
  const std::vector<uint8_t> flags = ModelSeparators(&tokenizer, config.segment_separators, spec->vocab);
  for (size_t id = 0; id < flags.size(); ++id) {
    if (flags[id] != 0) spec->segments.separators.push_back(static_cast<int32_t>(id));
  }
}

/// Errors: kUsage where a run saves fewer checkpoints than it is to average.
void CheckAveraging(const TrainConfig& config) {
  if (config.average_last < 2) return;
  const int64_t every = config.checkpoint_every > 0 ? config.checkpoint_every : config.steps;
  const int64_t saved = (config.steps + every - 1) / every;
  if (saved >= config.average_last) return;
  Fail(ErrorKind::kUsage, "average_last = {}, but {} with checkpoint_every = {} give {}", config.average_last,
       Counted(config.steps, "step"), config.checkpoint_every, Counted(saved, "checkpoint"));
}

/// Rank, alpha and targets are those of the adapters that the run goes on with. Errors: kUsage where the recipe says
/// something else, ReadPeftSpec.
void TakeAdapter(const ModelSpec& spec, TrainConfig* config) {
  if (config->adapter.empty()) return;
  if (config->model.empty()) {
    Fail(ErrorKind::kUsage, "adapter = \"{}\" needs the model that it adapts: set the recipe key \"model\"",
         config->adapter);
  }
  CheckNotMerged(config->adapter, config->model);
  const LoraSpec lora = ReadPeftSpec(config->adapter, spec);
  const TrainConfig defaults;
  const auto take = [&](const char* key, auto& value, const auto& by_default, const auto& of_adapter) {
    if (value != of_adapter && value != by_default) {
      Fail(ErrorKind::kUsage, "{} is not as in the adapters of {} that are to be trained on: leave it out", key,
           config->adapter);
    }
    value = of_adapter;
  };
  take("lora_rank", config->lora_rank, defaults.lora_rank, lora.rank);
  take("lora_alpha", config->lora_alpha, defaults.lora_alpha, lora.alpha);
  take("lora_targets", config->lora_targets, defaults.lora_targets, lora.targets);
}

/// Of one micro-batch at its worst: rows of the smallest chunks, keys and values of all layers, and what candidates and
/// windows keep for their backward.
int64_t FocusBytes(const FocusLoss& focus, const ModelSpec& spec, const TrainConfig& config) {
  const int64_t smallest = *std::ranges::min_element(focus.chunk);
  const int64_t chunks = (focus.tokens + smallest - 1) / smallest;
  const int64_t window = 1 + focus.local + *std::ranges::max_element(focus.targets);
  const int64_t keys = focus.tokens + chunks * (1 + focus.prompt);
  const int64_t key_bytes = 2 * int64_t{spec.layers} * spec.kv_heads * spec.head_dim *
                            static_cast<int64_t>(SizeOf(QkvDType(spec, config.dtype)));
  return config.micro_batch * (ScoringBytes(spec, config.dtype, keys) + (keys + 2 * (chunks + window)) * key_bytes +
                               ActivationBytes(spec, config.dtype, Recompute::kNone, chunks) +
                               ActivationBytes(spec, config.dtype, config.recompute, window));
}

/// Errors: ListDataFiles, HoldOutFiles.
void FindFiles(TrainPlan* plan) {
  const auto files_of = [&](const std::vector<std::string>& data) {
    return HoldOutFiles(ListDataFiles({data.begin(), data.end()}), plan->config.holdout);
  };
  if (plan->config.sources.empty()) plan->files = files_of(plan->config.data);
  for (const SourceConfig& source : plan->config.sources) {
    const FileSplit split = WithFrame(fmt::format("source \"{}\"", source.name), [&] { return files_of(source.data); });
    plan->files.train.insert(plan->files.train.end(), split.train.begin(), split.train.end());
    plan->files.validation.insert(plan->files.validation.end(), split.validation.begin(), split.validation.end());
    plan->source_files.push_back(split.train);
  }
}

}  // namespace

TrainPlan MakePlan(const TrainConfig& recipe) {
  TrainPlan plan;
  plan.config = recipe;
  TrainConfig& config = plan.config;
  for (SourceConfig& source : config.sources) {
    const fs::path first = source.data.empty() ? "" : source.data.front();
    if (source.name.empty()) source.name = (first.has_filename() ? first : first.parent_path()).filename().string();
  }
  Validate(config);
  for (std::string* name : {&config.model, &config.tokenizer}) {
    if (!name->empty()) *name = ResolveModel(*name).string();
  }
  MakeAbsolute(config.model);
  MakeAbsolute(config.tokenizer);
  MakeAbsolute(config.adapter);
  for (std::string& path : config.data) MakeAbsolute(path);
  for (SourceConfig& source : config.sources) {
    for (std::string& path : source.data) MakeAbsolute(path);
  }
  plan.variant = ParseVariant(config.attention);
  config.attention = ToString(plan.variant);

  if (config.model.empty()) {
    if (config.tokenizer.empty()) Fail(ErrorKind::kUsage, "a model from scratch needs the recipe key \"tokenizer\"");
    plan.tokenizer = LoadTokenizer(config.tokenizer);
    plan.spec = ScratchSpec(config, plan.tokenizer->vocab_size());
    plan.spec.bos = plan.tokenizer->bos();
    if (plan.tokenizer->eos() >= 0) plan.spec.eos = {plan.tokenizer->eos()};
    SetSegments(config, *plan.tokenizer, &plan.spec);
  } else {
    if (config.segments != 0) {
      Fail(ErrorKind::kUsage, "segments = {} is for a model from scratch: one to continue has its own or none",
           config.segments);
    }
    if (config.dims != ModelDims()) Fail(ErrorKind::kUsage, "a recipe with a model to continue sets no sizes of one");
    plan.spec = LoadSpec(config.model);
    if (!config.adapter.empty() && config.rope.empty()) TakeTrainedPlaces(config.adapter, &plan.spec);
  }
  const int64_t old_context = plan.spec.context;
  if (config.context == 0) config.context = old_context;
  if (config.context < 2) Fail(ErrorKind::kUsage, "context must be at least 2 tokens, found {}", config.context);
  SetPositions(old_context, &plan);
  plan.objective = ParseObjective(config.objective);
  if (std::holds_alternative<FocusLoss>(plan.objective)) SetFocus(old_context, &plan);
  config.objective = PrintForm(plan.objective);
  ExtendRope(config, plan.spec, old_context);
  if (!config.softmax.empty()) plan.spec.softmax = ParseSoftmax(config.softmax);
  plan.spec.context = config.context;
  Validate(plan.spec);
  plan.variant.pattern.OfLayer(0, plan.spec.layers);  // says so if it is meant for another number of layers

  config.lora_targets = TargetsInModel(plan.spec, config.lora_targets);
  TakeAdapter(plan.spec, &config);
  TrainedLayout(ParamLayout(plan.spec), config);  // names that match nothing, before anything is read

  if (config.lr == 0) config.lr = DefaultLearningRate(plan.spec.width);

  const int64_t length = plan.sequence_tokens();
  plan.sequences_per_step = std::max<int64_t>(1, (config.batch_tokens + length / 2) / length);
  if (config.steps == 0) config.steps = (config.tokens + plan.tokens_per_step() - 1) / plan.tokens_per_step();
  config.tokens = 0;
  CheckAveraging(config);
  if (config.micro_batch == 0) config.micro_batch = ChooseMicroBatch(plan.spec, config, length);
  const int64_t parts = (plan.sequences_per_step + config.micro_batch - 1) / config.micro_batch;
  config.micro_batch = (plan.sequences_per_step + parts - 1) / parts;  // as even as they can be

  FindFiles(&plan);
  RefuseConflicts(plan, old_context);
  plan.notes = RecipeNotes(recipe, plan);
  return plan;
}

int64_t TrainPlan::state_bytes() const { return CountStateBytes(spec, config).total(); }

int64_t TrainPlan::sequence_tokens() const {
  if (const FocusLoss* focus = std::get_if<FocusLoss>(&objective)) return focus->tokens;
  return IsPlain(positions) ? spec.context : WindowOf(positions);
}

int64_t TrainPlan::activation_bytes() const {
  if (const FocusLoss* focus = std::get_if<FocusLoss>(&objective)) return FocusBytes(*focus, spec, config);
  const int64_t rows = config.micro_batch * sequence_tokens();
  return (std::holds_alternative<LongCe>(objective) ? ScoringBytes(spec, config.dtype, rows) : 0) +
         ActivationBytes(spec, config.dtype, config.recompute, rows);
}

nlohmann::json TrainPlan::ToJson() const {
  return {{"parameters", NumParameters(spec)},
          {"context", spec.context},
          {"attention", config.attention},
          {"rope", PlacesText(spec)},
          {"positions", config.positions},
          {"sequence_tokens", sequence_tokens()},
          {"objective", config.objective},
          {"steps", config.steps},
          {"tokens_per_step", tokens_per_step()},
          {"tokens", tokens()},
          {"micro_batch", config.micro_batch},
          {"train_files", files.train.size()},
          {"validation_files", files.validation.size()},
          {"state_bytes", state_bytes()},
          {"activation_bytes", activation_bytes()},
          {"notes", notes}};
}

}  // namespace hawser
