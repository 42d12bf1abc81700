// io/gguf_writer.h - GGUF v3, as strict readers want it (github.com/ggml-org/ggml src/gguf.cpp).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <variant>
#include <vector>

#include "hawser/io/gguf.h"
#include "hawser/io/tensor_writer.h"

namespace hawser {

/// The types that writers of models use: u32, f32, bool, text and lists of i32, f32 and text.
struct GgufField {
  std::string key;
  std::variant<uint32_t, float, bool, std::string, std::vector<int32_t>, std::vector<float>, std::vector<std::string>>
      value;
};

/// What a reader would find in the file of these. It points into both. Errors: kFormat for a name given twice.
GgufFile AsRead(const std::vector<GgufField>& fields, const std::vector<TensorToWrite>& tensors);

/// Writes atomically. Fields and tensors keep their order; tensors lie one behind the other on multiples of 32 bytes,
/// the last one padded too. Lists that are empty are left out: readers refuse them. `on_bytes`, if given, hears how
/// many bytes of tensors are written. Errors: kIo naming the path; those of AppendTensor; kInternal for a name given
/// twice, one of 64 bytes or more, or more than four dimensions.
void WriteGguf(const std::filesystem::path& path, const std::vector<GgufField>& fields,
               const std::vector<TensorToWrite>& tensors, const std::function<void(int64_t bytes)>& on_bytes = {});

/// The number of a storage type in GGUF files. Errors: kUnsupported where they have none.
uint32_t GgufType(DType dtype);

}  // namespace hawser
