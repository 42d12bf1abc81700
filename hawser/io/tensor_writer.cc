#include "hawser/io/tensor_writer.h"

#include <algorithm>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/io/convert.h"
#include "hawser/quant/block.h"

namespace hawser {
namespace {

constexpr int64_t kPiece = 1 << 20;  // values converted at a time: whole blocks of every type

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
    ConvertFromF32(values.data(), count, tensor.dtype, stored.data());
    writer.Append(stored.data(), stored.size());
  }
}

}  // namespace hawser
