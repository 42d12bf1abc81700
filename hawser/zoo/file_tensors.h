// zoo/file_tensors.h - which tensors the files of a family hold, and which parameters lie in each.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "hawser/model/params.h"

namespace hawser {

/// A run of values that a tensor of a file and a parameter share, in elements from their starts.
struct TensorPiece {
  size_t param = 0;  // in ParamLayout::params()
  int64_t param_begin = 0, file_begin = 0, size = 0;
};

struct FileTensor {
  std::vector<std::string> names;   // the first is written, all are read
  std::vector<int64_t> shape;       // norms and biases are [C]
  std::vector<TensorPiece> pieces;  // in the order of the file; they cover it
};

/// The tensors of a Hugging Face folder of this model. Every value of each parameter lies in one of them. A tied model
/// may hold its one matrix under the name of the head. `bare`: without the prefix of the family, as some files have
/// them.
std::vector<FileTensor> FileTensors(const ModelSpec& spec, bool bare = false);

}  // namespace hawser
