// hawser index: a text that many prompts share, read once and ordered for Squeezed Attention.
#include <fmt/format.h>

#include <array>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/cli/command.h"
#include "hawser/eval/report.h"
#include "hawser/eval/task_run.h"
#include "hawser/eval/with_prefix.h"
#include "hawser/infer/generation.h"
#include "hawser/infer/squeeze.h"
#include "hawser/model/places.h"

namespace hawser {
namespace {

struct IndexFlags {
  ModelOptions model;
  std::filesystem::path prefix, out, data_dir;
  std::vector<std::string> tasks;
  std::string kv = "full", rope, dtype, bos = "auto";
  int64_t context = 0, max_tokens = 0, limit = 0;
  bool parse_special = false, check = false, chat = false;
  IndexOptions index;
};

constexpr std::array<double, 5> kCheckedShares = {0.05, 0.1, 0.2, 0.3, 0.5};
constexpr int64_t kCheckedQueries = 8;  // a layer

nlohmann::json CheckJson(const KeepCheck& check) {
  return {{"keep", check.share},    {"keys", check.keys}, {"centroids", check.centroids},
          {"recall", check.recall}, {"mass", check.mass}, {"best_mass", check.best_mass}};
}

std::string CheckText(std::span<const KeepCheck> checks) {
  TextTable table({"keep", "keys read", "centroids", "recall", "mass", "best mass"});
  const auto percent = [](double share) { return fmt::format("{:.1f} %", 100 * share); };
  for (const KeepCheck& c : checks) {
    table.Row({fmt::format("{}", c.share), percent(c.keys), percent(c.centroids), percent(c.recall), percent(c.mass),
               percent(c.best_mass)});
  }
  return table.ToString();
}

/// What all prompts of the tasks begin with.
std::vector<int32_t> TaskPrefix(const IndexFlags& options, const ModelToRun& run, const CommonOptions& common,
                                bool seed_given) {
  const Tokenizer& tokenizer = *run.model.tokenizer;
  const int64_t longest = options.context > 0 ? options.context : run.model.spec.context;
  const TaskRunOptions tasks{.tasks = options.tasks,
                             .data_dir = options.data_dir,
                             .limit = options.limit,
                             .seed = common.seed,
                             .seed_given = seed_given,
                             .chat = options.chat};
  std::vector<int32_t> ids = SharedPrefix(TaskRequests(tasks, tokenizer, longest),
                                          PromptEncoder(tokenizer, ParseBosRule(options.bos), options.chat, longest));
  if (const int64_t least = options.index.sinks + options.index.window; std::ssize(ids) <= least) {
    Fail(
        ErrorKind::kUsage,
        "the prompts of {} begin with {} in common, and an index is of more than {} (first tokens and --window): where "
        "each prompt has a text of its own there is nothing to share",
        fmt::join(options.tasks, " "), Counted(std::ssize(ids), "token"), least);
  }
  return ids;
}

int RunIndex(const IndexFlags& options, Command command, const CommonOptions& common) {
  const bool by_task = !options.tasks.empty();
  if (by_task == !options.prefix.empty()) {
    Fail(ErrorKind::kUsage, "which prefix? Give a text with --prefix, or with --task what its prompts begin with");
  }
  for (const char* option : {"--limit", "--data-dir", "--chat"}) {
    if (!by_task && command.Has(option)) Fail(ErrorKind::kUsage, "{} goes with --task", option);
  }
  const std::string text = by_task ? "" : ReadFile(options.prefix);
  const std::string dtype = options.dtype.empty() && by_task ? "f32" : options.dtype;
  const ModelToRun run = OpenModelToRun(options.model, options.rope, options.context, dtype);
  const ModelSpec& spec = run.weights.spec();
  std::vector<int32_t> ids =
      by_task ? TaskPrefix(options, run, common, command.Has("--seed"))
              : PromptIds(text, *run.model.tokenizer, options.parse_special, ParseBosRule(options.bos));
  const int64_t declared = by_task ? 0 : options.context;
  if (options.max_tokens > 0 && static_cast<int64_t>(ids.size()) > options.max_tokens) {
    ids.resize(static_cast<size_t>(options.max_tokens));
  }
  const auto tokens = static_cast<int64_t>(ids.size());
  if (const int64_t meant = options.context > 0 ? options.context : MaxContext(spec, spec.context); tokens > meant) {
    LogLine(fmt::format("note: a prefix of {} tokens is beyond the {} that positions are meant for", tokens, meant));
  }
  const std::unique_ptr<Backend> backend = MakeBackend(common.device);
  LogLine(backend->Describe());
  Decoder decoder(backend.get(), run.weights);
  std::vector<Matrix> queries;
  const auto index = std::make_shared<const PrefixIndex>(IndexPrefix(
      backend.get(), &decoder, run.weights, ids, ParseKvForm(options.kv), declared, options.index, &queries));
  std::vector<KeepCheck> checks;
  if (options.check) {
    checks = CheckKeeping(backend.get(), index, AttnShapeOf(spec), queries, kCheckedShares, kCheckedQueries);
  }
  SavePrefixIndex(*index, options.out);

  int64_t clusters = 0, groups = 0, largest = 0;
  for (const PrefixIndex::Layer& layer : index->layers) {
    clusters += static_cast<int64_t>(layer.fine.clusters.size());
    groups += static_cast<int64_t>(layer.coarse.clusters.size());
    for (const KvRange& range : layer.fine.clusters) largest = std::max<int64_t>(largest, range.end - range.begin);
  }
  const auto heads = static_cast<double>(index->layers.size()) * index->kv_heads;
  if (common.json) {
    nlohmann::json json = {{"index", options.out.string()},
                           {"model", options.model.model.string()},
                           {"tokens", tokens},
                           {"levels", index->levels},
                           {"sinks", index->sinks},
                           {"window", index->window},
                           {"clusters_per_head", static_cast<double>(clusters) / heads},
                           {"groups_per_head", static_cast<double>(groups) / heads},
                           {"largest_cluster", largest},
                           {"rope", index->owner.rope},
                           {"dtype", index->owner.dtype},
                           {"stored", Name(index->dtype)},
                           {"kv_bytes", index->bytes()},
                           {"index_bytes", index->index_bytes()}};
    json["check"] = nlohmann::json::array();
    for (const KeepCheck& check : checks) json["check"].push_back(CheckJson(check));
    PrintJson(json);
    return 0;
  }
  PrintText(fmt::format("{}: {}, {} of keys and values, {} of centroids\n", options.out.string(),
                        Counted(tokens, "token"), HumanBytes(index->bytes()), HumanBytes(index->index_bytes())));
  PrintText(fmt::format("{:.1f} clusters{} a kv head, the largest of {} keys\n", static_cast<double>(clusters) / heads,
                        index->levels == 2 ? fmt::format(" in {:.1f} groups", static_cast<double>(groups) / heads) : "",
                        largest));
  if (options.check) PrintText(CheckText(checks));
  return 0;
}

}  // namespace

std::function<int()> SetupIndex(Command command, CommonOptions& common) {
  auto options = std::make_shared<IndexFlags>();
  AddModelOptions(command, options->model);
  AddAdapterOption(command, options->model);
  CommandOption prefix = command.Add("--prefix", options->prefix, "File with the text that prompts share");
  prefix.ExistingFile();
  command
      .Add("--task", options->tasks,
           "Instead of a text: what all prompts of this task of eval begin with, NAME or NAME:key=value,...; may be "
           "given several times")
      .OneArgument()
      .Excludes(prefix);
  command.Add("--limit", options->limit, "Look at the first N samples of each row of a task; 0: all")
      .Range(0, std::numeric_limits<int64_t>::max());
  command.Add("--data-dir", options->data_dir, "Folder of the tasks' data, as eval takes it");
  command.Add("--chat", options->chat, "Prompts of tasks become turns of a chat, as eval has them");
  command.Add("--out", options->out, "File to write, for --index of generate, chat, serve and eval")
      .Writes()
      .Required();
  command.Add("--clusters", options->index.clusters, "Clusters, as a share of the keys")
      .RangeReal(1e-6, 1)
      .ShowDefault();
  command.Add("--groups", options->index.groups, "Groups of clusters, as a share of the keys; with two levels")
      .RangeReal(1e-6, 1)
      .ShowDefault();
  command
      .Add("--levels", options->index.levels, "2: queries look at groups first, and then at the clusters of the best")
      .Range(1, 2)
      .ShowDefault();
  command
      .Add("--window", options->index.window,
           "Observation window: the last tokens, which are always read and whose queries calibrate quantiles")
      .Range(1, 1 << 20)
      .ShowDefault();
  command.Add("--block", options->index.block, "Keys that are clustered together, neighbours; 0: all")
      .Range(0, int64_t{1} << 30)
      .ShowDefault();
  command.Add("--max-tokens", options->max_tokens, "Tokens of the text at most; 0: all")
      .Range(0, int64_t{1} << 30)
      .ShowDefault();
  command.Add("--kv", options->kv, "How keys and values are stored: full, or full:dtype=q8_0").ShowDefault();
  command.Add("--rope", options->rope, "Position scheme: yarn:factor=8, ntk:factor=8, ...; see help rope");
  command
      .Add("--context", options->context,
           "Length in tokens that positions are scaled for where they depend on it; with --task the longest input, as "
           "eval has it")
      .Range(1, int64_t{1} << 40);
  command.Add("--dtype", options->dtype,
              "Weights and activations: f32 or bf16 (default: bf16 if the file is; with --task f32, as eval has it)");
  command.Add("--bos", options->bos, "BOS in front of the text: auto (the tokenizer's rule), on or off")
      .OneOf({"auto", "on", "off"})
      .ShowDefault();
  command.Add("--parse-special", options->parse_special, "Names of special tokens in the text are those tokens");
  command.Add("--check", options->check,
              "Hold what would be read for queries of the window against exact attention, for keep 0.05 to 0.5");
  return [options, command, &common] { return RunIndex(*options, command, common); };
}

}  // namespace hawser
