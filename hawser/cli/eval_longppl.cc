// hawser eval MODEL longppl: perplexity over the tokens that a judge finds to hang on far text.
#include <fmt/ranges.h>

#include <cmath>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/cli/eval_measures.h"
#include "hawser/data/corpus.h"
#include "hawser/eval/key_tokens.h"
#include "hawser/eval/longppl.h"
#include "hawser/model/fingerprint.h"
#include "hawser/model/places.h"

namespace hawser {
namespace {

constexpr int64_t kMostK = int64_t{1} << 30;
/// The longest texts of the authors.
constexpr int64_t kLongest = 32768;

KeyRule RuleOf(const TaskOptions& fields) {
  KeyRule rule;
  rule.context.k = fields.Int("k", rule.context.k, 1, kMostK);
  rule.context.delta = fields.Int("delta", rule.context.delta, 1, kMostK);
  rule.alpha = fields.Real("alpha", rule.alpha, -INFINITY, INFINITY);
  rule.beta = fields.Real("beta", rule.beta, -INFINITY, INFINITY);
  return rule;
}

/// Errors: kUsage for fields and options that say otherwise than the file.
void CheckRule(const KeyTokens& keys, const TaskOptions& fields, const KeyRule& given, const EvalOptions& options) {
  const KeyRule& held = keys.rule;
  const std::string file = options.keys.string();
  const auto check = [&](const char* key, auto mine, auto theirs) {
    if (!fields.Given(key) || mine == theirs) return;
    Fail(ErrorKind::kUsage, "{}: its tokens were chosen with {}={}, not {}; judge again, or leave {} out", file, key,
         theirs, mine, key);
  };
  check("k", given.context.k, held.context.k);
  check("delta", given.context.delta, held.context.delta);
  check("alpha", given.alpha, held.alpha);
  check("beta", given.beta, held.beta);
  if (options.ppl.context > 0 && options.ppl.context != held.length) {
    Fail(ErrorKind::kUsage,
         "{}: its texts are cut to {} tokens of the judge, not {}; judge again, or leave --context out", file,
         held.length, options.ppl.context);
  }
}

}  // namespace

KeyTokens ChooseKeyTokens(const EvalOptions& options, const TaskOptions& fields,
                          std::span<const TextDocument> documents, Backend* backend) {
  KeyRule rule = RuleOf(fields);
  fields.CheckAllUsed();
  if (!options.keys.empty()) {
    KeyTokens keys = LoadKeyTokens(options.keys);
    CheckRule(keys, fields, rule, options);
    WithFrame(options.keys.string(), [&] { CheckKeysFit(keys, documents); });
    return keys;
  }
  EvalOptions judge = options;
  judge.model = {.model = options.judge, .tokenizer = options.judge_tokenizer, .adapter = {}};
  judge.rope = options.judge_rope;
  const bool same = options.judge == options.model.model;
  if (same && judge.model.tokenizer.empty()) judge.model.tokenizer = options.model.tokenizer;
  return WithFrame("judge", [&] {
    const ModelToRun run = OpenEvalModel(judge);
    const int64_t meant = MaxContext(run.weights.spec(), run.model.spec.context);
    rule.length = options.ppl.context > 0 ? options.ppl.context : std::min(kLongest, meant);
    if (rule.length > meant) {
      LogLine(
          fmt::format("note: texts of {} tokens are beyond the {} that the judge is meant for", rule.length, meant));
    }
    TextReader reader(backend, run.weights, *run.model.tokenizer, {}, ParseBosRule(options.bos));
    const JudgeNames who = {
        {"model", options.judge.string()},
        {"fingerprint", fmt::format("{:016x}", ModelFingerprint(run.weights))},
        {"dtype", std::string(Name(run.weights.dtype()))},
        {"rope", PlacesText(run.weights.spec())},
        {"bos", reader.prefix().empty() ? "none" : fmt::format("{}", fmt::join(reader.prefix(), "+"))}};
    KeyTokens keys = JudgeKeyTokens(&reader, *run.model.tokenizer, documents, rule, options.ppl.batch_tokens, who);
    if (!options.save_keys.empty()) SaveKeyTokens(keys, options.save_keys);
    return keys;
  });
}

void CheckJudgeFlags(const EvalOptions& options) {
  for (const auto& [flag, given] :
       {std::pair("--judge-tokenizer", !options.judge_tokenizer.empty()),
        std::pair("--judge-rope", !options.judge_rope.empty()), std::pair("--save-keys", !options.save_keys.empty())}) {
    if (given && options.judge.empty()) Fail(ErrorKind::kUsage, "{} is for a judge: give --judge MODEL", flag);
  }
}

std::vector<TextDocument> ReadEvalTexts(const EvalOptions& options, std::string_view what) {
  if (options.data.empty()) Fail(ErrorKind::kUsage, "eval {}: which text? Give --data PATH...", what);
  std::vector<TextDocument> documents = ReadDocuments(ListDataFiles(options.data));
  if (options.limit > 0 && static_cast<int64_t>(documents.size()) > options.limit) documents.resize(options.limit);
  return documents;
}

Sight EvalSight(const EvalOptions& options) {
  if (!options.kv.empty() && !options.attention.empty()) {
    Fail(ErrorKind::kUsage, "--kv and --attention both say what is seen; give one of them");
  }
  Sight sight;
  if (!options.prefix.index.empty()) {
    if (!options.attention.empty()) {
      Fail(ErrorKind::kUsage,
           "--attention does not go with --index: what stands behind a prefix is read through a cache");
    }
    sight.kv = KvForm();
    sight.index = {.file = options.prefix.index, .keep = ParseKeepRule(options.prefix.keep)};
  } else if (options.keep_given) {
    Fail(ErrorKind::kUsage, "--keep says what is read of a prefix: give one with --index");
  }
  if (!options.kv.empty()) sight.kv = ParseKvForm(options.kv);
  if (!options.attention.empty()) sight.pattern = ParseLayeredPattern(options.attention);
  return sight;
}

void CheckIndexOpens(const EvalOptions& options, const Sight& sight, Backend* backend) {
  if (!sight.index || (!options.rope.empty() && options.ppl.context == 0)) return;
  const ModelToRun run = OpenEvalModel(options);
  TextReader(backend, run.weights, *run.model.tokenizer, sight, ParseBosRule(options.bos));
}

int RunLongPpl(const EvalOptions& options, const TaskOptions& fields, const CommonOptions& common) {
  if (options.judge.empty() == options.keys.empty()) {
    Fail(ErrorKind::kUsage,
         "eval longppl: who says which tokens hang on far text? Give --judge MODEL, which may be {} itself, or --keys "
         "FILE of an earlier --save-keys{}",
         options.model.model.string(), options.judge.empty() ? "" : ": not both");
  }
  CheckJudgeFlags(options);
  const Sight sight = EvalSight(options);
  const std::vector<TextDocument> documents = ReadEvalTexts(options, "longppl");
  const auto backend = MakeBackend(common.device);
  LogLine(backend->Describe());
  CheckIndexOpens(options, sight, backend.get());
  const KeyTokens keys = ChooseKeyTokens(options, fields, documents, backend.get());
  EvalOptions reached = options;
  reached.ppl.context = keys.rule.length;
  const ModelToRun run = OpenEvalModel(reached);
  if (const int64_t meant = MaxContext(run.weights.spec(), run.model.spec.context); keys.rule.length > meant) {
    LogLine(fmt::format("note: texts of {} tokens are beyond the {} this model is meant for", keys.rule.length, meant));
  }
  TextReader reader(backend.get(), run.weights, *run.model.tokenizer, sight, ParseBosRule(options.bos));
  const LongPplReport report = MeasureLongPpl(&reader, *run.model.tokenizer, documents, keys);
  if (!common.json) {
    PrintText(ToText(report));
    return 0;
  }
  nlohmann::json json = ToJson(report);
  AddModelTo(&json, options, run);
  json[sight.kv ? "kv_policy" : "attention"] = ToString(sight);
  if (sight.index) {
    json["index"] = sight.index->file.string();
    json["keep"] = ToString(sight.index->keep);
  }
  json["bos"] = reader.prefix();
  json["judge"] = keys.judge;
  json["k"] = keys.rule.context.k;
  json["delta"] = keys.rule.context.delta;
  json["alpha"] = keys.rule.alpha;
  json["beta"] = keys.rule.beta;
  json["length"] = keys.rule.length;
  PrintJson(json);
  return 0;
}

}  // namespace hawser
