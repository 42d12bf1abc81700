// zoo/load.h - MODEL on the command line: a Hugging Face folder, a GGUF file or a llama2.c .bin, into spec, weights
// and tokenizer.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include "hawser/model/params.h"
#include "hawser/model/weights.h"
#include "hawser/tok/tokenizer.h"

namespace hawser {

struct LoadedModel {
  std::string format;  // "Hugging Face folder", "GGUF", "llama2.c v1", "llama2.c legacy"
  DType file_dtype = DType::kF32;
  ModelSpec spec;
  ParamStore params;                     // F32
  std::shared_ptr<Tokenizer> tokenizer;  // null where none was found or given
};

/// `path` may be `builtin` (zoo/builtin.h). `tokenizer`: a file or folder that wins over what the model brings;
/// empty: the model's own. Query and key rows of adjacent-pairing files are permuted to half pairing here, so
/// everything later sees kHalf. Errors: kIo, kFormat (truncated, shapes, missing or unknown tensors, non-finite header
/// values), kUnsupported (architecture, dtype), each naming file and tensor or key.
LoadedModel LoadModel(const std::filesystem::path& path, const std::filesystem::path& tokenizer = {});

/// As LoadModel, with every tensor checked by name, shape and dtype but not read: `params` stays empty.
LoadedModel InspectModel(const std::filesystem::path& path, const std::filesystem::path& tokenizer = {});

/// A model to run, its tensors used as they lie in the file: those of the dtype of activations, of F16 and in blocks
/// are read where the file is mapped, pages of it as they are needed. Others (of another float type, fused or
/// misaligned ones, norms and biases) are converted once to the dtype of activations.
struct ModelToRun {
  LoadedModel model;  // params empty
  Weights weights;    // their spec pairs adjacent channels where the file does
};
/// `dtype`: of activations. F32 converts every tensor to it: products of what a file in blocks stands for. BF16 and
/// none (BF16 where the file is, else F32) multiply blocks as they lie, few rows at a time by activations in 8 bits.
/// Errors: as LoadModel.
ModelToRun LoadModelToRun(const std::filesystem::path& path, const std::filesystem::path& tokenizer,
                          std::optional<DType> dtype);

/// The spec alone. Of a folder's tensors only those that may change it are looked at: the head of a tied model.
ModelSpec LoadSpec(const std::filesystem::path& path);

/// Without a source (zoo/hf_export.h): config.json, generation_config.json, model.safetensors (in `dtype`: F32, BF16
/// or F16) and the tokenizer's files, each atomically; config.json comes last (one from before is removed first), so
/// that a folder that has one is whole. The folder loads again as the same spec and bits. What config.json cannot say
/// of the spec in a way that other readers understand goes to hawser_spec.json beside it.
void SaveHuggingFace(const ParamStore& params, const Tokenizer* tokenizer, DType dtype,
                     const std::filesystem::path& folder);

}  // namespace hawser
