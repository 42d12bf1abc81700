#include "hawser/cli/eval_measures.h"

#include <limits>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/progress.h"
#include "hawser/data/corpus.h"
#include "hawser/data/synthetic.h"
#include "hawser/eval/retrieval.h"
#include "hawser/model/places.h"

namespace hawser {

ModelToRun OpenEvalModel(const EvalOptions& options) {
  const std::string dtype = options.dtype == "auto" ? "" : options.dtype;
  return OpenModelToRun(options.model, options.rope, options.ppl.context, dtype);
}

void AddModelTo(nlohmann::json* json, const EvalOptions& options, const ModelToRun& run) {
  (*json)["model"] = options.model.model.string();
  (*json)["dtype"] = Name(run.weights.dtype());
  (*json)["rope"] = PlacesText(run.weights.spec());
  (*json)["model_context"] = run.model.spec.context;
}

namespace {

/// Documents that retrieval asks, far above the numbers that training text has any use for.
constexpr uint64_t kRetrievalDocuments = uint64_t{1} << 48;

void ReadProtocol(const EvalOptions& options, PplOptions* ppl) {
  const bool policy = !options.kv.empty() && options.kv != "full";
  if (!options.protocol.empty()) {
    ppl->protocol = ParsePplProtocol(options.protocol);
  } else if (!options.kv.empty()) {
    ppl->protocol = PplProtocol::kStreaming;  // a cache is asked for, also one that keeps everything
  } else if (!options.prefix.index.empty()) {
    ppl->protocol = PplProtocol::kStreaming;  // behind a prefix
  }
  const bool stream = IsStreaming(ppl->protocol);
  if (policy && !stream) {
    Fail(ErrorKind::kUsage, "--kv {} needs a cache: use --protocol streaming or lines, or --attention for windows",
         options.kv);
  }
  if (!options.prefix.index.empty() && ppl->protocol != PplProtocol::kStreaming) {
    Fail(ErrorKind::kUsage, "--index: what stands behind a prefix is a stream; use --protocol streaming");
  }
  if (stream && !options.attention.empty()) {
    Fail(ErrorKind::kUsage, "--attention is for windows: a stream sees what its cache holds, use --kv");
  }
  if (!stream && ppl->stretch > 0) Fail(ErrorKind::kUsage, "--stretch is for streams: use --protocol streaming");
  if (stream && ppl->stride > 0) Fail(ErrorKind::kUsage, "--stride is for windows, a stream has none");
  if (!options.kv.empty()) ppl->kv = options.kv;
  if (!options.attention.empty()) ppl->pattern = ParseLayeredPattern(options.attention);
}

int RunPpl(const EvalOptions& given, const TaskOptions& fields, const CommonOptions& common) {
  fields.CheckAllUsed();
  EvalOptions options = given;
  if (options.data.empty()) Fail(ErrorKind::kUsage, "eval ppl: which text? Give --data PATH...");
  PplOptions& ppl = options.ppl;
  ReadProtocol(options, &ppl);
  ppl.bos = ParseBosRule(options.bos);
  const std::vector<TextDocument> documents = ReadDocuments(ListDataFiles(options.data));
  const ModelToRun run = OpenEvalModel(options);
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
  ppl.prefix = OpenPrefixOf(options.prefix, options.keep_given, backend.get(), run.weights, options.ppl.context);
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

int RunRetrieval(const EvalOptions& options, const TaskOptions& fields, const CommonOptions& common) {
  fields.CheckAllUsed();
  const ModelToRun run = OpenEvalModel(options);
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

}  // namespace

std::span<const EvalMeasure> EvalMeasures() {
  static const std::vector<EvalMeasure> kMeasures = {
      {"ppl",
       "perplexity by position, of --data under nine protocols",
       {"--data", "--protocol", "--attention", "--max-tokens", "--stride", "--stretch", "--batch-tokens", "--nll",
        "--index", "--keep"},
       {},
       RunPpl},
      {"retrieval",
       "facts asked for, by distance, in generated documents",
       {"--documents"},
       {{"--index",
         "each document is made of facts of its own, so none begins as another text does; eval ppl, longppl, compare "
         "and tasks whose prompts share a beginning do"}},
       RunRetrieval},
      {"longppl",
       "perplexity over the tokens that hang on far text, as --judge or --keys say: longppl:k=4096,delta=1024,alpha=2,"
       "beta=-2",
       {"--data", "--judge", "--judge-tokenizer", "--judge-rope", "--keys", "--save-keys", "--attention",
        "--batch-tokens", "--limit", "--index", "--keep"},
       {},
       RunLongPpl},
      {"compare",
       "the same texts under several --methods: perplexity (with --judge or --keys longppl too) by keys kept",
       {"--data", "--methods", "--kept", "--judge", "--judge-tokenizer", "--judge-rope", "--keys", "--save-keys",
        "--stretch", "--batch-tokens", "--limit", "--bootstrap", "--output", "--resume"},
       {{"--kv", "a cache is a method among others, named in --methods"},
        {"--index", "an index is a method among others, named in --methods as index:FILE,keep=0.1"},
        {"--keep", "an index is a method among others, named in --methods as index:FILE,keep=0.1"}},
       RunCompare},
  };
  return kMeasures;
}

}  // namespace hawser
