#include "hawser/quant/block.h"

#include <array>

#include "hawser/quant/types-inl.h"

namespace hawser {
namespace {

struct ToRow {
  template <class R>
  static constexpr BlockType Of() {
    BlockType row{R::kDType, R::kName, R::kGguf, R::kValues, R::kBytes, R::kGroup, R::kOffset, R::Decode, nullptr};
    if constexpr (requires { &R::Encode; }) row.encode = R::Encode;
    return row;
  }
};
constexpr std::array kRows = AllBlockTypes::Map<ToRow>();

static_assert([] {
  for (size_t i = 0; i < kRows.size(); ++i) {
    const size_t dtype = static_cast<size_t>(DType::kQ8_0) + i;
    if (static_cast<size_t>(kRows[i].dtype) != dtype || kDTypes[dtype].name != kRows[i].name) return false;
  }
  return static_cast<size_t>(DType::kQ8_0) + kRows.size() == std::size(kDTypes);
}());

constexpr std::array kTypes = [] {
  std::array<const BlockType*, kRows.size()> types{};
  for (size_t i = 0; i < kRows.size(); ++i) types[i] = &kRows[i];
  return types;
}();

}  // namespace

std::span<const BlockType* const> BlockTypes() { return kTypes; }

const BlockType* FindBlockType(DType dtype) {
  return IsBlocked(dtype) ? kTypes[static_cast<size_t>(dtype) - static_cast<size_t>(DType::kQ8_0)] : nullptr;
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
