#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <memory>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/folder.h"
#include "hawser/base/lock.h"
#include "hawser/base/progress.h"
#include "hawser/base/rng.h"
#include "hawser/base/size.h"
#include "hawser/cli/command.h"
#include "hawser/cli/demo_report.h"
#include "hawser/data/synthetic.h"
#include "hawser/eval/report.h"
#include "hawser/infer/generation.h"
#include "hawser/io/json_text.h"
#include "hawser/model/kv_shape.h"
#include "hawser/tok/byte_level.h"
#include "hawser/tok/separators.h"
#include "hawser/zoo/builtin.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kShort = 256;
constexpr int64_t kLong = 2048;
constexpr int32_t kStreamWords = 24000;
// Streams of the generator's numbers, so that no document of one set is in another.
constexpr uint64_t kShortDocs = 0, kLongDocs = 1'000'000, kValidDocs = 2'000'000, kStreamDocs = 3'000'000,
                   kBuiltinDocs = 4'000'000, kNeedleDocs = 5'000'000;
constexpr int64_t kBuiltinTokens = 160;
constexpr uint64_t kBuiltinLogs = 16;

struct DemoOptions {
  fs::path out = "demo";
  int64_t steps = 400;
  int64_t extend_steps = 60;
};

struct Interrupted {};

class Stopwatch {
 public:
  double Seconds() const { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start_).count(); }

 private:
  std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// A folder this command made before, or none: nothing else is ever overwritten.
void PrepareFolder(const fs::path& out) {
  const fs::path marker = out / "results.json";
  if (!IsUnused(out) && !fs::exists(marker) && !fs::exists(out / "data" / "tokenizer.json")) {
    Fail(ErrorKind::kUsage, "{} holds files that are no demo's; give another --out", out.string());
  }
  for (const char* part : {"builtin", "data", "base", "anchor", "full", "results.json", "report.html"})
    RemoveTree(out / part);
  RemoveAbandoned(out);
  MakeDirectories(out / "data");
}

void WriteDocuments(const fs::path& path, uint64_t seed, uint64_t first, int64_t words, int32_t shortest,
                    int32_t longest) {
  Rng rng{seed, first};
  std::string text;
  for (uint64_t number = first; words > 0; ++number) {
    // Lengths are log-uniform: most documents are short, as in real corpora.
    const double u = rng.Uniform();
    const auto length = static_cast<int32_t>(shortest * std::pow(static_cast<double>(longest) / shortest, u));
    const SyntheticDocument document = MakeSyntheticDocument(seed, number, length);
    words -= document.words;
    text += nlohmann::json{{"text", " " + document.text}, {"source", "harbour log"}}.dump() + "\n";
  }
  WriteFileAtomically(path, text);
}

TrainConfig BaseRecipe(const DemoOptions& options, uint64_t seed) {
  TrainConfig config;
  config.tokenizer = (options.out / "data").string();
  config.data = {(options.out / "data" / "short.jsonl").string()};
  config.dims = {.width = 128, .layers = 2, .heads = 4, .mlp_width = 352};
  config.context = kShort;
  config.attention = "anchor";
  config.steps = options.steps;
  config.batch_tokens = 4096;
  config.lr = 3e-3;
  config.warmup = 20;
  config.min_lr_ratio = 0.05;
  config.weight_decay = 0.02;
  config.seed = static_cast<int64_t>(seed);
  config.checkpoint_every = 0;
  config.log_every = 10;
  return config;
}

TrainConfig ExtendRecipe(const DemoOptions& options, uint64_t seed, const std::string& attention) {
  TrainConfig config;
  config.model = (options.out / "base").string();
  config.data = {(options.out / "data" / "long.jsonl").string()};
  config.context = kLong;
  config.attention = attention;
  config.rope = "ntk:factor=8";
  config.steps = options.extend_steps;
  config.batch_tokens = 16384;
  config.lr = 1.5e-3;
  config.warmup = 5;
  config.weight_decay = 0.02;
  config.seed = static_cast<int64_t>(seed) + 1;
  config.checkpoint_every = 0;
  config.log_every = 10;
  return config;
}

DemoModel TrainAndMeasure(const std::string& name, const TrainConfig& recipe, const fs::path& folder, Backend* backend,
                          const std::vector<TextDocument>& valid, const std::vector<RetrievalDocument>& questions) {
  LogLine(
      fmt::format("demo: training {} ({}, {} of context)", name, recipe.attention, Counted(recipe.context, "token")));
  DemoModel result{.name = name, .pattern = recipe.attention, .context = recipe.context};
  result.training = RunTraining(MakePlan(recipe), folder, /*resume=*/false, backend);
  if (result.training.interrupted) throw Interrupted();
  LoadedModel model = LoadModel(folder);
  result.ppl = MeasurePerplexity(backend, model.params, *model.tokenizer, valid, {.context = kLong});
  result.retrieval = MeasureRetrieval(backend, model.params, *model.tokenizer, questions, "full").buckets;
  return result;
}

/// One fact hidden in texts of several lengths, at several depths.
std::vector<DemoNeedle> FindNeedles(const LoadedModel& model, uint64_t seed, Backend* backend) {
  constexpr int64_t kTrials = 5;
  std::vector<DemoNeedle> needles;
  uint64_t number = kNeedleDocs;
  for (int64_t length = model.spec.context / 16; length <= model.spec.context; length *= 4) {
    for (const double depth : {0.0, 0.25, 0.5, 0.75, 1.0}) {
      DemoNeedle cell{.length = length, .depth = depth};
      std::vector<RetrievalDocument> documents;
      for (int64_t trial = 0; trial < kTrials; ++trial, ++number) {
        // Words of other vocabularies may be several tokens.
        for (int64_t words = length - 1;; words = words * 9 / 10) {
          documents.push_back(TokenizeSynthetic(MakeNeedleDocument(seed, number, static_cast<int32_t>(words), depth),
                                                *model.tokenizer));
          if (static_cast<int64_t>(documents.back().ids.size()) <= length) break;
          documents.pop_back();
        }
      }
      for (const RetrievalBucket& bucket :
           MeasureRetrieval(backend, model.params, *model.tokenizer, documents, "full").buckets) {
        cell.questions += bucket.questions;
        cell.correct += bucket.correct;
      }
      needles.push_back(cell);
    }
  }
  return needles;
}

/// What a sampler draws for the prompt, with two caches from the same numbers.
DemoBuiltin TryBuiltin(const fs::path& folder, uint64_t seed, Backend* backend) {
  LogLine("demo: the built-in model");
  UnpackBuiltinModel(folder);
  LoadedModel model = LoadModel(folder);
  const Tokenizer& tokenizer = *model.tokenizer;
  DemoBuiltin result{.spec = model.spec, .prompt = "The old captain looked at the sea and said,"};
  Decoder decoder(backend, &model.params);
  for (const char* policy : {"full", "sep-stream:4,32,64,128"}) {
    const KvForm form = ParseKvForm(policy);
    KvCache cache =
        NewKvCache(backend, model.spec, form, ModelSeparators(&tokenizer, form.separator_set, model.spec.vocab),
                   DType::kF32, model.spec.context);
    Generation generation(&decoder, &cache);
    const GenerateOptions options{.max_new = kBuiltinTokens,
                                  .sampler = {.temperature = 0.7f, .top_p = 0.9f, .seed = seed}};
    const GenerateResult written = Generate(generation, PromptIds(result.prompt, tokenizer), tokenizer, options);
    result.texts.emplace_back(policy, written.stop == StopReason::kLength ? EndAtWord(written.text) : written.text);
  }
  std::vector<RetrievalDocument> questions;
  for (uint64_t i = 0; i < kBuiltinLogs; ++i) {
    questions.push_back(MakeRetrievalDocument(seed, kBuiltinDocs + i, model.spec.context, tokenizer));
  }
  result.retrieval = MeasureRetrieval(backend, model.params, tokenizer, questions, "full").buckets;
  result.needles = FindNeedles(model, seed, backend);
  return result;
}

int RunDemo(const DemoOptions& options, const CommonOptions& common) {
  const Stopwatch watch;
  const std::unique_ptr<Backend> backend = MakeBackend(common.device);
  const FolderLock lock(options.out);
  PrepareFolder(options.out);
  const fs::path data = options.out / "data";
  WriteFileAtomically(data / "tokenizer.json", ByteLevelTokenizerJson(SyntheticWords()));
  WriteDocuments(data / "short.jsonl", common.seed, kShortDocs, 1'500'000, 64, kShort - 1);
  WriteDocuments(data / "long.jsonl", common.seed, kLongDocs, 1'000'000, 96, kLong - 1);
  const std::unique_ptr<Tokenizer> tokenizer = LoadTokenizer(data);

  std::vector<TextDocument> valid;
  std::vector<RetrievalDocument> questions;
  for (uint64_t i = 0; i < 32; ++i) {
    const SyntheticDocument document = MakeSyntheticDocument(common.seed, kValidDocs + i, kLong - 1);
    valid.push_back({.source = "harbour log", .path = fmt::format("document {}", i), .text = " " + document.text});
    questions.push_back(TokenizeSynthetic(document, *tokenizer));
  }

  DemoResult result{.short_context = kShort, .long_context = kLong, .seed = common.seed};
  result.machine = backend->Describe();
  result.builtin = TryBuiltin(options.out / "builtin", common.seed, backend.get());
  if (!common.json) PrintText(BuiltinText(result.builtin) + "\n");
  result.sample = MakeSyntheticDocument(common.seed, kShortDocs, 90).text;
  result.models.push_back(TrainAndMeasure("before extension", BaseRecipe(options, common.seed), options.out / "base",
                                          backend.get(), valid, questions));
  result.models.push_back(TrainAndMeasure("AnchorAttention", ExtendRecipe(options, common.seed, "anchor"),
                                          options.out / "anchor", backend.get(), valid, questions));
  result.models.push_back(TrainAndMeasure("full attention", ExtendRecipe(options, common.seed, "full"),
                                          options.out / "full", backend.get(), valid, questions));

  LoadedModel model = LoadModel(options.out / "anchor");
  result.spec = model.spec;
  result.parameters = NumParameters(model.spec);
  const std::vector<TextDocument> stream = {
      {.source = "harbour log",
       .path = "one long document",
       .text = " " + MakeSyntheticDocument(common.seed, kStreamDocs, kStreamWords).text}};
  for (const char* policy : {"full", "sep-stream:4,64,256,800"}) {
    LogLine(fmt::format("demo: streaming {} words with {}", kStreamWords, policy));
    DemoStream measured{.policy = policy};
    measured.ppl = MeasurePerplexity(backend.get(), model.params, *model.tokenizer, stream,
                                     {.protocol = PplProtocol::kStreaming, .kv = policy});
    if (std::string_view(policy) != "full") measured.mean_formula = (4 + 64 + 256 + 800) / 2.0;
    result.streams.push_back(std::move(measured));
  }
  result.seconds = watch.Seconds();
  WriteFileAtomically(options.out / "report.html", DemoPage(result));
  WriteFileAtomically(options.out / "results.json", JsonText(ToJson(result), 1) + "\n");
  if (common.json) {
    PrintJson(ToJson(result));
  } else {
    PrintText(DemoText(result) + "\n");
  }
  LogLine(fmt::format("demo: {} in {}", (options.out / "report.html").string(), HumanSeconds(result.seconds)));
  return 0;
}

}  // namespace

std::function<int()> SetupDemo(Command command, CommonOptions& common) {
  auto options = std::make_shared<DemoOptions>();
  command.Add("--out", options->out, "Folder for the page, the models and the data").ShowDefault().WritesFolder();
  command.Add("--steps", options->steps, "Steps of training at the short context").Range(1, 1000000).ShowDefault();
  command.Add("--extend-steps", options->extend_steps, "Steps of each extension").Range(1, 1000000).ShowDefault();
  return [options, &common] {
    try {
      return RunDemo(*options, common);
    } catch (const Interrupted&) {
      LogLine("demo: interrupted");
      return 130;
    }
  };
}

}  // namespace hawser
