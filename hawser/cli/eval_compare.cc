// hawser eval MODEL compare: the same texts under several caches, attention patterns and position schemes.
#include <algorithm>
#include <memory>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/hash.h"
#include "hawser/base/progress.h"
#include "hawser/base/text.h"
#include "hawser/cli/eval_measures.h"
#include "hawser/eval/compare_report.h"
#include "hawser/eval/fit_kept.h"
#include "hawser/eval/page.h"
#include "hawser/eval/python_text.h"
#include "hawser/eval/row_log.h"
#include "hawser/io/json_text.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/places.h"
#include "hawser/tok/separators.h"

namespace hawser {
namespace {

constexpr int kCompareFormat = 1;
constexpr int64_t kStretch = 256;  // tokens
constexpr int64_t kDraws = 2000;

/// The texts as ids, cut as they were judged, or to --context tokens.
std::vector<CompareText> TextsOf(const EvalOptions& options, const std::optional<KeyTokens>& keys,
                                 const std::vector<TextDocument>& documents, const Tokenizer& tokenizer,
                                 int64_t context) {
  std::vector<CompareText> texts;
  for (size_t d = 0; d < documents.size(); ++d) {
    CompareText text{.name = documents[d].path, .ids = {}};
    if (keys) {
      const std::string_view judged = JudgedText(keys->documents[d], documents[d]);
      text.ids = tokenizer.Encode(judged);
      text.key = KeyTokensOf(keys->documents[d], tokenizer, judged, text.ids);
    } else {
      const auto before = static_cast<int64_t>(TextPrefix(tokenizer, ParseBosRule(options.bos)).size());
      text.ids = tokenizer.Encode(CutToTokens(tokenizer, documents[d].text, context - before));
    }
    if (text.ids.size() < 2) Fail(ErrorKind::kUsage, "{}: a text of one token predicts nothing", text.name);
    texts.push_back(std::move(text));
  }
  return texts;
}

/// The methods with every ? replaced by the number that keeps options.kept keys on `texts`.
std::vector<Method> FitMethods(const EvalOptions& options, const ModelToRun& run, Backend* backend,
                               const std::vector<CompareText>& texts) {
  if (options.methods.find('?') == options.methods.npos) {
    if (options.kept > 0) Fail(ErrorKind::kUsage, "--kept is for methods with a ? in place of a number: sink:4,?");
    return ParseMethods(options.methods);
  }
  if (options.kept <= 0)
    Fail(ErrorKind::kUsage, "which number stands for the ? in --methods? Give --kept N, the keys to keep");
  std::vector<std::vector<int32_t>> ids;
  int64_t longest = 0;
  for (const CompareText& text : texts) {
    ids.push_back(text.ids);
    longest = std::max(longest, static_cast<int64_t>(text.ids.size()));
  }
  const auto separators = [&](const std::string& form) {
    return ModelSeparators(run.model.tokenizer.get(), form, run.weights.spec().vocab);
  };
  std::vector<std::string> fitted;
  for (const std::string_view piece : SplitAt(options.methods, ';')) {
    std::string text(PythonStrip(piece));
    if (text.find('?') != text.npos) {
      text = FitNumber(text, options.kept, longest, [&](const std::string& candidate) {
        return KeptKeys(backend, run.weights.spec(), ParseMethods(candidate).at(0).sight, ids, separators);
      });
    }
    fitted.push_back(std::move(text));
  }
  return ParseMethods(fmt::format("{}", fmt::join(fitted, ";")));
}

/// What a folder of results is of, so that another comparison is not mixed in.
nlohmann::json RunOf(const EvalOptions& options, const ModelToRun& run, const std::optional<KeyTokens>& keys,
                     const std::vector<CompareText>& texts, int64_t stretch) {
  nlohmann::json json;
  AddModelTo(&json, options, run);
  json["fingerprint"] = fmt::format("{:016x}", ModelFingerprint(run.weights));
  json["bos"] = options.bos;
  json["stretch"] = stretch;
  json["keys"] = keys ? nlohmann::json(keys->Identity()) : nlohmann::json();
  for (const CompareText& text : texts) {
    const uint64_t hash = Hash64(std::as_bytes(std::span(text.ids)), Hash64(std::as_bytes(std::span(text.key))));
    json["texts"].push_back({{"name", text.name}, {"tokens", text.ids.size()}, {"hash", fmt::format("{:016x}", hash)}});
  }
  return {{"hawser_compare", kCompareFormat}, {"run", json}};
}

/// Runs of an earlier start by name.
class HeldRuns {
 public:
  HeldRuns(const EvalOptions& options, const nlohmann::json& run) {
    if (options.output.empty()) return;
    log_ = std::make_unique<RowLog>(options.output, "methods.jsonl", run, options.resume);
    for (size_t row = 0; row < log_->rows().size(); ++row) {
      WithFrame(log_->Place(row), [&] {
        runs_.push_back(ParseMethodRun(log_->rows()[row]));
        const size_t wanted = runs_[0].stretches.size(), found = runs_.back().stretches.size();
        if (found == 0 || found != wanted || runs_.back().all().tokens != runs_[0].all().tokens) {
          Fail(ErrorKind::kFormat, "wanted the stretches and tokens of the first method, found {} of {}", found,
               wanted);
        }
      });
    }
  }
  const MethodRun* Find(const std::string& name) const {
    const auto found = std::ranges::find(runs_, name, &MethodRun::name);
    return found == runs_.end() ? nullptr : &*found;
  }
  /// `index`: what the method reads now. Errors: kUsage where it was measured with another one.
  void CheckIndex(const std::string& name, const std::string& index) const {
    const MethodRun* run = Find(name);
    if (run == nullptr || run->index == index) return;
    Fail(ErrorKind::kUsage,
         "this folder has it measured with {} index, and the file now holds {}; choose another folder",
         run->index.empty() ? "an unknown" : fmt::format("another ({})", run->index), index);
  }
  void Add(const MethodRun& run) {
    if (log_ != nullptr) log_->Add(ToJson(run));
  }

 private:
  std::unique_ptr<RowLog> log_;
  std::vector<MethodRun> runs_;
};

}  // namespace

int RunCompare(const EvalOptions& options, const TaskOptions& fields, const CommonOptions& common) {
  if (options.resume && options.output.empty()) Fail(ErrorKind::kUsage, "--resume goes on with the run in --output");
  CheckJudgeFlags(options);
  const bool judged = !options.judge.empty() || !options.keys.empty();
  if (!judged) {
    for (const char* key : {"k", "delta", "alpha", "beta"}) {
      if (fields.Given(key)) Fail(ErrorKind::kUsage, "{} is for key tokens: give --judge MODEL", key);
    }
    fields.CheckAllUsed();
  }
  // Mistakes in it are told before any work; a ? may be any number.
  std::string any = options.methods;
  if (any.find('?') == any.npos) ParseMethods(any);
  const std::vector<TextDocument> documents = ReadEvalTexts(options, "compare");
  const auto backend = MakeBackend(common.device);
  LogLine(backend->Describe());
  std::optional<KeyTokens> keys;
  if (judged) {
    if (any.find('?') == any.npos) {
      for (const Method& method : ParseMethods(any)) CheckIndexOpens(options, method.sight, backend.get());
    }
    keys = ChooseKeyTokens(options, fields, documents, backend.get());
    CheckKeysFit(*keys, documents);
  }
  EvalOptions reached = options;
  if (keys) reached.ppl.context = keys->rule.length;
  auto run = std::make_unique<ModelToRun>(OpenEvalModel(reached));
  if (reached.ppl.context == 0) reached.ppl.context = run->model.spec.context;
  const std::shared_ptr<Tokenizer> tokenizer = run->model.tokenizer;
  Comparison comparison{.model = options.model.model.string(), .identity = keys ? keys->Identity() : ""};
  comparison.texts = TextsOf(options, keys, documents, *tokenizer, reached.ppl.context);
  comparison.stretch = options.ppl.stretch > 0 ? options.ppl.stretch : kStretch;
  comparison.draws = options.bootstrap > 0 ? options.bootstrap : kDraws;
  const std::vector<Method> methods = FitMethods(options, *run, backend.get(), comparison.texts);
  nlohmann::json about = RunOf(options, *run, keys, comparison.texts, comparison.stretch);
  std::string rope;  // of `run`
  const auto reader_of = [&](const Method& method) {
    if (method.rope != rope) {
      reached.rope = method.rope.empty() ? options.rope : method.rope;
      run = std::make_unique<ModelToRun>(OpenEvalModel(reached));
      rope = method.rope;
    }
    return TextReader(backend.get(), run->weights, *tokenizer, method.sight, ParseBosRule(options.bos));
  };
  int64_t first = 0;                                         // token that counts: behind every index
  std::vector<std::pair<std::string, std::string>> indexes;  // by method
  for (const Method& method : methods) {
    if (!method.sight.index) continue;
    WithFrame(fmt::format("method '{}'", method.name), [&] {
      const TextReader reader = reader_of(method);
      first = std::max(first, reader.FirstPredicted());
      indexes.emplace_back(method.name, reader.IndexName());
    });
    about["run"]["first"] = first;
  }
  HeldRuns held(options, about);
  for (const auto& [name, index] : indexes) {
    WithFrame(fmt::format("method '{}'", name), [&] { held.CheckIndex(name, index); });
  }
  // What cannot be is told before anything is measured.
  constexpr int64_t kTried = 16;  // tokens predicted
  for (const Method& method : methods) {
    if (held.Find(method.name) != nullptr) continue;
    WithFrame(fmt::format("method '{}'", method.name), [&] {
      TextReader reader = reader_of(method);
      for (const CompareText& text : comparison.texts) WithFrame(text.name, [&] { reader.Check(text.ids); });
      const std::vector<int32_t>& ids = comparison.texts.front().ids;
      reader.Read(std::span(ids).first(std::min<size_t>(ids.size(), reader.FirstPredicted() + kTried)));
    });
  }
  for (const Method& method : methods) {
    if (const MethodRun* before = held.Find(method.name)) {
      LogLine(fmt::format("{}: measured before", method.name));
      comparison.methods.push_back(*before);
      continue;
    }
    WithFrame(fmt::format("method '{}'", method.name), [&] {
      TextReader reader = reader_of(method);
      comparison.methods.push_back(RunMethod(&reader, method.name, comparison.texts, comparison.stretch, first));
    });
    held.Add(comparison.methods.back());
    LogLine(fmt::format("{}: ppl {:.4g}, {:.1f} keys kept", method.name, comparison.methods.back().all().ppl(),
                        comparison.methods.back().kept));
  }
  CompareMethods(&comparison, common.seed);
  const nlohmann::json json = ToJson(comparison);
  if (!options.output.empty()) {
    TaskReport report = CompareSections(comparison, "");
    report.html = HtmlPage("Methods side by side", report.html);
    WriteTaskReport(options.output / "report.html", report);
    WriteFileAtomically(options.output / "compare.json", JsonText(json, 1) + "\n");
  }
  if (common.json) {
    PrintJson(json);
  } else {
    PrintText(ToText(comparison) + (options.output.empty() ? "" : (options.output / "report.html").string() + "\n"));
  }
  return 0;
}

}  // namespace hawser
