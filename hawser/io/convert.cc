#include "hawser/io/convert.h"

#include <algorithm>
#include <cstring>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/quant/block.h"

namespace hawser {
namespace {

constexpr int64_t kGrain = 1 << 16;

template <class T, class Value>
void Read(const std::byte* bytes, int64_t count, float* out, Value value) {
  ParallelChunks(count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      T element;
      std::memcpy(&element, bytes + i * static_cast<int64_t>(sizeof(T)), sizeof(T));
      out[i] = value(element);
    }
  });
}

/// `count` is whole blocks.
void ReadBlocks(const BlockType& type, const std::byte* bytes, int64_t count, float* out) {
  HAWSER_CHECK(count % type.values == 0);
  ParallelChunks(count / type.values, kGrain / type.values, [&](int64_t begin, int64_t end) {
    type.decode(bytes + begin * type.bytes, end - begin, out + begin * type.values);
  });
}

void WriteBlocks(const BlockType* type, const float* x, int64_t count, std::byte* bytes) {
  HAWSER_CHECK(type != nullptr && type->encode != nullptr && count % type->values == 0);
  ParallelChunks(count / type->values, std::max<int64_t>(1, (kGrain >> 4) / type->values),
                 [&](int64_t begin, int64_t end) {
                   type->encode(x + begin * type->values, end - begin, bytes + begin * type->bytes);
                 });
}

template <class Value>
void Write(const float* x, int64_t count, std::byte* bytes, Value value) {
  ParallelChunks(count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const auto element = value(x[i]);
      std::memcpy(bytes + i * static_cast<int64_t>(sizeof(element)), &element, sizeof(element));
    }
  });
}

}  // namespace

void ConvertToF32(DType dtype, const std::byte* bytes, int64_t count, float* out) {
  const auto cast = [](auto x) { return static_cast<float>(x); };
  switch (dtype) {
    case DType::kF32:
      if (count > 0) std::memcpy(out, bytes, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBF16:
      return Read<bf16>(bytes, count, out, [](bf16 x) { return ToF32(x); });
    case DType::kF16:
      return Read<uint16_t>(bytes, count, out, F16ToF32);
    case DType::kF64:
      return Read<double>(bytes, count, out, cast);
    case DType::kI32:
      return Read<int32_t>(bytes, count, out, cast);
    case DType::kI64:
      return Read<int64_t>(bytes, count, out, cast);
    case DType::kU8:
      return Read<uint8_t>(bytes, count, out, cast);
    default:
      return ReadBlocks(*FindBlockType(dtype), bytes, count, out);
  }
}

void ConvertFromF32(const float* x, int64_t count, DType dtype, std::byte* bytes) {
  switch (dtype) {
    case DType::kF32:
      if (count > 0) std::memcpy(bytes, x, static_cast<size_t>(count) * sizeof(float));
      return;
    case DType::kBF16:
      return Write(x, count, bytes, ToBF16);
    case DType::kF16:
      return Write(x, count, bytes, F32ToF16);
    case DType::kF64:
      return Write(x, count, bytes, [](float v) { return static_cast<double>(v); });
    default:
      return WriteBlocks(FindBlockType(dtype), x, count, bytes);
  }
}

}  // namespace hawser
