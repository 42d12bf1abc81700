// hawser tune-kv: a window for each layer of SepLLM, chosen on a text for a budget of keys.
#include <fmt/format.h>

#include <cmath>
#include <memory>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/cli/command.h"
#include "hawser/data/corpus.h"
#include "hawser/eval/report.h"
#include "hawser/eval/tune_kv.h"

namespace hawser {
namespace {

struct TuneKvFlags {
  ModelOptions model;
  std::vector<std::filesystem::path> data;
  std::string rope;
  std::string bos = "auto";
  TuneKvOptions tune;
};

nlohmann::json WindowJson(int32_t window) {
  return window == AttnPattern::kAll ? nlohmann::json() : nlohmann::json(window);
}

int RunTuneKv(TuneKvFlags options, const CommonOptions& common) {
  options.tune.bos = ParseBosRule(options.bos);
  const std::vector<TextDocument> documents = ReadDocuments(ListDataFiles(options.data));
  const ModelToRun run = OpenModelToRun(options.model, options.rope, options.tune.context, "f32");
  const auto backend = MakeBackend(common.device);
  const TuneKvReport report = TuneKv(backend.get(), run.weights, *run.model.tokenizer, documents, options.tune);
  const auto kv = [&](const KvChoice& choice) { return choice.Kv(options.tune.sinks, options.tune.separator_set); };
  const std::pair<const char*, const KvChoice*> choices[] = {
      {"full", &report.full}, {"fixed", &report.fixed}, {"adaptive", &report.adaptive}};
  if (common.json) {
    nlohmann::json json = {{"budget", options.tune.budget}, {"context", report.context}, {"tokens", report.tokens}};
    for (const auto& [name, choice] : choices) {
      json[name] = {{"kv", kv(*choice)},
                    {"ratio", choice->ratio},
                    {"nll", choice->nll},
                    {"ppl", std::exp(choice->nll)},
                    {"calibration_ppl", std::exp(choice->tuned_nll)}};
    }
    json["candidates"] = nlohmann::json::array();
    for (const int32_t window : report.candidates) json["candidates"].push_back(WindowJson(window));
    json["cost"] = report.cost;
    PrintJson(json);
    return 0;
  }
  TextTable table({"choice", "--kv", "keys", "ppl", "ppl on the calibration text"});
  for (const auto& [name, choice] : choices) {
    table.Row({name, kv(*choice), fmt::format("{:.1f} %", 100 * choice->ratio), HumanNumber(std::exp(choice->nll)),
               HumanNumber(std::exp(choice->tuned_nll))});
  }
  std::vector<std::string> header = {"layer"};
  for (const int32_t window : report.candidates) {
    if (window != AttnPattern::kAll) header.push_back(fmt::format("n={}", window));
  }
  TextTable costs(header);
  for (size_t layer = 0; layer < report.cost.size(); ++layer) {
    std::vector<std::string> row = {fmt::format("{}", layer)};
    for (size_t w = 0; w + 1 < report.cost[layer].size(); ++w)
      row.push_back(fmt::format("{:.4f}", report.cost[layer][w]));
    costs.Row(std::move(row));
  }
  PrintText(fmt::format("nats a token that a window of n costs in one layer alone ({} tokens, context {}):\n{}\n{}",
                        report.tokens, report.context, costs.ToString(), table.ToString()));
  return 0;
}

}  // namespace

std::function<int()> SetupTuneKv(Command command, CommonOptions& common) {
  auto options = std::make_shared<TuneKvFlags>();
  AddModelOptions(command, options->model);
  AddAdapterOption(command, options->model);
  command
      .Add("--data", options->data,
           "Text: the first half of each document chooses, the second half judges; .txt, .jsonl or folders")
      .Required();
  command.Add("--budget", options->tune.budget, "Keys kept, as a share of those of full attention").ShowDefault();
  command.Add("--context", options->tune.context, "Tokens of a window of text; default: the model's own")
      .Range(16, int64_t{1} << 30);
  command.Add("--max-tokens", options->tune.max_tokens, "Tokens of each half at most")
      .Range(16, int64_t{1} << 40)
      .ShowDefault();
  command.Add("--sinks", options->tune.sinks, "Initial tokens that stay").Range(0, 1 << 20).ShowDefault();
  command.Add("--sep", options->tune.separator_set, "Which tokens separate; see inspect separators (default: text)");
  command.Add("--bos", options->bos, "BOS in front of a window: auto (the convention of eval ppl), on or off")
      .OneOf({"auto", "on", "off"})
      .ShowDefault();
  command.Add(
      "--rope", options->rope,
      "Position scheme instead of the model's: yarn:factor=8, alibi:ntk,factor=4, theta=5e6, ...; see help rope");
  return [options, &common] { return RunTuneKv(*options, common); };
}

}  // namespace hawser
