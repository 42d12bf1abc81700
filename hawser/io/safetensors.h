// io/safetensors.h - the safetensors format (github.com/huggingface/safetensors): u64 header length N, N bytes of JSON
// {name: {dtype, shape, data_offsets}}, then the tensors side by side.
// Dtypes F32 BF16 F16 F64 I32 I64 U8. Little-endian, row-major.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "hawser/io/tensor_source.h"
#include "hawser/io/tensor_writer.h"

namespace hawser {

/// Maps a file and checks all of its header: length, JSON, no name twice, dtypes known, shape and byte size agree, and
/// the tensors fill the rest of the file with no gap, overlap or byte left over.
/// Errors: kIo; kFormat and (dtype) kUnsupported naming file and tensor.
TensorSource ReadSafetensors(const std::filesystem::path& path);

/// The shards of a model.safetensors.index.json as one source. Shards must be plain file names in the folder of the
/// index. Tensors of a shard that the index does not list are taken too, as other readers do.
/// Errors: as above, and kFormat for a tensor that is not in its shard or is in another one too.
TensorSource ReadShardedSafetensors(const std::filesystem::path& index);

/// Writes atomically, converting piece by piece. Bytes depend on the arguments alone: wide dtypes first, then by name;
/// data start on a multiple of 64. `metadata` gets format = pt, which other readers ask for.
/// Errors: kIo naming the path; kInternal for a name given twice or a view whose size differs from its shape.
void WriteSafetensors(const std::filesystem::path& path, std::vector<TensorToWrite> tensors,
                      std::map<std::string, std::string> metadata = {});

}  // namespace hawser
