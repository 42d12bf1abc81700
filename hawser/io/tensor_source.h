// io/tensor_source.h - named tensors of one or more mapped files.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/base/dtype.h"
#include "hawser/base/file.h"

namespace hawser {

/// Row-major, little-endian, not necessarily aligned.
struct TensorView {
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // empty: a scalar
  std::span<const std::byte> bytes;

  /// Elements; the product of a checked shape.
  int64_t size() const {
    int64_t product = 1;
    for (const int64_t dim : shape) product *= dim;
    return product;
  }
};

/// Bytes of a dense tensor; nothing if a dimension is negative, the last is no whole number of blocks of a blocked
/// type, or the product leaves int64.
std::optional<int64_t> TensorBytes(const std::vector<int64_t>& shape, DType dtype);

/// "[32, 64]"
std::string ShapeText(const std::vector<int64_t>& shape);

/// Tensors by name, with the maps that their views point into. Movable.
class TensorSource {
 public:
  using Tensors = std::map<std::string, TensorView, std::less<>>;

  /// Errors: kFormat for a name that is there already.
  void Add(std::string name, TensorView view);
  /// Keeps `file` mapped as long as this lives. Returns its bytes.
  std::span<const std::byte> Hold(MappedFile file);
  /// Takes the files of `other` and those of its tensors that `wanted` accepts. Errors: as Add.
  void Merge(TensorSource other, const std::function<bool(const std::string&)>& wanted);

  const Tensors& tensors() const { return tensors_; }
  const TensorView* Find(std::string_view name) const;
  const std::vector<MappedFile>& files() const { return files_; }

  /// Free text that came with the file (safetensors `__metadata__`).
  std::map<std::string, std::string> metadata;

 private:
  std::vector<MappedFile> files_;
  Tensors tensors_;
};

}  // namespace hawser
