// cli/decoding.h - what generate and chat share: the options of sampling, cache, positions and form, and what follows
// from them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>

#include "hawser/cli/command.h"
#include "hawser/infer/constraint.h"
#include "hawser/infer/sampler.h"
#include "hawser/kv/cache.h"
#include "hawser/kv/squeezed.h"

namespace hawser {

struct DecodingOptions {
  SamplerOptions sampler;
  std::string kv;
  std::string rope;
  int64_t context = 0;
  std::string dtype;
};
/// --index and --keep: a prefix that was indexed, and what queries read of it.
struct PrefixOptions {
  std::filesystem::path index;
  std::string keep = "0.1";
};
/// --grammar and --json-schema: what a text may be. One of them at most.
struct FormatOptions {
  std::filesystem::path grammar, schema;
};
void AddSamplerOptions(Command command, SamplerOptions& sampler);
/// --kv, --rope, --context, --dtype
void AddCacheOptions(Command command, DecodingOptions& options);
/// `help`: of --index.
void AddPrefixOptions(Command command, PrefixOptions& options, const std::string& help);
/// `what` is made under it: "the new text", "each answer".
void AddFormatOptions(Command command, FormatOptions& options, const std::string& what);
/// Null: anything. Errors, naming the file: kFormat for what is no grammar or schema, kUnsupported.
std::shared_ptr<const Constraint> ConstraintOf(const FormatOptions& options, const Tokenizer& tokenizer);
/// The prefix of --index, or null. Errors: kUsage for --keep without it; OpenPrefix.
std::shared_ptr<SqueezedReader> OpenPrefixOf(const PrefixOptions& options, bool keep_given, Backend* backend,
                                             const Weights& weights, int64_t declared_length);

/// The policy of `text`, or where it is empty the model's own.
KvForm ChooseForm(const std::string& text, const ModelSpec& spec);
/// The most tokens that prompt and answers may have together: any number where keys are dropped.
int64_t MostTokens(const DecodingOptions& options, const ModelSpec& spec, const KvForm& form);
/// Errors: those of CheckFits where a cache that holds a whole prompt, or everything, would be too large for `prompt`
/// tokens and `more` new ones.
void CheckCacheFits(const KvCache& cache, int64_t prompt, int64_t more);

/// What a run kept, for people.
std::string CacheText(const KvCache& cache);
/// "40 tokens (512.3 a second)"; a single token has no rate.
std::string AtRate(int64_t tokens, double rate);

}  // namespace hawser
