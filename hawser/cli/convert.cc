#include <fmt/format.h>

#include <memory>
#include <string>

#include "hawser/base/error.h"
#include "hawser/base/lock.h"
#include "hawser/cli/command.h"
#include "hawser/train/peft.h"
#include "hawser/zoo/hf_export.h"

namespace hawser {
namespace {

struct ConvertOptions {
  ModelOptions model;
  std::filesystem::path to;
  std::string dtype;
  bool force = false;
};

/// The dtype asked for, or the file's own where it can be written.
DType StoredDType(const ConvertOptions& options, DType file_dtype) {
  if (!options.dtype.empty()) return ParseDType(options.dtype);
  return file_dtype == DType::kF64 || IsBlocked(file_dtype) ? DType::kF32 : file_dtype;
}

int Convert(const ConvertOptions& options, const CommonOptions& common) {
  std::error_code code;
  const FolderLock lock(options.to);
  if (!options.force && std::filesystem::exists(options.to / "config.json", code)) {
    Fail(ErrorKind::kUsage, "{} holds a model already; pass --force to write over it", options.to.string());
  }
  LoadedModel model = LoadModel(options.model.model, options.model.tokenizer);
  if (!options.model.adapter.empty()) MergePeft(options.model.adapter, MakeBackend("cpu").get(), &model.params);
  const DType dtype = StoredDType(options, model.file_dtype);
  HfSource source = SourceOf(options.model.model, options.model.tokenizer);
  source.note = fmt::format("Converted by hawser; weights stored as {}.", Name(dtype));
  ReplaceHuggingFace(model.params, model.tokenizer.get(), dtype, source, options.to);
  const int64_t parameters = NumParameters(model.spec);
  if (common.json) {
    PrintJson({{"out", options.to.string()},
               {"from", model.format},
               {"format", "Hugging Face folder"},
               {"dtype", Name(dtype)},
               {"parameters", parameters},
               {"tokenizer", model.tokenizer != nullptr}});
  } else {
    PrintText(fmt::format("{}: {} parameters in {}{}\n", options.to.string(), parameters, Name(dtype),
                          model.tokenizer != nullptr ? "" : ", no tokenizer (none given by --tokenizer FILE)"));
  }
  return 0;
}

}  // namespace

std::function<int()> SetupConvert(Command command, CommonOptions& common) {
  auto options = std::make_shared<ConvertOptions>();
  AddModelOptions(command, options->model);
  AddAdapterOption(command, options->model);
  command.Add("DST", options->to, "Folder to write, in Hugging Face form").Required();
  command.Add("--dtype", options->dtype, "Stored dtype: f32, bf16 or f16; default: that of MODEL")
      .OneOf({"f32", "bf16", "f16"});
  command.Add("--force", options->force, "Write over a model that is in DST already");
  return [options, &common] { return Convert(*options, common); };
}

}  // namespace hawser
