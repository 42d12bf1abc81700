// hawser eval MODEL TASK: measures a model on text, or on documents with facts and questions.
#include <initializer_list>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/cli/command.h"
#include "hawser/data/corpus.h"
#include "hawser/data/synthetic.h"
#include "hawser/eval/perplexity.h"
#include "hawser/eval/retrieval.h"
#include "hawser/model/places.h"

namespace hawser {
namespace {

struct EvalOptions {
  ModelOptions model;
  std::string task;
  std::vector<std::filesystem::path> data;
  std::string protocol, kv, rope, attention;
  std::string dtype = "f32";
  std::string bos = "auto";
  std::filesystem::path nll_file;
  PplOptions ppl;
  int64_t documents = 64;  // retrieval
};

/// Documents that retrieval asks, far above the numbers that training text has any use for.
constexpr uint64_t kRetrievalDocuments = uint64_t{1} << 48;

void ReadProtocol(const EvalOptions& options, PplOptions* ppl) {
  const bool policy = !options.kv.empty() && options.kv != "full";
  if (!options.protocol.empty()) {
    ppl->protocol = ParsePplProtocol(options.protocol);
  } else if (!options.kv.empty()) {
    ppl->protocol = PplProtocol::kStreaming;  // a cache is asked for, also one that keeps everything
  }
  const bool stream = IsStreaming(ppl->protocol);
  if (policy && !stream) {
    Fail(ErrorKind::kUsage, "--kv {} needs a cache: use --protocol streaming or lines, or --attention for windows",
         options.kv);
  }
  if (stream && !options.attention.empty()) {
    Fail(ErrorKind::kUsage, "--attention is for windows: a stream sees what its cache holds, use --kv");
  }
  if (!stream && ppl->stretch > 0) Fail(ErrorKind::kUsage, "--stretch is for streams: use --protocol streaming");
  if (stream && ppl->stride > 0) Fail(ErrorKind::kUsage, "--stride is for windows, a stream has none");
  if (!options.kv.empty()) ppl->kv = options.kv;
  if (!options.attention.empty()) ppl->pattern = ParsePattern(options.attention);
}

ModelToRun OpenInDType(const EvalOptions& options) {
  const std::string dtype = options.dtype == "auto" ? "" : options.dtype;
  return OpenModelToRun(options.model, options.rope, options.ppl.context, dtype);
}

void AddModelTo(nlohmann::json* json, const EvalOptions& options, const ModelToRun& run) {
  (*json)["model"] = options.model.model.string();
  (*json)["dtype"] = Name(run.weights.dtype());
  (*json)["rope"] = PlacesText(run.weights.spec());
  (*json)["model_context"] = run.model.spec.context;
}

int RunPpl(EvalOptions options, const CommonOptions& common) {
  if (options.data.empty()) Fail(ErrorKind::kUsage, "eval ppl: which text? Give --data PATH...");
  PplOptions& ppl = options.ppl;
  ReadProtocol(options, &ppl);
  ppl.bos = ParseBosRule(options.bos);
  const std::vector<TextDocument> documents = ReadDocuments(ListDataFiles(options.data));
  const ModelToRun run = OpenInDType(options);
  const int64_t own_context = run.model.spec.context;
  const auto backend = MakeBackend(common.device);
  LogLine(backend->Describe());

  if (const int64_t meant = MaxContext(run.weights.spec(), own_context); ppl.context > meant) {
    LogLine(fmt::format("note: a context of {} tokens is beyond the {} this model is meant for", ppl.context, meant));
  }
  std::string log;
  if (!options.nll_file.empty()) {
    ppl.on_token = [&](int64_t, float nll) { log += fmt::format("{:.9g}\n", nll); };
  }
  const PplReport report = MeasurePerplexity(backend.get(), run.weights, *run.model.tokenizer, documents, ppl);
  if (!options.nll_file.empty()) WriteFileAtomically(options.nll_file, log);
  if (!common.json) {
    PrintText(ToText(report));
    return 0;
  }
  nlohmann::json json = ToJson(report);
  AddModelTo(&json, options, run);
  json["data"] = nlohmann::json::array();
  for (const std::filesystem::path& path : options.data) json["data"].push_back(path.string());
  PrintJson(json);
  return 0;
}

int RunRetrieval(const EvalOptions& options, const CommonOptions& common) {
  const ModelToRun run = OpenInDType(options);
  const int64_t context = options.ppl.context > 0 ? options.ppl.context : run.model.spec.context;
  constexpr int64_t kLeast = 18, kMost = std::numeric_limits<int32_t>::max();
  if (context < kLeast || context > kMost) {
    Fail(ErrorKind::kUsage, "eval retrieval: documents of {} tokens; wanted {} to {}: set --context", context, kLeast,
         kMost);
  }
  std::vector<RetrievalDocument> documents;
  const BosRule bos = ParseBosRule(options.bos);
  int64_t questions = 0, answer_tokens = 0;
  for (int64_t i = 0; i < options.documents; ++i) {
    const uint64_t number = kRetrievalDocuments + static_cast<uint64_t>(i);
    documents.push_back(MakeRetrievalDocument(common.seed, number, context, *run.model.tokenizer, bos));
    questions += static_cast<int64_t>(documents.back().questions.size());
    for (const RetrievalQuestion& question : documents.back().questions) answer_tokens += question.tokens;
  }
  if (questions == 0) {
    Fail(ErrorKind::kUsage, "eval retrieval: no question fits in documents of {} tokens; set --context higher",
         context);
  }
  const auto backend = MakeBackend(common.device);
  LogLine(backend->Describe());
  const std::string kv = options.kv.empty() ? "full" : options.kv;
  const RetrievalReport report = MeasureRetrieval(backend.get(), run.weights, *run.model.tokenizer, documents, kv);
  if (!common.json) {
    std::string text = fmt::format("{:>17}  {:>9}  {:>8}\n", "distance (tokens)", "questions", "accuracy");
    for (const RetrievalBucket& bucket : report.buckets) {
      text += fmt::format("{:>17}  {:>9}  {:>7.1f}%\n", fmt::format("{}-{}", bucket.begin, bucket.end - 1),
                          bucket.questions, 100 * bucket.accuracy());
    }
    PrintText(text + report.kv_text + "\n");
    return 0;
  }
  nlohmann::json json = {{"task", "retrieval"},
                         {"documents", options.documents},
                         {"context", context},
                         {"questions", questions},
                         {"answer_tokens", static_cast<double>(answer_tokens) / static_cast<double>(questions)},
                         {"kv_policy", kv},
                         {"kv", report.kv}};
  AddModelTo(&json, options, run);
  json["buckets"] = ToJson(report.buckets);
  PrintJson(json);
  return 0;
}

int RunEval(const EvalOptions& options, Command command, const CommonOptions& common) {
  const auto refuse = [&](std::initializer_list<const char*> flags, std::string_view other) {
    for (const char* flag : flags) {
      if (command.Has(flag)) Fail(ErrorKind::kUsage, "eval {} takes no {}; eval {} does", options.task, flag, other);
    }
  };
  if (options.task == "ppl") {
    refuse({"--documents"}, "retrieval");
    return RunPpl(options, common);
  }
  if (options.task == "retrieval") {
    refuse({"--data", "--protocol", "--attention", "--max-tokens", "--stride", "--batch-tokens", "--nll"}, "ppl");
    return RunRetrieval(options, common);
  }
  if (const std::string model = options.model.model.string(); model == "ppl" || model == "retrieval") {
    Fail(ErrorKind::kUsage, "MODEL stands before the task: hawser eval {} {}", options.task, model);
  }
  Fail(ErrorKind::kUsage, "unknown task '{}'{}", options.task, SuggestName(options.task, {"ppl", "retrieval"}));
}

}  // namespace

std::function<int()> SetupEval(Command command, CommonOptions& common) {
  const auto options = std::make_shared<EvalOptions>();
  AddModelOptions(command, options->model);
  AddAdapterOption(command, options->model);
  command
      .Add("task", options->task,
           "What to measure: ppl (perplexity by position) or retrieval (facts asked for, by distance)")
      .Required();
  command.Add("--data", options->data, "Text to predict (ppl): .txt and .jsonl files, or folders of them");
  command.Add("--documents", options->documents, "Documents to ask (retrieval), each as long as --context")
      .Range(1, 1 << 20)
      .ShowDefault();
  command
      .Add("--context", options->ppl.context,
           "Tokens of a window; default: the model's own context. Of a stream: the length declared to position "
           "schemes that depend on it; default: they follow what is seen")
      .Range(2, int64_t{1} << 30);
  command.Add("--protocol", options->protocol,
              "windowed (default), streaming, or one of rolling, sliding, truncate, chunk-half, chunk-stride, full, "
              "lines; with --kv the default is streaming");
  command.Add("--kv", options->kv,
              "Cache policy of a stream: full (default), streaming, sepllm, bounded:800, ...; see help kv");
  command.Add(
      "--rope", options->rope,
      "Position scheme instead of the model's: yarn:factor=8, alibi:ntk,factor=4, theta=5e6, ...; see help rope");
  command.Add("--attention", options->attention,
              "What a token of a window sees: full, window=W, sinks=3 window=256 sep full-layers=0+31, ...");
  command.Add("--max-tokens", options->ppl.max_tokens, "Tokens of text at most; 0: all")
      .Range(0, std::numeric_limits<int64_t>::max());
  command
      .Add("--stride", options->ppl.stride,
           "Slide windows by S tokens, each token predicted once; for sliding and chunk-stride the default is "
           "half the context")
      .Range(0, std::numeric_limits<int64_t>::max());
  command
      .Add("--stretch", options->ppl.stretch, "Report a stream by stretches of N tokens (default: at most 128 of them)")
      .Range(1, std::numeric_limits<int64_t>::max());
  command.Add("--batch-tokens", options->ppl.batch_tokens, "Tokens of one forward pass over windows")
      .Range(1, std::numeric_limits<int64_t>::max())
      .ShowDefault();
  command.Add("--dtype", options->dtype, "Weights and activations: f32, bf16, or auto: as they lie in the file")
      .OneOf({"f32", "bf16", "auto"})
      .ShowDefault();
  command
      .Add("--bos", options->bos,
           "BOS in front of a text: auto (ppl: the convention of the protocol; retrieval: the tokenizer's rule), on or "
           "off")
      .OneOf({"auto", "on", "off"})
      .ShowDefault();
  command.Add("--nll", options->nll_file, "Also write the nats of every predicted token, a line each").Writes();
  return [options, command, &common] { return RunEval(*options, command, common); };
}

}  // namespace hawser
