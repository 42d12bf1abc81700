#include "hawser/zoo/gguf_model.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <string>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/io/convert.h"
#include "hawser/quant/block.h"
#include "hawser/zoo/gguf_families.h"
#include "hawser/zoo/gguf_rope.h"

namespace hawser {
namespace {

/// Whether the head is the embedding: there is none, or the file says so and both hold the same bytes.
bool IsTied(const GgufFile& file, const TensorView& embedding) {
  const TensorView* head = file.tensors.Find("output.weight");
  if (head == nullptr) return true;
  return file.Bool(kGgufTied).value_or(false) && head->dtype == embedding.dtype &&
         std::ranges::equal(head->bytes, embedding.bytes);
}

/// The rows [begin, begin + rows) of a matrix, or values of a vector.
TensorView RowsOf(const TensorView& view, int64_t begin, int64_t rows) {
  const int64_t cols = view.shape.size() == 2 ? view.shape[1] : 1;
  const auto bytes = static_cast<size_t>(view.shape.size() == 2 ? *RowBytes(view.dtype, cols)
                                                                : static_cast<int64_t>(SizeOf(view.dtype)));
  TensorView part{view.dtype, view.shape,
                  view.bytes.subspan(static_cast<size_t>(begin) * bytes, static_cast<size_t>(rows) * bytes)};
  part.shape[0] = rows;
  return part;
}

/// Norms w of which the file holds 1 + w.
void TakeOnes(const GgufFile& file, const ParamLayout& layout, GgufPieces* pieces) {
  const std::span<const double> rests = file.Numbers(kGgufNormRests);
  auto owned = std::make_shared<std::vector<std::vector<float>>>();
  size_t at = 0;
  for (size_t i = 0; i < layout.params().size(); ++i) {
    if (!IsNormWeight(layout.params()[i])) continue;
    TensorView& view = pieces->views[i];
    std::vector<float> values(static_cast<size_t>(view.size()));
    ConvertToF32(view.dtype, view.bytes.data(), view.size(), values.data());
    for (float& value : values) {
      const double rest = at < rests.size() ? rests[at] : 0.0, without = double{value} - 1.0;
      value = static_cast<float>(without == 0 ? rest : without + rest);
      ++at;
    }
    owned->push_back(std::move(values));
    view = {DType::kF32, view.shape, std::as_bytes(std::span(owned->back()))};
  }
  if (!rests.empty() && rests.size() != at) {
    Fail(ErrorKind::kFormat, "'{}' has {} values for {} of norms", kGgufNormRests, rests.size(), at);
  }
  pieces->owner = std::move(owned);
}

}  // namespace

ModelSpec GgufSpec(const GgufFile& file) {
  const GgufArchitecture& architecture = GgufArchitectureOf(file);
  const std::vector<std::string_view> families = GgufFamilies(architecture.name);
  const std::string_view named = file.Text(kGgufFamily).value_or(families.front());
  if (std::ranges::find(families, named) == families.end()) {
    Fail(ErrorKind::kFormat, "'{}' = '{}' is no family of architecture {}", kGgufFamily, named, architecture.name);
  }
  const Family& family = FindFamily(named);
  ModelSpec spec{.family = std::string(family.model_type), .block = family.block, .places = family.places};
  GgufKeys keys(architecture.name, &file);
  GgufNetwork(architecture, keys, spec);
  if (spec.sliding_window > 0 && !family.windows) {  // Mistral is a Llama with one
    for (const std::string_view other : families) {
      if (FindFamily(other).windows) spec.family = other;
    }
  }
  if (spec.places == Places::kRope) {
    spec.rope = ReadGgufRope(keys, spec.head_dim, spec.context, architecture.partial);
  } else {
    keys.Key("rope.dimension_count");
    keys.Key("rope.freq_base");
  }
  keys.RefuseUnknown();
  const TensorView* embedding = file.tensors.Find("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2 || embedding->shape[0] > INT32_MAX) {
    Fail(ErrorKind::kFormat, "tensor 'token_embd.weight' is missing or no matrix");
  }
  spec.vocab = static_cast<int32_t>(embedding->shape[0]);
  spec.tie_embeddings = IsTied(file, *embedding);
  const auto id = [&](std::string_view name) {
    return static_cast<int32_t>(
        file.Int(fmt::format("tokenizer.ggml.{}_token_id", name), 0, spec.vocab - 1).value_or(-1));
  };
  spec.bos = id("bos");
  for (const char* name : {"eos", "eot", "eom"}) {
    const int32_t end = id(name);
    if (end >= 0 && std::find(spec.eos.begin(), spec.eos.end(), end) == spec.eos.end()) spec.eos.push_back(end);
  }
  Validate(spec);
  return spec;
}

GgufPieces MatchGguf(const GgufFile& file, const ModelSpec& spec) {
  const ParamLayout layout(spec);
  GgufPieces pieces;
  pieces.views.resize(layout.params().size());
  std::set<std::string_view> used = {kGgufRopeFactors, kGgufLongFactors, kGgufShortFactors};
  const std::vector<GgufTensor> tensors = GgufTensors(spec, file.tensors.Find("blk.0.attn_qkv.weight") != nullptr);
  for (const GgufTensor& tensor : tensors) {
    const TensorView* view = file.tensors.Find(tensor.name);
    if (view == nullptr) Fail(ErrorKind::kFormat, "tensor '{}' {} is missing", tensor.name, ShapeText(tensor.shape));
    if (view->shape != tensor.shape) {
      Fail(ErrorKind::kFormat, "tensor '{}' has shape {}; the metadata ask for {}", tensor.name, ShapeText(view->shape),
           ShapeText(tensor.shape));
    }
    if (view->dtype == DType::kI32 || view->dtype == DType::kI64) {
      Fail(ErrorKind::kUnsupported, "tensor '{}' is stored as {}", tensor.name, Name(view->dtype));
    }
    int64_t row = 0;
    for (const size_t param : tensor.params) {
      const ParamInfo& info = layout.params()[param];
      const int64_t rows = info.vector ? info.cols : info.rows;
      pieces.views[param] = RowsOf(*view, row, rows);
      row += rows;
    }
    used.insert(tensor.name);
  }
  for (const auto& [name, view] : file.tensors.tensors()) {
    if (!used.contains(name)) {
      Fail(ErrorKind::kUnsupported, "tensor '{}' {} is not part of a model of architecture {}", name,
           ShapeText(view.shape), GgufArchitectureOf(file).name);
    }
  }
  if (spec.block.norm_plus_one) TakeOnes(file, layout, &pieces);
  return pieces;
}

}  // namespace hawser
