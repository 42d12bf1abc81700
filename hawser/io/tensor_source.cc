#include "hawser/io/tensor_source.h"

#include <iterator>

#include "hawser/base/error.h"
#include "hawser/quant/block.h"

namespace hawser {

std::optional<int64_t> TensorBytes(const std::vector<int64_t>& shape, DType dtype) {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) {
    if (shape[i] < 0 || __builtin_mul_overflow(rows, shape[i], &rows)) return std::nullopt;
  }
  const std::optional<int64_t> row = RowBytes(dtype, shape.empty() ? 1 : shape.back());
  int64_t bytes = 0;
  if (!row || __builtin_mul_overflow(rows, *row, &bytes)) return std::nullopt;
  return bytes;
}

std::string ShapeText(const std::vector<int64_t>& shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) fmt::format_to(std::back_inserter(text), "{}{}", i ? ", " : "", shape[i]);
  return text + "]";
}

void TensorSource::Add(std::string name, TensorView view) {
  const auto [at, added] = tensors_.emplace(std::move(name), std::move(view));
  if (!added) Fail(ErrorKind::kFormat, "tensor '{}' is stored twice", at->first);
}

std::span<const std::byte> TensorSource::Hold(MappedFile file) {
  files_.push_back(std::move(file));
  return files_.back().bytes();
}

void TensorSource::Merge(TensorSource other, const std::function<bool(const std::string&)>& wanted) {
  for (auto& [name, view] : other.tensors_) {
    if (wanted(name)) Add(name, std::move(view));
  }
  std::move(other.files_.begin(), other.files_.end(), std::back_inserter(files_));
}

const TensorView* TensorSource::Find(std::string_view name) const {
  const auto found = tensors_.find(name);
  return found == tensors_.end() ? nullptr : &found->second;
}

}  // namespace hawser
