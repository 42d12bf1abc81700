#include "hawser/train/run_result.h"

#include <fmt/format.h>

#include <utility>
#include <variant>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/io/json.h"
#include "hawser/io/json_text.h"
#include "hawser/io/safetensors.h"
#include "hawser/model/places.h"
#include "hawser/train/average.h"
#include "hawser/train/checkpoint.h"
#include "hawser/train/peft.h"
#include "hawser/train/run_folder.h"
#include "hawser/train/trained.h"
#include "hawser/zoo/focus_file.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

RunSummary ReadMark(const fs::path& out) {
  const fs::path path = out / kRunMark;
  const nlohmann::json json = WithFrame(path.string(), [&] { return ParseJson(ReadFile(path)); });
  const JsonObject object(json, path.string());
  constexpr int64_t kMany = int64_t{1} << 53;
  RunSummary summary;
  summary.steps = object.Int("steps", 0, kMany);
  summary.tokens = object.Int("tokens", 0, kMany);
  summary.padding = object.IntOr("padding", 0, 0, kMany);
  summary.targets = object.IntOr("targets", 0, 0, kMany);
  summary.loss = object.Number("final_loss");
  summary.seconds = object.Number("seconds");
  summary.density = object.Number("density");
  summary.was_finished = true;
  summary.out = out;
  return summary;
}

/// What was done, for the card of the model.
std::string CardNote(const TrainPlan& plan, const HfSource& source) {
  const TrainConfig& config = plan.config;
  return fmt::format(
      "Trained on by hawser: {} of {} tokens, attention {}, rope {}{}, context {} (before: {}); weights stored "
      "as {}.",
      Counted(config.steps, "step"), plan.tokens_per_step(), config.attention, PlacesText(plan.spec),
      IsPlain(plan.positions) ? "" : fmt::format(", positions {}", config.positions), plan.spec.context, source.context,
      Name(config.dtype));
}

}  // namespace

std::optional<RunSummary> FinishedSummary(const TrainConfig& config, const fs::path& out) {
  std::error_code code;
  if (!fs::exists(out / kRunMark, code)) return std::nullopt;
  try {
    RunSummary summary = ReadMark(out);
    if (summary.steps != config.steps) return std::nullopt;
    if (TrainsCandidates(config)) {
      ReadSafetensors(out / kFocusFileName);
    } else {
      InspectModel(out);
    }
    return summary;
  } catch (const Error& error) {
    LogLine(
        fmt::format("{}: the run is finished, but what it trained is not whole: {}; it is written again from the last "
                    "checkpoint",
                    out.string(), error.what()));
    return std::nullopt;
  }
}

void SaveResult(const TrainPlan& plan, Trainer& trainer, const Tokenizer* tokenizer, HfSource source,
                const RunSummary& summary, Backend* backend) {
  const TrainConfig& config = plan.config;
  nlohmann::json mark = summary.ToJson();
  source.note = CardNote(plan, source);
  const auto save = [&](const ParamStore& weights) {
    ExportHuggingFace(weights, tokenizer, config.dtype, source, summary.out);
  };
  const FocusLoss* focus = std::get_if<FocusLoss>(&plan.objective);
  if (config.lora_rank > 0 && config.average_last < 2)
    SavePeft(trainer.adapters(), LoraOf(config), config.model, summary.out / "adapter");
  if (focus != nullptr) {
    SaveFocusAdapters(trainer.adapters(), trainer.weights(), ShapeOf(*focus), /*sync=*/1, config.model, config.dtype,
                      summary.out / kFocusFileName);
  } else if (config.average_last > 1) {
    const fs::path checkpoints = summary.out / kRunCheckpoints;
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
  mark["rope"] = PlacesText(plan.spec);
  mark["context"] = plan.spec.context;
  if (!IsPlain(plan.positions)) mark["positions"] = config.positions;
  if (!std::holds_alternative<PlainCe>(plan.objective)) mark["objective"] = config.objective;
  WriteFileAtomically(summary.out / kRunMark, JsonText(mark, 2) + "\n");
}

}  // namespace hawser
