#include <fmt/format.h>

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/lock.h"
#include "hawser/base/progress.h"
#include "hawser/base/size.h"
#include "hawser/cli/command.h"
#include "hawser/train/peft.h"
#include "hawser/zoo/gguf_export.h"
#include "hawser/zoo/hf_export.h"
#include "hawser/zoo/random_model.h"

namespace hawser {
namespace {

struct ConvertOptions {
  ModelOptions model;
  std::filesystem::path to;
  std::string type;
  std::string random;  // a shape
  bool force = false;

  bool to_gguf() const { return EndingOf(to) == ".gguf"; }
};

constexpr DType kFolderTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

/// Errors: kUsage for a type that `known` does not have, with those it has.
DType TypeAsked(const std::string& name, std::span<const DType> known, const char* what) {
  std::string names;
  for (const DType dtype : known) {
    if (Name(dtype) == name) return dtype;
    names += (names.empty() ? "" : ", ") + std::string(Name(dtype));
  }
  Fail(ErrorKind::kUsage, "--type {}: {} is written in {}", name, what, names);
}

void Report(const ConvertOptions& options, const CommonOptions& common, const LoadedModel& model,
            const nlohmann::json& more) {
  const int64_t parameters = NumParameters(model.spec);
  nlohmann::json json = {{"out", options.to.string()},
                         {"from", model.format},
                         {"parameters", parameters},
                         {"tokenizer", model.tokenizer != nullptr}};
  json.update(more);
  if (common.json) return PrintJson(json);
  PrintText(fmt::format("{}: {} in {}{}\n", options.to.string(), Counted(parameters, "parameter"),
                        json["dtype"].get<std::string>(),
                        model.tokenizer != nullptr ? "" : ", no tokenizer (none given by --tokenizer FILE)"));
}

void RefuseToOverwrite(const ConvertOptions& options, const std::filesystem::path& file, const char* what) {
  std::error_code code;
  if (options.force || !std::filesystem::exists(file, code)) return;
  Fail(ErrorKind::kUsage, "{} {}; pass --force to write over it", options.to.string(), what);
}

LoadedModel Load(const ConvertOptions& options, const CommonOptions& common) {
  if (!options.random.empty()) return RandomModel(options.random, common.seed, options.model.tokenizer);
  LoadedModel model = LoadModel(options.model.model, options.model.tokenizer);
  if (!options.model.adapter.empty()) MergeAdapters(options.model, /*places=*/true, &model);
  return model;
}

int ToGguf(const ConvertOptions& options, const CommonOptions& common) {
  RefuseToOverwrite(options, options.to, "is there already");
  std::optional<DType> type;
  if (!options.type.empty()) type = TypeAsked(options.type, GgufTypes(), "GGUF");
  LoadedModel model = Load(options, common);
  const LoadedModel about{.format = model.format, .spec = model.spec, .tokenizer = model.tokenizer};
  const GgufExport done = ExportGguf(std::move(model),
                                     {.model = options.model.model,
                                      .changed = !options.model.adapter.empty(),
                                      .own_tokenizer = options.model.tokenizer.empty()},
                                     type, options.to);
  if (!done.kept.empty()) LogLine(fmt::format("beside {}: {}", Name(done.type), fmt::join(done.kept, ", ")));
  if (!done.left_out.empty()) LogLine(fmt::format("GGUF has no place for: {}", fmt::join(done.left_out, "; ")));
  Report(options, common, about,
         {{"format", "GGUF"},
          {"dtype", Name(done.type)},
          {"bytes", done.bytes},
          {"other_types", done.kept},
          {"left_out", done.left_out}});
  return 0;
}

int ToFolder(const ConvertOptions& options, const CommonOptions& common) {
  if (NamedAsFile(options.to)) {
    Fail(ErrorKind::kUsage,
         "DST: {} is named as a file, and of files convert writes those that end in .gguf; else name a folder, which "
         "is written in Hugging Face form",
         options.to.string());
  }
  std::optional<DType> type;
  if (!options.type.empty()) {
    type = TypeAsked(options.type, kFolderTypes, "a Hugging Face folder");
  }
  const FolderLock lock(options.to);
  RefuseToOverwrite(options, options.to / "config.json", "holds a model already");
  const LoadedModel model = Load(options, common);
  const bool plain = model.file_dtype != DType::kF64 && !IsBlocked(model.file_dtype);
  const DType dtype = type.value_or(plain ? model.file_dtype : DType::kF32);
  HfSource source = SourceOf(options.model.model, options.model.tokenizer);
  source.note =
      options.random.empty()
          ? fmt::format("Converted by hawser; weights stored as {}.", Name(dtype))
          : fmt::format("Random weights of the shape {}, made by hawser; it predicts nothing.", options.random);
  ReplaceHuggingFace(model.params, model.tokenizer.get(), dtype, source, options.to);
  Report(options, common, model, {{"format", "Hugging Face folder"}, {"dtype", Name(dtype)}});
  return 0;
}

/// MODEL DST, or with --random DST alone.
void SortPlaces(ConvertOptions* options) {
  if (options->random.empty()) {
    if (options->to.empty()) Fail(ErrorKind::kUsage, "convert needs MODEL and DST, or --random SHAPE and DST");
    return;
  }
  if (options->model.model.empty() || !options->to.empty() || !options->model.adapter.empty()) {
    Fail(ErrorKind::kUsage, "convert --random SHAPE takes DST alone, no MODEL and no adapter");
  }
  options->to = std::exchange(options->model.model, {});
}

}  // namespace

std::function<int()> SetupConvert(Command command, CommonOptions& common) {
  auto options = std::make_shared<ConvertOptions>();
  AddModelOptions(command, options->model, /*required=*/false);
  AddAdapterOption(command, options->model);
  command.Add("DST", options->to, "Folder to write, in Hugging Face form, or a file that ends in .gguf");
  std::vector<std::string> names;
  for (const DType dtype : GgufTypes()) names.emplace_back(Name(dtype));
  command
      .Add("--type,--dtype", options->type,
           "Type that weights are stored in: f32, bf16, f16; in GGUF also q8_0, q4_0, q4_1, q4_k, q6_k (default: that "
           "of "
           "MODEL, f32 for a folder from a quantised file)")
      .OneOf(names);
  command.Add("--random", options->random, "In place of MODEL random weights (by --seed) of a shape: " + ShapeHelp());
  command.Add("--force", options->force, "Write over a model that is there already");
  return [options, &common] {
    SortPlaces(options.get());
    return options->to_gguf() ? ToGguf(*options, common) : ToFolder(*options, common);
  };
}

}  // namespace hawser
