// zoo/hf_export.h - what a model folder keeps of the folder that its model came from (docs/FORMATS.md).
#pragma once

#include <filesystem>
#include <string>
#include <string_view>

#include "hawser/zoo/load.h"

namespace hawser {

/// Where a model came from. Folders that are gone by the time of an export count as none, with a log line.
struct HfSource {
  std::filesystem::path model = {};      // configuration, defaults of sampling, card, licences; empty: none
  std::filesystem::path tokenizer = {};  // files of the tokenizer, chat templates; empty: those of Tokenizer::Save
  int64_t context = 0;                   // of the model before; limits that say it are raised with it
  std::string note = {};                 // what was done, a sentence for the card
};

/// For a model (a name as LoadModel takes it, or empty) and a tokenizer that wins over its own (or empty).
HfSource SourceOf(const std::filesystem::path& model, const std::filesystem::path& tokenizer);

/// SaveHuggingFace, and everything that a user of the source needs besides weights, with the new context and spec.
void ExportHuggingFace(const ParamStore& params, const Tokenizer* tokenizer, DType dtype, const HfSource& source,
                       const std::filesystem::path& folder);

/// The same into a folder that may hold a model, which then is replaced as a whole (base/folder.h). Files and folders
/// in it that belong to no model stay.
void ReplaceHuggingFace(const ParamStore& params, const Tokenizer* tokenizer, DType dtype, const HfSource& source,
                        const std::filesystem::path& folder);

}  // namespace hawser
