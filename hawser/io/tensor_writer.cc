#include "hawser/io/tensor_writer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/io/convert.h"
#include "hawser/quant/block.h"

namespace hawser {
namespace {

constexpr int64_t kPiece = 1 << 20;  // values converted at a time: whole blocks of every type
constexpr float kPastF16 = 65520;    // and more is infinite in F16

void CheckHeld(const TensorToWrite& tensor, const std::vector<float>& values, int64_t begin, int64_t count) {
  const bool blocked = IsBlocked(tensor.dtype);
  if (tensor.dtype != DType::kF16 && !blocked) return;
  for (int64_t i = 0; i < count; ++i) {
    const float x = values[static_cast<size_t>(i)];
    if (std::isfinite(x) ? std::fabs(x) < kPastF16 : !blocked) continue;
    Fail(ErrorKind::kNumeric, "tensor '{}': value {} is {}, which {} cannot hold; use bf16 or f32", tensor.name,
         begin + i, x, Name(tensor.dtype));
  }
}

}  // namespace

int64_t StoredBytes(const TensorToWrite& tensor) {
  HAWSER_CHECK(TensorBytes(tensor.view.shape, tensor.view.dtype) == static_cast<int64_t>(tensor.view.bytes.size()));
  const auto bytes = TensorBytes(tensor.view.shape, tensor.dtype);
  HAWSER_CHECK(bytes.has_value());
  return *bytes;
}

void AppendTensor(FileWriter& writer, const TensorToWrite& tensor) {
  const TensorView& view = tensor.view;
  if (view.dtype == tensor.dtype) {
    writer.Append(view.bytes.data(), view.bytes.size());
    return;
  }
  const int64_t piece = std::min(kPiece, view.size());
  std::vector<float> values(static_cast<size_t>(piece));
  std::vector<std::byte> stored;
  for (int64_t begin = 0; begin < view.size(); begin += piece) {
    const int64_t count = std::min(piece, view.size() - begin);
    stored.resize(static_cast<size_t>(RowBytes(tensor.dtype, count).value()));
    ConvertToF32(view.dtype, view.bytes.data() + RowBytes(view.dtype, begin).value(), count, values.data());
    CheckHeld(tensor, values, begin, count);
    ConvertFromF32(values.data(), count, tensor.dtype, stored.data());
    writer.Append(stored.data(), stored.size());
  }
}

}  // namespace hawser
