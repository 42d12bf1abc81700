// cli/command.h - a command of the binary: its options declared, then one function that runs.
#pragma once

#include <nlohmann/json.hpp>

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "hawser/cli/options.h"
#include "hawser/device/registry.h"
#include "hawser/tok/tokenizer.h"
#include "hawser/zoo/load.h"

namespace hawser {

/// Options that every command takes.
struct CommonOptions {
  bool json = false;
  bool quiet = false;
  int threads = 0;
  uint64_t seed = 0;
  std::string device = "cpu";
  bool force = false;  // go on although memory does not suffice
  double progress = 10;
};

void AddCommonOptions(Command command, CommonOptions& common);
/// --force, the last of them: where a command has one of its own, that one stands for both.
void AddForceOption(Command command, CommonOptions& common);

/// Declares the options of `command`; the returned function runs it (only when it was parsed) and returns the exit
/// code.
using CommandSetup = std::function<int()> (*)(Command command, CommonOptions& common);

struct CommandRow {
  const char* name;
  const char* summary;
  CommandSetup setup;
};

/// A command that is one of several, each a subcommand.
std::function<int()> SetupParts(Command command, std::span<const CommandRow> parts, CommonOptions& common);

// One file each in cli/.
std::function<int()> SetupInfo(Command, CommonOptions&);
std::function<int()> SetupTokenize(Command, CommonOptions&);
std::function<int()> SetupGenerate(Command, CommonOptions&);
std::function<int()> SetupChat(Command, CommonOptions&);
std::function<int()> SetupServe(Command, CommonOptions&);
std::function<int()> SetupExtend(Command, CommonOptions&);
std::function<int()> SetupTrain(Command, CommonOptions&);
std::function<int()> SetupEval(Command, CommonOptions&);
std::function<int()> SetupAverage(Command, CommonOptions&);
std::function<int()> SetupConvert(Command, CommonOptions&);
std::function<int()> SetupPull(Command, CommonOptions&);
std::function<int()> SetupInspect(Command, CommonOptions&);
std::function<int()> SetupBench(Command, CommonOptions&);
std::function<int()> SetupIndex(Command, CommonOptions&);
std::function<int()> SetupTuneKv(Command, CommonOptions&);
std::function<int()> SetupDemo(Command, CommonOptions&);
std::function<int()> SetupDrift(Command, CommonOptions&);
std::function<int()> SetupCorpus(Command, CommonOptions&);
std::function<int()> SetupPlot(Command, CommonOptions&);
std::function<int()> SetupReport(Command, CommonOptions&);
std::function<int()> SetupHelp(Command, CommonOptions&);

/// MODEL and --tokenizer, as most commands take them.
struct ModelOptions {
  std::filesystem::path model;
  std::filesystem::path tokenizer;
  std::filesystem::path adapter;  // merged into the weights; empty: none
};
void AddModelOptions(Command command, ModelOptions& options, bool required = true);
/// --adapter, for commands that OpenModel.
void AddAdapterOption(Command command, ModelOptions& options);
/// Adds options.adapter to the weights; with `places` the model takes the positions and the context that the adapters
/// were trained under. Errors: CheckNotMerged, MergePeft, TakeTrainedPlaces.
void MergeAdapters(const ModelOptions& options, bool places, LoadedModel* model);
/// LoadModel for commands that need a tokenizer, with the adapters merged and with the position scheme `rope` instead
/// of the model's own where it is given: in `params`, while `spec` is that of the file. `context`: the tokens that a
/// scheme without a factor is to reach; 0: not known. Errors: kUsage without a tokenizer or for a wrong scheme,
/// MergePeft.
LoadedModel OpenModel(const ModelOptions& options, std::string_view rope, int64_t context);
/// The same for commands that run the model and change nothing of it: tensors stay as they lie in the file, but with
/// adapters. `dtype`: the text of --dtype, f32, bf16, or empty (LoadModelToRun). `model.spec` is that of the file.
ModelToRun OpenModelToRun(const ModelOptions& options, std::string_view rope, int64_t context,
                          const std::string& dtype);
/// The tokenizer named by --tokenizer, or what MODEL brings, for commands that need no weights.
std::unique_ptr<Tokenizer> OpenTokenizer(const ModelOptions& options);

/// Text that is itself the result, byte for byte on stdout. Errors: kIo where it cannot be written, so that a full disk
/// does not pass for success.
void PrintRaw(std::string_view text);
/// Lines and tables for people on stdout, as PrintableText gives them. Errors: as PrintRaw.
void PrintText(std::string_view text);
/// One JSON object and a newline on stdout. Non-finite numbers become null.
void PrintJson(const nlohmann::json& object);

}  // namespace hawser
