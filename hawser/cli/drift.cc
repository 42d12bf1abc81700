// hawser drift MODEL: what the rounding of rotary embeddings does to a model; --self-test: to random vectors.
#include <algorithm>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/cli/command.h"
#include "hawser/data/corpus.h"
#include "hawser/eval/drift.h"
#include "hawser/eval/rope_vectors.h"
#include "hawser/io/json_text.h"
#include "hawser/model/places.h"

namespace hawser {
namespace {

struct DriftCommand {
  ModelOptions model;
  std::string bos = "auto";
  std::vector<std::filesystem::path> data;
  std::vector<std::string> pipelines;
  std::vector<int32_t> deltas, lengths;
  int64_t sequences = 50, tokens = 0, reference = 16;
  std::string mode = "free", side = "both", dtype = "f32", rope;
  std::filesystem::path out;
  bool random_weights = false, self_test = false;
};

constexpr double kMostDeviation = 0.1;

int RunSelfTest(const DriftCommand& options, const CommonOptions& common) {
  const RopeSelfTestReport report = RunRopeSelfTest({.seed = common.seed, .pipelines = options.pipelines});
  if (common.json) {
    PrintJson(ToJson(report));
  } else {
    PrintText(ToText(report));
  }
  if (!(report.worst() <= kMostDeviation)) {
    Fail(ErrorKind::kNumeric, "a figure is {:.0f} % off, wanted at most {:.0f} %", 100 * report.worst(),
         100 * kMostDeviation);
  }
  return 0;
}

/// The pipelines to compare, each by its name.
std::vector<std::pair<std::string, RopeNumerics>> Pipelines(const std::vector<std::string>& names) {
  std::vector<std::pair<std::string, RopeNumerics>> pipelines;
  for (const std::string& name : names) pipelines.emplace_back(name, ParseRopeNumerics(name));
  if (names.empty()) {
    for (const char* name : {"exact", "f16-qk", "bf16-qk", "all-bf16"}) {
      pipelines.emplace_back(name, ParseRopeNumerics(name));
    }
  }
  return pipelines;
}

void WriteFiles(const std::filesystem::path& out, const nlohmann::json& json, std::span<const DriftRun> runs) {
  WriteFileAtomically(out / "drift.csv", ToCsv(runs));
  WriteFileAtomically(out / "drift.svg", ToSvg(runs));
  WriteFileAtomically(out / "drift.json", JsonText(json, 1) + "\n");
}

/// Every pipeline over each of the weights: the model's, then random ones.
std::vector<DriftRun> MeasureAll(Backend* backend, std::span<const ParamStore> weights,
                                 std::span<const std::vector<int32_t>> sequences,
                                 std::span<const std::pair<std::string, RopeNumerics>> pipelines,
                                 DriftOptions measure) {
  std::vector<DriftRun> runs;
  const DType dtype = measure.dtype;
  const int64_t layers = static_cast<int64_t>(sequences.size()) * weights[0].spec().layers;
  ProgressBar bar("drift", static_cast<int64_t>(weights.size() * pipelines.size()) * layers);
  for (size_t w = 0; w < weights.size(); ++w) {
    for (const auto& [name, numerics] : pipelines) {
      const auto before = static_cast<int64_t>(runs.size()) * layers;
      measure.numerics = numerics;
      measure.dtype = numerics.math == FloatFormat::kF64 ? DType::kF64 : dtype;
      measure.on_layer = [&](int64_t done) { bar.Update(before + done, name); };
      runs.push_back({.name = w == 0 ? name : name + " random",
                      .report = MeasureDrift(backend, weights[w], sequences, measure),
                      .random_weights = w > 0});
    }
  }
  bar.Finish();
  return runs;
}

int RunDrift(const DriftCommand& options, const CommonOptions& common) {
  if (options.self_test) return RunSelfTest(options, common);
  if (options.model.model.empty()) Fail(ErrorKind::kUsage, "drift: which MODEL? (--self-test needs none)");
  if (options.data.empty()) Fail(ErrorKind::kUsage, "drift: which text? Give --data PATH...");
  DriftOptions measure{.reference = options.reference,
                       .lengths = {options.lengths.begin(), options.lengths.end()},
                       .mode = ParseDriftMode(options.mode),
                       .side = ParseDriftSide(options.side),
                       .dtype = ParseDType(options.dtype)};
  if (!options.deltas.empty()) measure.deltas.assign(options.deltas.begin(), options.deltas.end());
  const auto pipelines = Pipelines(options.pipelines);

  const std::vector<TextDocument> documents = ReadDocuments(ListDataFiles(options.data));
  LoadedModel model = OpenModel(options.model, options.rope, options.tokens);
  const int64_t tokens = options.tokens > 0 ? options.tokens : std::min<int64_t>(4096, model.spec.context);
  if (const int64_t meant = MaxContext(model.params.spec(), model.spec.context); tokens > meant) {
    LogLine(fmt::format("note: {} are beyond the {} this model is meant for", Counted(tokens, "token"), meant));
  }
  if (!options.out.empty()) MakeDirectories(options.out);
  const auto sequences =
      DriftSequences(documents, *model.tokenizer, options.sequences, tokens, ParseBosRule(options.bos));
  const auto backend = MakeBackend(common.device);
  LogLine(backend->Describe());

  measure.numerics = pipelines[0].second;
  const DriftChecks checks = CheckDrift(backend.get(), model.params, sequences[0], measure);
  std::vector<ParamStore> weights;
  weights.push_back(std::move(model.params));
  if (options.random_weights) {
    weights.push_back(Cast(weights[0], DType::kF32));
    KaimingUniform(weights[1], common.seed);
  }
  const std::vector<DriftRun> runs = MeasureAll(backend.get(), weights, sequences, pipelines, measure);

  nlohmann::json json = {{"model", options.model.model.string()},
                         {"rope", ToString(weights[0].spec().rope)},
                         {"checks", {{"same_shift", checks.same_shift}, {"f64_l1", checks.f64_l1}}},
                         {"runs", nlohmann::json::array()}};
  for (const DriftRun& run : runs) {
    json["runs"].push_back(ToJson(run.report));
    json["runs"].back()["name"] = run.name;
  }
  if (!options.out.empty()) WriteFiles(options.out, json, runs);
  if (common.json) {
    PrintJson(json);
    return 0;
  }
  PrintText(ToText(runs) + fmt::format("\nchecks: a shift against itself {}, f64 throughout D_l1 {:.1e}\n",
                                       checks.same_shift, checks.f64_l1));
  if (!options.out.empty())
    LogLine(fmt::format("wrote drift.csv, drift.json and drift.svg in {}", options.out.string()));
  return 0;
}

}  // namespace

std::function<int()> SetupDrift(Command command, CommonOptions& common) {
  const auto options = std::make_shared<DriftCommand>();
  std::string names;
  for (const RopeNumericsName& named : NamedRopeNumerics()) {
    names += fmt::format("{}{}", names.empty() ? "" : ", ", named.name);
  }
  command.Add("MODEL", options->model.model, "Hugging Face folder, .gguf, llama2.c .bin, hf:ORG/NAME, or builtin");
  command.Add("--tokenizer", options->model.tokenizer,
              "Tokenizer file or folder, where MODEL has none or another one is wanted");
  command.Add("--data", options->data, "Text to read: .txt and .jsonl files, or folders of them");
  command.Add("--pipeline", options->pipelines,
              "Ways of rounding, compared side by side; default: exact f16-qk bf16-qk all-bf16. Known: " + names +
                  "; or fields, as inv_freq=bf16+table=bf16. docs/NUMERICS.md says what each rounds");
  command.Add("--sequences", options->sequences, "Sequences to average over, spread evenly over the text")
      .Range(1, 1 << 20)
      .ShowDefault();
  command.Add("--bos", options->bos, "BOS in front of a sequence: auto (the tokenizer's rule), on or off")
      .OneOf({"auto", "on", "off"})
      .ShowDefault();
  command.Add("--tokens", options->tokens, "Tokens of a sequence; default: 4096, or the model's context if shorter")
      .Range(2, 1 << 24);
  command
      .Add("--deltas", options->deltas,
           "Shifts of the positions, with commas; default: those of arXiv:2411.13476, 0 to 2000")
      .Delimiter(',');
  command.Add("--reference", options->reference, "The shift that the others are compared with")
      .Range(0, 1 << 30)
      .ShowDefault();
  command
      .Add("--lengths", options->lengths,
           "Lengths T of D_logit, with commas, none above --tokens; default: powers of two from 64")
      .Delimiter(',');
  command
      .Add("--mode", options->mode,
           "free: every shift runs by itself; forced: all read the hidden states of the reference, so that only the "
           "rotation differs")
      .OneOf({"free", "forced"})
      .ShowDefault();
  command.Add("--round", options->side, "What the pipeline rounds; the other side rotates in f64")
      .OneOf({"both", "keys", "queries"})
      .ShowDefault();
  command.Add("--dtype", options->dtype, "Weights and activations; the pipeline f64 always takes f64")
      .OneOf({"f32", "bf16", "f64"})
      .ShowDefault();
  command.Add("--rope", options->rope, "Position scheme instead of the model's: yarn:factor=8, theta=5e6, ...");
  command.Add("--random-weights", options->random_weights, "Also measure every pipeline on random weights (Kaiming)");
  command.Add("--out", options->out, "Also write drift.csv, drift.json and drift.svg to this folder").WritesFolder();
  command.Add("--self-test", options->self_test,
              "Needs no model: the pipelines on random vectors against known figures, within 10 %");
  return [options, &common] { return RunDrift(*options, common); };
}

}  // namespace hawser
