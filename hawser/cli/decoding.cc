#include "hawser/cli/decoding.h"

#include <fmt/format.h>

#include <algorithm>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/limits.h"
#include "hawser/base/size.h"
#include "hawser/eval/report.h"
#include "hawser/infer/json_schema.h"
#include "hawser/infer/squeeze.h"
#include "hawser/io/ordered_json.h"
#include "hawser/kv/report.h"
#include "hawser/model/places.h"

namespace hawser {

void AddSamplerOptions(Command command, SamplerOptions& sampler) {
  command.Add("--temperature", sampler.temperature, "Flattens the choice; 0: always the most probable token")
      .ShowDefault();
  command.Add("--top-k", sampler.top_k, "Choose among the K most probable tokens; 0: all").ShowDefault();
  command.Add("--top-p", sampler.top_p, "Choose among the fewest tokens of this probability together").ShowDefault();
  command.Add("--min-p", sampler.min_p, "Leave out tokens below this share of the greatest probability").ShowDefault();
  command.Add("--repeat-penalty", sampler.repeat_penalty, "Above 1: tokens already seen become less likely")
      .ShowDefault();
  command
      .Add("--frequency-penalty", sampler.frequency_penalty, "Taken off the logit of a token for each time it was seen")
      .ShowDefault();
  command.Add("--presence-penalty", sampler.presence_penalty, "Taken once off the logit of every token seen")
      .ShowDefault();
  command.Add("--repeat-last-n", sampler.repeat_last_n, "Penalties count the last N tokens; -1: all, prompt included")
      .Range(-1, int64_t{1} << 40)
      .ShowDefault();
}

void AddCacheOptions(Command command, DecodingOptions& options) {
  command.Add("--kv", options.kv, "What stays in the cache: full, streaming, sepllm, bounded:800, ...; see help kv");
  command.Add("--rope", options.rope, "Position scheme: yarn:factor=8, ntk:factor=8, theta=5e6, ...; see help rope");
  command
      .Add("--context", options.context,
           "Length in tokens, prompt and new ones, that positions are scaled for where they depend on it (default: "
           "what has been seen)")
      .Range(1, int64_t{1} << 40);
  command.Add("--dtype", options.dtype, "Weights, activations and cache: f32 or bf16 (default: bf16 if the file is)");
}

void AddPrefixOptions(Command command, PrefixOptions& options, const std::string& help) {
  command.Add("--index", options.index, help).ExistingFile();
  command
      .Add("--keep", options.keep,
           "What is read of that prefix: a share of its keys, mass=M of the weights, or quantile=Q of the scores")
      .ShowDefault();
}

void AddFormatOptions(Command command, FormatOptions& options, const std::string& what) {
  auto grammar = command.Add("--grammar", options.grammar,
                             fmt::format("File with a grammar (GBNF) that {} follows; see help grammar", what));
  grammar.ExistingFile();
  command.Add("--json-schema", options.schema, fmt::format("File with a JSON Schema that {} is valid under", what))
      .ExistingFile()
      .Excludes(grammar);
}

std::shared_ptr<const Constraint> ConstraintOf(const FormatOptions& options, const Tokenizer& tokenizer) {
  const bool by_schema = !options.schema.empty();
  const std::filesystem::path& path = by_schema ? options.schema : options.grammar;
  if (path.empty()) return nullptr;
  const std::string text = ReadFile(path);
  return WithFrame(path.string(), [&] {
    return std::make_shared<Constraint>(by_schema ? SchemaGrammar(ParseOrderedJson(text)) : ParseGrammar(text),
                                        std::make_shared<TokenTrie>(tokenizer));
  });
}

std::shared_ptr<SqueezedReader> OpenPrefixOf(const PrefixOptions& options, bool keep_given, Backend* backend,
                                             const Weights& weights, int64_t declared_length) {
  if (options.index.empty()) {
    if (keep_given) Fail(ErrorKind::kUsage, "--keep says what is read of a prefix: give one with --index");
    return nullptr;
  }
  return OpenPrefix(backend, weights, options.index, declared_length, ParseKeepRule(options.keep));
}

KvForm ChooseForm(const std::string& text, const ModelSpec& spec) {
  if (!text.empty()) return ParseKvForm(text);
  if (spec.sliding_window == 0) return {};
  KvForm form = ParseKvForm(fmt::format("window:{}", spec.sliding_window));
  form.full_layers = spec.full_layers;
  return form;
}

int64_t MostTokens(const DecodingOptions& options, const ModelSpec& spec, const KvForm& form) {
  const bool keeps_all = form.keeps_all() || (options.kv.empty() && !form.full_layers.empty());
  return options.context > 0 ? options.context : keeps_all ? MaxContext(spec, spec.context) : INT64_MAX;
}

void CheckCacheFits(const KvCache& cache, int64_t prompt, int64_t more) {
  const bool all = cache.form().keeps_all();
  if (!all && cache.form().prefill != KvPrefill::kDense) return;
  if (!all) more = 0;
  const int64_t tokens = cache.seen() - cache.prefix_tokens() + prompt + more;
  CheckFits(fmt::format("a cache of {}", Counted(tokens, "token")), cache.BytesFor(prompt, more));
}

std::string CacheText(const KvCache& cache) {
  double kept = 0;
  for (int32_t layer = 0; layer < cache.layers(); ++layer) {
    kept += static_cast<double>(cache.usage(layer).final) / cache.layers();
  }
  return fmt::format("cache {}, {:.0f} of {} kept{}", HumanBytes(static_cast<int64_t>(cache.bytes())), kept,
                     Counted(cache.seen(), "token"), cache.form().layered() ? " in the mean of the layers" : "") +
         (cache.prefix() != nullptr ? "; " + PrefixReportText(cache) : "");
}

std::string AtRate(int64_t tokens, double rate) {
  return Counted(tokens, "token") + (rate > 0 ? fmt::format(" ({:.1f} a second)", rate) : "");
}

}  // namespace hawser
