// io/tensor_writer.h - tensors on their way into a file, converted piece by piece.
#pragma once

#include <string>

#include "hawser/base/file.h"
#include "hawser/io/tensor_source.h"

namespace hawser {

/// A tensor to be written as `dtype`: equal to view.dtype, or a type that values are rounded to. Rows of a blocked type
/// are whole blocks.
struct TensorToWrite {
  std::string name;
  TensorView view;
  DType dtype = DType::kF32;
};

/// Bytes that it takes in the file. Errors: kInternal for a view whose size differs from its shape, or broken blocks.
int64_t StoredBytes(const TensorToWrite& tensor);

/// Appends the values of the tensor, without more memory than for a piece of them. Errors: kNumeric naming the tensor
/// for a value that its type cannot hold: one beyond 65504 in F16 and blocked types, whose scales are F16, and one that
/// is not finite in blocked types.
void AppendTensor(FileWriter& writer, const TensorToWrite& tensor);

}  // namespace hawser
