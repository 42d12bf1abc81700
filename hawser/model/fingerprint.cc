#include "hawser/model/fingerprint.h"

#include <algorithm>
#include <bit>
#include <span>
#include <string>
#include <vector>

#include "hawser/base/dtype.h"
#include "hawser/base/hash.h"
#include "hawser/io/convert.h"

namespace hawser {
namespace {

constexpr size_t kSample = 64 << 10;  // bytes of a weight matrix that are hashed

template <class T>
uint64_t HashOf(const std::vector<T>& values, uint64_t seed = 0) {
  return Hash64(std::as_bytes(std::span(values)), seed);
}

/// The first `rows` of a matrix, and more while the sample is small, as BF16.
std::vector<uint16_t> SampleOf(const ConstMat& matrix, int64_t rows = 0) {
  constexpr int64_t kValues = 8192;
  std::vector<uint16_t> sample;
  std::vector<float> row(static_cast<size_t>(matrix.cols));
  const int64_t row_bytes = StoredBytes({matrix.data, matrix.dtype, 1, matrix.cols, matrix.ld});
  for (int64_t r = 0; r < matrix.rows && (r < rows || std::ssize(sample) < kValues); ++r) {
    ConvertToF32(matrix.dtype, static_cast<const std::byte*>(matrix.data) + r * row_bytes, matrix.cols, row.data());
    for (const float value : row) sample.push_back(ToBF16(value).bits);
  }
  return sample;
}

/// The same for rows of the first head in any order: their channels may be paired the other way.
uint64_t SumOfRows(const std::vector<uint16_t>& sample, int64_t cols, int64_t head_dim) {
  const auto width = static_cast<size_t>(cols);
  uint64_t sum = 0;
  for (size_t r = 0; r < static_cast<size_t>(head_dim) && (r + 1) * width <= sample.size(); ++r) {
    sum += Hash64(std::as_bytes(std::span(sample).subspan(r * width, width)));
  }
  return sum;
}

}  // namespace

uint64_t ValuesFingerprint(const Weights& model) {
  const ModelSpec& s = model.spec();
  const std::vector<int64_t> dims = {s.vocab, s.width, s.layers, s.heads, s.kv_heads, s.head_dim, s.mlp_width};
  uint64_t hash = HashOf(dims);
  const std::vector<ParamInfo>& params = model.layout().params();
  for (size_t i = 0; i < params.size(); ++i) {
    if (params[i].vector) continue;
    const bool paired = params[i].role == Role::kQuery || params[i].role == Role::kKey;
    const std::vector<uint16_t> sample = SampleOf(model.tensors()[i], paired ? s.head_dim : 0);
    hash = paired ? HashOf(std::vector<uint64_t>{SumOfRows(sample, params[i].cols, s.head_dim)}, hash)
                  : HashOf(sample, hash);
  }
  return hash;
}

uint64_t ModelFingerprint(const Weights& model) {
  const ModelSpec& s = model.spec();
  std::vector<int64_t> dims = {
      s.vocab,    s.width,     s.layers,         s.heads,          s.kv_heads,
      s.head_dim, s.mlp_width, s.sliding_window, s.tie_embeddings, static_cast<int64_t>(model.dtype())};
  uint64_t hash = HashOf(dims, std::bit_cast<uint32_t>(s.norm_eps));
  const std::string softmax = ToString(s.softmax);
  if (s.softmax != SoftmaxSpec()) hash = Hash64(std::as_bytes(std::span(softmax)), hash);
  if (!s.full_layers.empty()) hash = HashOf(s.full_layers, hash);
  if (s.segments.places > 0) hash = HashOf(s.segments.separators, hash);
  for (const ConstMat& tensor : model.tensors()) {
    const auto* begin = static_cast<const std::byte*>(tensor.data);
    hash = Hash64({begin, std::min(kSample, static_cast<size_t>(StoredBytes(tensor)))}, hash);
  }
  return hash;
}

}  // namespace hawser
