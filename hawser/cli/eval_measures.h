// cli/eval_measures.h - what eval measures besides tasks of questions and answers: rows with options of their own.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/cli/command.h"
#include "hawser/cli/decoding.h"
#include "hawser/data/corpus.h"
#include "hawser/eval/key_tokens.h"
#include "hawser/eval/perplexity.h"
#include "hawser/eval/read_text.h"
#include "hawser/eval/task.h"

namespace hawser {

struct EvalOptions {
  ModelOptions model;
  PrefixOptions prefix;
  bool keep_given = false;
  std::vector<std::string> tasks;
  std::vector<std::filesystem::path> data;
  std::string protocol, kv, rope, attention;
  std::string dtype = "f32";
  std::string bos = "auto";
  std::filesystem::path nll_file;
  PplOptions ppl;
  int64_t documents = 64;  // retrieval
  // Tasks.
  std::string focus;
  bool list = false, chat = false, resume = false;
  std::filesystem::path output, data_dir;
  int64_t limit = 0, bootstrap = 0;
  // Key tokens of longppl and compare.
  std::filesystem::path judge, judge_tokenizer, keys, save_keys;
  std::string judge_rope;
  // compare.
  std::string methods;
  double kept = 0;
};

struct EvalMeasure {
  const char* name;
  const char* summary;
  std::vector<const char*> flags;  // options that it takes and not every other does
  /// Options that others take, and why it does not: what stands behind "takes no --X: ".
  std::vector<std::pair<const char*, const char*>> refused;
  /// `fields`: what stands behind the name, NAME:key=value,...
  int (*run)(const EvalOptions& options, const TaskOptions& fields, const CommonOptions& common);
};
std::span<const EvalMeasure> EvalMeasures();

// One file each in cli/.
int RunLongPpl(const EvalOptions& options, const TaskOptions& fields, const CommonOptions& common);
int RunCompare(const EvalOptions& options, const TaskOptions& fields, const CommonOptions& common);

/// With --rope and --dtype.
ModelToRun OpenEvalModel(const EvalOptions& options);
/// "model", "dtype", "rope", "model_context".
void AddModelTo(nlohmann::json* json, const EvalOptions& options, const ModelToRun& run);
/// The first --limit documents of --data. `what`: the measure, for errors.
std::vector<TextDocument> ReadEvalTexts(const EvalOptions& options, std::string_view what);
/// Of --kv, --index and --attention.
Sight EvalSight(const EvalOptions& options);
/// Errors: kUsage for options of a judge without one.
void CheckJudgeFlags(const EvalOptions& options);
/// Opens an index of `sight`, so that one of another model is refused before a judge has read. Errors: those of
/// OpenPrefix.
void CheckIndexOpens(const EvalOptions& options, const Sight& sight, Backend* backend);
/// The key tokens of `documents`, from --keys or as --judge finds them by the fields k, delta, alpha and beta, then
/// written to --save-keys. Errors: kUsage for fields other than those of the file.
KeyTokens ChooseKeyTokens(const EvalOptions& options, const TaskOptions& fields,
                          std::span<const TextDocument> documents, Backend* backend);

}  // namespace hawser
