// io/gguf_types.h - the numbers of GGUF files that reader and writer share. For this room alone.
#pragma once

#include <array>
#include <cstdint>
#include <utility>

#include "hawser/base/dtype.h"

namespace hawser {

inline constexpr int64_t kGgufAlignment = 32;  // where the file names none

/// Of a value of the metadata.
enum GgufValueType : uint32_t {
  kGgufU8,
  kGgufI8,
  kGgufU16,
  kGgufI16,
  kGgufU32,
  kGgufI32,
  kGgufF32,
  kGgufBool,
  kGgufText,
  kGgufArray,
  kGgufU64,
  kGgufI64,
  kGgufF64
};

/// Of tensors of plain types; those of blocked ones stand with them (quant/block.h).
inline constexpr std::array<std::pair<uint32_t, DType>, 6> kGgufPlainTypes = {
    {{0, DType::kF32}, {1, DType::kF16}, {26, DType::kI32}, {27, DType::kI64}, {28, DType::kF64}, {30, DType::kBF16}}};

}  // namespace hawser
