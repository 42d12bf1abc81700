// quant/block.h - storage types whose values lie in blocks with shared scales, as GGUF files hold them
// (github.com/ggml-org/ggml docs/gguf.md). A row is whole blocks, one behind the other, without alignment.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "hawser/base/dtype.h"

namespace hawser {

/// One storage type; each has a file of its own in this room.
struct BlockType {
  DType dtype;
  std::string_view name;  // "q4_k"
  uint32_t gguf;          // its number in GGUF files
  int32_t values;         // of a block
  int32_t bytes;          // of a block
  int32_t group;          // values that share a scale: 16 or 32
  int32_t offset;         // what is taken from a stored q, which is unsigned, before it is multiplied by its scale

  /// The meaning: from [blocks * bytes] -> to [blocks * values], in f32 as the reference computes it. A scale that is
  /// NaN or infinite makes its values so.
  void (*decode)(const std::byte* from, int64_t blocks, float* to);

  /// from [blocks * values], finite -> to [blocks * bytes]; null: this type is only read.
  void (*encode)(const float* from, int64_t blocks, std::byte* to);
};

/// All of them, in the order of DType.
std::span<const BlockType* const> BlockTypes();

/// Null for plain element types.
const BlockType* FindBlockType(DType dtype);

/// Bytes of a row of `values` values of a plain or a blocked type; nothing where they are no whole blocks or do not fit
/// int64.
std::optional<int64_t> RowBytes(DType dtype, int64_t values);

}  // namespace hawser
