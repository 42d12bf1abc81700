// cli/eval_measures.h - what eval measures besides tasks of questions and answers: rows with options of their own.
#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "hawser/cli/command.h"
#include "hawser/eval/perplexity.h"

namespace hawser {

struct EvalOptions {
  ModelOptions model;
  std::vector<std::string> tasks;
  std::vector<std::filesystem::path> data;
  std::string protocol, kv, rope, attention;
  std::string dtype = "f32";
  std::string bos = "auto";
  std::filesystem::path nll_file;
  PplOptions ppl;
  int64_t documents = 64;  // retrieval
  // Tasks.
  bool list = false, chat = false, resume = false;
  std::filesystem::path output, data_dir;
  int64_t limit = 0, bootstrap = 0;
};

struct EvalMeasure {
  const char* name;
  const char* summary;
  std::vector<const char*> flags;  // options that it takes and not every other does
  int (*run)(const EvalOptions& options, const CommonOptions& common);
};
std::span<const EvalMeasure> EvalMeasures();

/// With --rope and --dtype.
ModelToRun OpenEvalModel(const EvalOptions& options);
/// "model", "dtype", "rope", "model_context".
void AddModelTo(nlohmann::json* json, const EvalOptions& options, const ModelToRun& run);

}  // namespace hawser
