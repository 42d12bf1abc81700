#include "hawser/train/conflicts.h"

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/size.h"
#include "hawser/train/lora.h"
#include "hawser/train/lr.h"
#include "hawser/train/trained.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

const TrainConfig& Default() {
  static const TrainConfig config;
  return config;
}

class Notes {
 public:
  template <class... Args>
  void If(bool condition, fmt::format_string<Args...> format, Args&&... args) {
    if (condition) lines_.push_back(fmt::format(format, std::forward<Args>(args)...));
  }
  std::vector<std::string> Take() { return std::move(lines_); }

 private:
  std::vector<std::string> lines_;
};

void NoteSchedule(const TrainConfig& c, Notes* notes) {
  notes->If(c.warmup >= c.steps, "warmup = {} in a run of {}: the learning rate only rises, to {:.3g} of lr = {:.3g}",
            c.warmup, Counted(c.steps, "step"), LearningRate(c, c.steps, c.steps), c.lr);
  notes->If(c.decay != Default().decay && c.schedule != Schedule::kWsd,
            "decay = {} has no effect: it is for schedule = \"wsd\", found \"{}\"", c.decay, Name(c.schedule));
  notes->If(c.decay == 0 && c.schedule == Schedule::kWsd, "decay = 0: the learning rate of \"wsd\" never falls");
  notes->If(c.min_lr_ratio != Default().min_lr_ratio && c.schedule == Schedule::kConstant,
            "min_lr_ratio = {} has no effect: the schedule is \"constant\"", c.min_lr_ratio);
}

void NoteSizes(const TrainConfig& recipe, const TrainPlan& plan, Notes* notes) {
  const TrainConfig& c = plan.config;
  const int64_t step = plan.tokens_per_step();
  notes->If(4 * std::abs(step - c.batch_tokens) > c.batch_tokens,
            "batch_tokens = {} becomes {}: a step takes whole sequences, {} of {} tokens", c.batch_tokens, step,
            plan.sequences_per_step, plan.sequence_tokens());
  notes->If(recipe.micro_batch > plan.sequences_per_step, "micro_batch = {} becomes {}: a step has {} sequences",
            recipe.micro_batch, c.micro_batch, plan.sequences_per_step);
  const int64_t length = plan.sequence_tokens();
  notes->If(c.min_document > length,
            "min_document = {} is longer than a sequence of {}: documents that would fill one are dropped",
            c.min_document, length);
  const LayeredPattern& pattern = plan.variant.pattern;
  notes->If(pattern.window != AttnPattern::kAll && pattern.window >= length,
            "window={} has no effect: a sequence has {} tokens", pattern.window, length);
}

void NotePositions(const TrainPlan& plan, Notes* notes) {
  const TrainConfig& c = plan.config;
  if (IsPlain(plan.positions)) return;
  notes->If(plan.sequence_tokens() == c.context,
            "positions = \"{}\" skips little: its sequences of {} tokens are as long as what they are to reach",
            c.positions, c.context);
  notes->If(plan.spec.places == Places::kAlibi,
            "positions = \"{}\" under ALiBi: biases count the skipped places too, which no publication tried",
            c.positions);
  const Pose* pose = std::get_if<Pose>(&plan.positions);
  notes->If(pose != nullptr && pose->mask_seam_label && pose->chunks == 1,
            "mask_seam_label has no effect: positions = \"{}\" has one chunk", c.positions);
}

/// Errors: kUsage where the places of the model do not go with a map of positions.
void RefusePositions(const TrainPlan& plan) {
  if (IsPlain(plan.positions)) return;
  const ModelSpec& spec = plan.spec;
  const std::string& text = plan.config.positions;
  if (spec.places == Places::kNone) {
    Fail(ErrorKind::kUsage, "positions = \"{}\": this model has no positions that could be mapped", text);
  }
  if (spec.segments.places > 0) {
    Fail(ErrorKind::kUsage,
         "positions = \"{}\": this model counts segments of the text (bilevel positions), not places", text);
  }
  if (spec.places != Places::kRope) return;
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    if (!Rotates(spec, layer) || !DependsOnLength(RopeOf(spec, layer))) continue;
    Fail(ErrorKind::kUsage,
         "positions = \"{}\": frequencies of rope \"{}\" depend on the length of a text, which sequences of {} tokens "
         "do not have; use linear, ntk, yarn or theta=B",
         text, ToString(RopeOf(spec, layer)), plan.sequence_tokens());
  }
}

/// Errors: kUsage for what means nothing where candidates are trained beside a model; CheckFocus.
void RefuseFocus(const TrainPlan& plan) {
  const TrainConfig& c = plan.config;
  const auto refuse = [&](bool given, std::string_view what, std::string_view why) {
    if (!given) return;
    Fail(ErrorKind::kUsage, "objective = \"{}\" does not go with {}: {}", c.objective, what, why);
  };
  AttnVariant variant = plan.variant;  // a text is one document: whether it sees others does not matter
  variant.pattern.scope = Scope::kSequence;
  variant.reset_positions = false;
  const bool plain = variant == AttnVariant();
  refuse(!plain, fmt::format("attention = \"{}\"", c.attention),
         "a chunk is seen as a whole; give attention = \"full\"");
  refuse(!IsPlain(plan.positions), fmt::format("positions = \"{}\"", c.positions),
         "chunks and windows have positions of their own");
  refuse(c.lora_rank > 0, fmt::format("lora_rank = {}", c.lora_rank), "candidates have whole projections");
  refuse(!c.adapter.empty(), "adapter", "candidates begin as the model is");
  refuse(!c.train_only.empty() || !c.freeze.empty(), "train_only and freeze", "the model stays as it is");
  refuse(!c.softmax.empty(), "softmax", "the model stays as it is");
  refuse(c.first_token_from_anchor, "first_token_from_anchor", "there is no anchor");
  refuse(c.average_last > 1, fmt::format("average_last = {}", c.average_last), "no model is saved");
  CheckFocus(plan.spec);
}

/// Errors: kUsage where no token of a sequence has enough before it.
void RefuseObjective(const TrainPlan& plan) {
  if (std::holds_alternative<FocusLoss>(plan.objective)) RefuseFocus(plan);
  const LongCe* long_ce = std::get_if<LongCe>(&plan.objective);
  if (long_ce == nullptr) return;
  const LongCe& c = *long_ce;
  const int64_t room = plan.sequence_tokens() - plan.variant.pattern.anchors;
  if (c.k + c.delta < room) return;
  Fail(ErrorKind::kUsage,
       "objective = \"{}\": k + delta = {} tokens are as long as a sequence, whose documents have {} at most; give "
       "smaller ones, or a larger context",
       plan.config.objective, c.k + c.delta, room);
}

void NoteText(const TrainConfig& c, Notes* notes) {
  notes->If(c.lookahead != Default().lookahead && c.overflow != Overflow::kBestFit,
            "lookahead = {} has no effect: it is for overflow = \"best-fit\"", c.lookahead);
  const bool sampled = c.long_document != Default().long_document || c.short_keep != Default().short_keep;
  notes->If(sampled && c.upsample == Upsample::kNone,
            "long_document and short_keep have no effect: upsample is \"none\"");
  notes->If(c.upsample != Upsample::kNone && c.short_keep == 1,
            "upsample has no effect: short_keep = 1 takes every document");
  notes->If(!c.segment_separators.empty() && c.segments == 0, "segment_separators has no effect: segments is 0");
}

void NoteCheckpoints(const TrainConfig& c, Notes* notes) {
  const bool validates = c.validate_every > 0;
  notes->If(c.holdout > 0 && !validates,
            "holdout = {}: files are neither trained nor validated on; validate_every = N scores them", c.holdout);
  notes->If(c.validate_sequences != Default().validate_sequences && !validates,
            "validate_sequences = {} has no effect: validate_every is 0", c.validate_sequences);
  notes->If(validates && c.validate_every > c.steps, "validate_every = {}: {} steps are validated at the end only",
            c.validate_every, c.steps);
  notes->If(c.log_every > c.steps, "log_every = {}: {} steps are logged at the end only", c.log_every, c.steps);
  notes->If(c.checkpoint_every > c.steps && c.checkpoint_every != Default().checkpoint_every,
            "checkpoint_every = {}: {} steps are saved at the end only, a run that is killed begins again",
            c.checkpoint_every, c.steps);
  notes->If(validates && c.validate_every < c.steps && c.checkpoint_every == 0,
            "checkpoint_every = 0: only the last step is saved, whatever the validation says of others");
  notes->If(
      validates && c.checkpoint_every > 0 && c.checkpoint_every < c.steps && c.checkpoint_every % c.validate_every != 0,
      "validate_every = {} does not divide checkpoint_every = {}: checkpoints that are not validated are never "
      "kept as the best",
      c.validate_every, c.checkpoint_every);
}

void NoteParameters(const TrainConfig& c, const ModelSpec& spec, Notes* notes) {
  const bool adapters = c.lora_rank > 0;
  notes->If(!adapters && (c.lora_alpha != Default().lora_alpha || c.lora_targets != Default().lora_targets),
            "lora_alpha and lora_targets have no effect: lora_rank is 0, all parameters are trained");
  notes->If(adapters && c.model.empty(),
            "lora_rank = {}: a model from scratch keeps its random weights beside adapters", c.lora_rank);
  notes->If(adapters && c.average_last > 1,
            "average_last = {}: the mean of checkpoints is a model, without adapters in \"adapter\"", c.average_last);
  const ParamLayout all(spec), layout = LoraLayout(all, LoraOf(c));
  for (const ParamInfo& info : layout.params()) {
    if (std::max(info.rows, info.cols) > c.lora_rank) continue;
    notes->If(true, "lora_rank = {}: {} is as large as the matrix that it adapts", c.lora_rank, info.name);
    break;
  }
  notes->If(TrainsCandidates(c) && !c.rope.empty(),
            "rope = \"{}\": the candidates are for the model under it, and are read with the same --rope", c.rope);
  if (c.freeze.empty()) return;
  TrainConfig thawed = c;
  thawed.freeze.clear();
  notes->If(TrainedLayout(all, thawed).size() == TrainedLayout(all, c).size(),
            "freeze has no effect: what it names is not trained anyway");
}

/// Files that are named twice, as what they are on disk.
std::set<fs::path> Real(const std::vector<fs::path>& files) {
  std::set<fs::path> real;
  std::error_code code;
  for (const fs::path& file : files) {
    const fs::path path = fs::canonical(file, code);
    real.insert(code ? file : path);
  }
  return real;
}

}  // namespace

void RefuseConflicts(const TrainPlan& plan, int64_t model_context) {
  const TrainConfig& c = plan.config;
  if (c.context < model_context && !c.shrink_context) {
    Fail(ErrorKind::kUsage,
         "context = {} is less than the {} tokens of the model, and the saved model would end there; give {} or more, "
         "or "
         "shrink_context = true (--set shrink_context=true) if that is meant",
         c.context, model_context, model_context);
  }
  RefusePositions(plan);
  RefuseObjective(plan);
  const double flat = static_cast<double>(c.steps) * (1 - c.decay);
  if (c.schedule == Schedule::kWsd && c.warmup<c.steps&& static_cast<double>(c.warmup)> flat) {
    Fail(ErrorKind::kUsage, "warmup = {} and decay = {} overlap in {} steps: the decay begins at step {:.0f}", c.warmup,
         c.decay, c.steps, flat);
  }
  if (c.lora_rank > 0 && c.lora_alpha == 0) {
    Fail(ErrorKind::kUsage, "lora_alpha = 0 takes the adapters of lora_rank = {} times 0", c.lora_rank);
  }
  const std::set<fs::path> trained = Real(plan.files.train);
  for (const fs::path& file : Real(plan.files.validation)) {
    if (!trained.contains(file)) continue;
    Fail(ErrorKind::kUsage, "{}: both held out for validation and trained on; name it once in \"data\"", file.string());
  }
}

std::vector<std::string> RecipeNotes(const TrainConfig& recipe, const TrainPlan& plan) {
  Notes notes;
  NoteSchedule(plan.config, &notes);
  NoteSizes(recipe, plan, &notes);
  NotePositions(plan, &notes);
  NoteText(plan.config, &notes);
  NoteCheckpoints(plan.config, &notes);
  NoteParameters(plan.config, plan.spec, &notes);
  const auto files = static_cast<int64_t>(plan.files.train.size());
  const auto twice = files - static_cast<int64_t>(Real(plan.files.train).size());
  notes.If(twice > 0, "{} of {} data files are named more than once: their text counts as often", twice, files);
  return notes.Take();
}

}  // namespace hawser
