// hawser eval MODEL TASK: measures a model on text.
#include <memory>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/cli/command.h"
#include "hawser/data/corpus.h"
#include "hawser/eval/perplexity.h"

namespace hawser {
namespace {

struct EvalOptions {
  ModelOptions model;
  std::string task;
  std::vector<std::filesystem::path> data;
  std::string protocol, kv, rope, attention;
  std::string dtype = "f32";
  std::filesystem::path nll_file;
  PplOptions ppl;
};

void ReadProtocol(const EvalOptions& options, PplOptions* ppl) {
  const bool policy = !options.kv.empty() && options.kv != "full";
  if (!options.protocol.empty()) {
    ppl->protocol = ParsePplProtocol(options.protocol);
  } else if (policy) {
    ppl->protocol = PplProtocol::kStreaming;
  }
  const bool stream = IsStreaming(ppl->protocol);
  if (policy && !stream) {
    Fail(ErrorKind::kUsage, "--kv {} needs a cache: use --protocol streaming or lines, or --attention for windows",
         options.kv);
  }
  if (stream && !options.attention.empty()) {
    Fail(ErrorKind::kUsage, "--attention is for windows: a stream sees what its cache holds, use --kv");
  }
  if (stream && ppl->stride > 0) Fail(ErrorKind::kUsage, "--stride is for windows, a stream has none");
  if (!options.kv.empty()) ppl->kv = options.kv;
  if (!options.attention.empty()) ppl->pattern = ParsePattern(options.attention);
}

int RunEval(EvalOptions options, const CommonOptions& common) {
  if (options.task != "ppl") {
    Fail(ErrorKind::kUsage, "unknown task '{}'{}", options.task, SuggestName(options.task, {"ppl"}));
  }
  PplOptions& ppl = options.ppl;
  ReadProtocol(options, &ppl);
  const DType dtype = ParseDType(options.dtype);
  const std::vector<TextDocument> documents = ReadDocuments(ListDataFiles(options.data));
  LoadedModel model = LoadModel(options.model.model, options.model.tokenizer);
  if (model.tokenizer == nullptr) {
    Fail(ErrorKind::kUsage, "{}: no tokenizer found with the model; give one with --tokenizer FILE",
         options.model.model.string());
  }
  const int64_t own_context = model.spec.context;
  RopeSpec& rope = model.params.mutable_spec().rope;
  if (!options.rope.empty()) rope = ApplyRopeText(rope, options.rope, own_context);
  if (dtype != model.params.dtype()) model.params = Cast(model.params, dtype);
  const auto backend = MakeBackend(common.device);
  LogLine(backend->Describe());

  if (const int64_t meant = MaxContext(model.params.spec().rope, own_context); ppl.context > meant) {
    LogLine(fmt::format("note: a context of {} tokens is beyond the {} this model is meant for", ppl.context, meant));
  }
  std::string log;
  if (!options.nll_file.empty()) {
    ppl.on_token = [&](int64_t, float nll) { log += fmt::format("{:.9g}\n", nll); };
  }
  const PplReport report = MeasurePerplexity(backend.get(), &model.params, *model.tokenizer, documents, ppl);
  if (!options.nll_file.empty()) WriteFileAtomically(options.nll_file, log);
  if (!common.json) {
    fmt::print("{}", ToText(report));
    return 0;
  }
  nlohmann::json json = ToJson(report);
  json["model"] = options.model.model.string();
  json["dtype"] = Name(dtype);
  json["rope"] = ToString(model.params.spec().rope);
  json["model_context"] = own_context;
  json["data"] = nlohmann::json::array();
  for (const std::filesystem::path& path : options.data) json["data"].push_back(path.string());
  PrintJson(json);
  return 0;
}

}  // namespace

std::function<int()> SetupEval(Command command, CommonOptions& common) {
  const auto options = std::make_shared<EvalOptions>();
  AddModelOptions(command, options->model);
  command.Add("task", options->task, "What to measure: ppl (perplexity by position)").Required();
  command.Add("--data", options->data, "Text to predict: .txt and .jsonl files, or folders of them").Required();
  command
      .Add("--context", options->ppl.context,
           "Tokens of a window; default: the model's own context. Of a stream: the length declared to position "
           "schemes that depend on it; default: its length")
      .Range(2, int64_t{1} << 30);
  command.Add("--protocol", options->protocol,
              "windowed (default), streaming, or one of rolling, sliding, truncate, chunk-half, chunk-stride, full, "
              "lines; with --kv the default is streaming");
  command.Add("--kv", options->kv,
              "Cache policy of a stream: full (default), window:W, sink:a,c, sep:a,n, sep-stream:a,s,w,c");
  command.Add("--rope", options->rope, "Position scheme instead of the model's: yarn:factor=8, theta=5e6, ...");
  command.Add("--attention", options->attention, "What a token of a window sees: full, window=W, ...");
  command.Add("--max-tokens", options->ppl.max_tokens, "Tokens of text at most; 0: all")
      .Range(0, std::numeric_limits<int64_t>::max());
  command
      .Add("--stride", options->ppl.stride,
           "Slide windows by S tokens, each token predicted once; for sliding and chunk-stride the default is "
           "half the context")
      .Range(0, std::numeric_limits<int64_t>::max());
  command.Add("--batch-tokens", options->ppl.batch_tokens, "Tokens of one forward pass over windows")
      .Range(1, std::numeric_limits<int64_t>::max())
      .ShowDefault();
  command.Add("--dtype", options->dtype, "Weights and activations: f32 or bf16").OneOf({"f32", "bf16"}).ShowDefault();
  command.Add("--nll", options->nll_file, "Also write the nats of every predicted token, a line each");
  return [options, &common] { return RunEval(*options, common); };
}

}  // namespace hawser
