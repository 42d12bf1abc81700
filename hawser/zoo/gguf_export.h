// zoo/gguf_export.h - models as GGUF files (zoo/gguf_model.h reads them).
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "hawser/zoo/load.h"

namespace hawser {

/// The type that a tensor is stored in where a file of `type` is asked for. Vectors stay F32. Of the quantised types
/// the head, and the embedding where it is the head, keep 6 bits or more; q4_k keeps 6 bits in the values and the
/// second matrix of the mlp of half of the layers (the first and last eighth, and every third between). Rows that are
/// no whole blocks take the nearest type whose blocks they are: q5_0 for q4_k, q5_1 for q5_k, q8_0 for q6_k, else F16.
DType GgufStoredType(const ModelSpec& spec, const ParamInfo& info, DType type);

/// The types that a file may be asked for in: f32, f16, bf16, q8_0, q4_0, q4_1, q4_k, q6_k.
std::span<const DType> GgufTypes();

/// Where a model comes from that is exported.
struct GgufSource {
  std::filesystem::path model = {};  // a name as LoadModel takes it; empty: of no file
  bool changed = false;              // its weights are not those of the source any more
  bool own_tokenizer = true;         // it has the tokenizer of the source
};

struct GgufExport {
  DType type = DType::kF32;           // asked for, or that most bytes are in
  int64_t bytes = 0;                  // of the file
  std::vector<std::string> kept;      // matrices in another type than that, "31 tensors in q6_k"
  std::vector<std::string> left_out;  // what the source has and GGUF cannot say, for people
};

/// Writes what LoadModel gave for `source` to `path`, atomically, with progress. Without a `type` tensors keep theirs:
/// those of an unchanged GGUF file each its own, of other sources all that of the source. Tensors of an unchanged GGUF
/// file that are in the wanted type already, and the keys of its tokenizer, are copied. Errors: kUnsupported for what
/// readers of these files would compute otherwise, by name; kNumeric for values that the type cannot hold, naming the
/// tensor; kUsage for a type that is not written; kIo.
GgufExport ExportGguf(LoadedModel model, const GgufSource& source, std::optional<DType> type,
                      const std::filesystem::path& path);

}  // namespace hawser
