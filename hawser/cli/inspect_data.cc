// hawser inspect data: documents, how a recipe packs them, and what its mask saves.
#include <fmt/format.h>

#include <memory>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/size.h"
#include "hawser/cli/inspect.h"
#include "hawser/cli/training.h"
#include "hawser/data/pack_report.h"
#include "hawser/eval/picture_file.h"
#include "hawser/eval/plot.h"
#include "hawser/train/packing.h"
#include "hawser/train/run.h"
#include "hawser/train/trainer.h"
#include "hawser/zoo/load.h"

namespace hawser {
namespace {

struct InspectDataOptions {
  ModelOptions model;
  std::vector<std::string> data;
  std::filesystem::path recipe;
  std::vector<std::string> settings, sets;  // key=value: of options, and of --set, which wins
  int64_t max_sequences = 0;
  std::filesystem::path svg;
};

TrainConfig MakeConfig(const InspectDataOptions& o, Command command, const CommonOptions& common) {
  TrainConfig config;
  config.attention = "anchor";
  if (!o.recipe.empty()) ApplyRecipeFile(config, o.recipe);
  if (!o.model.model.empty()) config.model = o.model.model.string();
  if (!o.model.tokenizer.empty()) config.tokenizer = o.model.tokenizer.string();
  if (!o.data.empty()) SetData(config, o.data);
  ApplySeed(command, common, config);
  for (const std::string& setting : o.settings) ApplySetting(config, setting);
  for (const std::string& setting : o.sets) ApplySetting(config, setting);
  if (config.context == 0) Fail(ErrorKind::kUsage, "how long are the sequences? Give --context TOKENS");
  if (config.model.empty() && config.tokenizer.empty()) {
    Fail(ErrorKind::kUsage, "text needs a tokenizer: give a model, or --tokenizer FILE");
  }
  config.shrink_context = true;  // nothing is trained, nothing saved
  config.tokens = 0;
  config.steps = 1;
  if (config.model.empty() && config.dims.width == 0) config.dims = {.width = 64, .layers = 1, .heads = 1};
  return config;
}

std::string LengthHistogram(const PackReport& report) {
  BarPlot plot{
      .title = "Tokens by length of their document",
      .subtitle = fmt::format("{}, {}", Counted(report.documents, "document"), Counted(report.tokens, "token")),
      .y = {.label = "share (%)"}};
  BarSeries documents{.name = "documents"}, tokens{.name = "tokens"};
  for (const PackReport::Bucket& bucket : report.histogram) {
    plot.groups.push_back(TickLabel(AxisScale::kLog2, static_cast<double>(bucket.begin)));
    documents.values.push_back(100 * PackReport::Ratio(bucket.documents, report.documents));
    tokens.values.push_back(100 * PackReport::Ratio(bucket.tokens, report.tokens));
  }
  plot.series = {documents, tokens};
  return RenderSvg(plot);
}

int Run(const InspectDataOptions& o, Command command, const CommonOptions& common) {
  const TrainPlan plan = MakePlan(MakeConfig(o, command, common));
  std::shared_ptr<Tokenizer> tokenizer = plan.tokenizer;
  if (tokenizer == nullptr) tokenizer = InspectModel(plan.config.model, plan.config.tokenizer).tokenizer;
  if (tokenizer == nullptr) {
    Fail(ErrorKind::kUsage, "{}: brings no tokenizer; give one with --tokenizer", plan.config.model);
  }
  const DocumentSet documents = TrainingDocuments(plan, *tokenizer);
  const PackOptions pack = MakePackOptions(plan, *tokenizer);
  const PackReport report =
      MeasurePacking(documents, pack, static_cast<uint64_t>(plan.config.seed), MakeUpsampleOptions(plan.config),
                     o.max_sequences, plan.spec.layers, OwnPattern(plan.spec));
  if (!o.svg.empty()) WritePicture(o.svg, LengthHistogram(report));

  const bool has_model = !plan.config.model.empty();
  const int64_t tokens = report.measured * report.context;
  const double flops = ExecutedFlops(plan.spec, plan.config.recompute, tokens, report.pairs);
  const double full_flops = ExecutedFlops(plan.spec, plan.config.recompute, tokens, report.causal_pairs);
  if (common.json) {
    nlohmann::json json = ToJson(report);
    json["prefix"] = pack.anchor.empty() && pack.bos >= 0 ? std::vector<int32_t>{pack.bos} : pack.anchor;
    json["step_saving"] = has_model ? nlohmann::json(1 - flops / full_flops) : nlohmann::json();
    PrintJson(json);
    return 0;
  }
  PrintText(ToText(report) + PrefixText(pack, plan, *tokenizer) + "\n");
  if (has_model) {
    PrintText(fmt::format("a whole step   {:.1f} % of the FLOPs of full attention with this model\n",
                          100 * flops / full_flops));
  }
  return 0;
}

}  // namespace

std::function<int()> SetupInspectData(Command command, CommonOptions& common) {
  auto options = std::make_shared<InspectDataOptions>();
  command.Add("MODEL", options->model.model, "The model to train further, for its tokenizer and sizes; or --tokenizer");
  command.Add("--tokenizer", options->model.tokenizer, "Tokenizer file or folder");
  command
      .Add("--data", options->data, "Documents: .txt, .jsonl, .tokens, or folders of them; a mixture: books/=3 code/=1")
      .Reads();
  command.Add("--recipe", options->recipe, "TOML file of recipe keys; options win over it");
  const auto key = [&](const std::string& flag, const std::string& name, const std::string& help) {
    command.AddCall(
        flag, [options, name](const std::string& value) { options->settings.push_back(name + "=" + value); }, help);
  };
  key("--context", "context", "Tokens of a sequence");
  key("--attention", "attention", "full, intra, anchor, anchor-reset, ...; see help attention");
  key("--positions", "positions", "How positions skip: pose:window=512, skipalign, randpos; see help positions");
  key("--bos", "bos", "BOS before each document: auto (the tokenizer's rule), on or off");
  key("--overflow", "overflow", "What a document longer than the room left does: restart, split, drop, fit, best-fit");
  command.Add("--set", options->sets, "Any recipe key: key=value (upsample=per-source, min_document=8, ...)")
      .OneArgument();
  command.Add("--max-sequences", options->max_sequences, "Measure no more than this (0: the whole data)")
      .Range(0, int64_t{1} << 40);
  command.Add("--svg", options->svg, "Write the histogram of lengths to this file: .svg, .png or .pdf").Writes();
  return [options, command, &common] { return Run(*options, command, common); };
}

}  // namespace hawser
