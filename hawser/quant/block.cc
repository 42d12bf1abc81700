#include "hawser/quant/block.h"

#include <array>

#include "hawser/quant/types.h"

namespace hawser {
namespace {

constexpr std::array<const BlockType*, 10> kTypes = {&kQ8_0Type, &kQ4_0Type, &kQ4_1Type, &kQ5_0Type, &kQ5_1Type,
                                                     &kQ2KType,  &kQ3KType,  &kQ4KType,  &kQ5KType,  &kQ6KType};

}  // namespace

std::span<const BlockType* const> BlockTypes() { return kTypes; }

const BlockType* FindBlockType(DType dtype) {
  for (const BlockType* type : kTypes) {
    if (type->dtype == dtype) return type;
  }
  return nullptr;
}

std::optional<int64_t> RowBytes(DType dtype, int64_t values) {
  const BlockType* type = FindBlockType(dtype);
  const int64_t per = type != nullptr ? type->values : 1;
  const auto size = static_cast<int64_t>(type != nullptr ? static_cast<size_t>(type->bytes) : SizeOf(dtype));
  int64_t bytes = 0;
  if (values < 0 || values % per != 0 || __builtin_mul_overflow(values / per, size, &bytes)) return std::nullopt;
  return bytes;
}

}  // namespace hawser
