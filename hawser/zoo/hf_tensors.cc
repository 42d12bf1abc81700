#include "hawser/zoo/hf_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <span>
#include <string_view>

#include "hawser/base/error.h"
#include "hawser/base/text.h"
#include "hawser/io/convert.h"
#include "hawser/io/safetensors.h"
#include "hawser/zoo/families.h"
#include "hawser/zoo/file_tensors.h"
#include "hawser/zoo/hf_files.h"

namespace hawser {
namespace {

constexpr int64_t kPiece = 1 << 14;  // values compared at once

bool Has(const std::filesystem::path& folder, const char* name) {
  std::error_code code;
  return std::filesystem::exists(folder / name, code);
}

bool IsFloat(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16 || dtype == DType::kF64;
}

void CheckFloat(std::string_view name, const TensorView& view) {
  if (IsFloat(view.dtype)) return;
  Fail(ErrorKind::kUnsupported, "tensor '{}' is stored as {}; supported are f32, bf16, f16 and f64", name,
       Name(view.dtype));
}

std::vector<float> Values(const TensorView& view, int64_t begin, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count));
  ConvertToF32(view.dtype, view.bytes.data() + begin * static_cast<int64_t>(SizeOf(view.dtype)), count, values.data());
  return values;
}

bool SameValues(const TensorView& a, const TensorView& b) {
  if (a.dtype == b.dtype) return std::ranges::equal(a.bytes, b.bytes);
  for (int64_t begin = 0; begin < a.size(); begin += kPiece) {
    const int64_t count = std::min(kPiece, a.size() - begin);
    if (Values(a, begin, count) != Values(b, begin, count)) return false;
  }
  return true;
}

/// Largest error of a rounding to `dtype`, relative; far more than what arithmetic in f32 leaves.
double Tolerance(DType dtype) { return dtype == DType::kBF16 ? 1e-2 : dtype == DType::kF16 ? 2e-3 : 1e-5; }

bool HoldsFrequencies(const TensorView& view, const RopeSpec& rope, int64_t context) {
  const std::vector<double> wanted = ComputeFrequencies(rope, context).inv_freq;
  if (view.size() != static_cast<int64_t>(wanted.size())) return false;
  const std::vector<float> found = Values(view, 0, view.size());
  for (size_t i = 0; i < wanted.size(); ++i) {
    const double error = Tolerance(view.dtype) * wanted[i] + (view.dtype == DType::kF16 ? 1e-7 : 0);
    if (!(std::abs(found[i] - wanted[i]) <= error)) return false;
  }
  return true;
}

void CheckRotaryTable(std::string_view name, const TensorView& view, const ModelSpec& spec) {
  CheckFloat(name, view);
  RopeSpec plain = spec.rope, baked = BakeNtk(spec.rope);
  plain.scaling = baked.scaling = {};
  for (RopeSpec rope : {plain, baked, spec.rope}) {
    rope.numerics = {};
    if (HoldsFrequencies(view, rope, spec.context)) return;
  }
  Fail(ErrorKind::kFormat,
       "tensor '{}' {} holds other frequencies than those of rope \"{}\" in config.json; correct rope_theta and "
       "rope_scaling, or delete the tensor",
       name, ShapeText(view.shape), ToString(spec.rope));
}

/// A tensor under the first of its names that is there; else no view, and the name that it should have.
struct Found {
  std::string_view name;
  const TensorView* view;
};
Found Find(const TensorSource& source, const FileTensor& tensor) {
  for (const std::string& name : tensor.names) {
    if (const TensorView* view = source.Find(name)) return {name, view};
  }
  return {tensor.names.front(), nullptr};
}
Found Find(const TensorSource&, FileTensor&&) = delete;  // Found::name lies in the tensor

/// With or without the prefix of the family, as the file has it.
std::vector<FileTensor> TensorsIn(const TensorSource& source, const ModelSpec& spec) {
  const std::vector<FileTensor> bare = FileTensors(spec, true);
  if (source.Find(bare.front().names.front()) != nullptr) return bare;
  return FileTensors(spec);
}

}  // namespace

bool HasHfTensors(const std::filesystem::path& folder) { return Has(folder, kWeights) || Has(folder, kIndex); }

TensorSource OpenHfTensors(const std::filesystem::path& folder) {
  const auto has = [&](const char* name) { return Has(folder, name); };
  if (has("adapter_config.json")) {
    Fail(ErrorKind::kUnsupported,
         "{}: a model with an adapter (adapter_config.json) beside it is not supported; merge the adapter into the "
         "weights, or move it elsewhere",
         folder.string());
  }
  if (has(kWeights)) return ReadSafetensors(folder / kWeights);
  if (has(kIndex)) return ReadShardedSafetensors(folder / kIndex);
  Fail(ErrorKind::kIo, "{}: neither {} nor {} in this folder{}", folder.string(), kWeights, kIndex,
       has("pytorch_model.bin") ? "; convert pytorch_model.bin to safetensors first" : "");
}

bool HasOwnHead(const TensorSource& source, const ModelSpec& spec) {
  ModelSpec untied = spec;
  untied.tie_embeddings = false;
  untied.segments = {};
  const std::vector<FileTensor> tensors = TensorsIn(source, untied);
  const Found embedding = Find(source, tensors.front()), head = Find(source, tensors.back());
  if (head.view == nullptr || embedding.view == nullptr) return false;
  if (head.view->shape != embedding.view->shape) {
    Fail(ErrorKind::kFormat, "tensor '{}' has shape {}, the embedding {}", head.name, ShapeText(head.view->shape),
         ShapeText(embedding.view->shape));
  }
  CheckFloat(head.name, *head.view);
  CheckFloat(embedding.name, *embedding.view);
  return !SameValues(*head.view, *embedding.view);
}

std::vector<std::vector<TensorView>> MatchHfTensors(const TensorSource& source, const ModelSpec& spec) {
  std::vector<std::vector<TensorView>> pieces(ParamLayout(spec).params().size());
  std::vector<std::string_view> known;
  const std::vector<FileTensor> tensors = TensorsIn(source, spec);
  for (const FileTensor& tensor : tensors) {
    const auto [name, view] = Find(source, tensor);
    if (view == nullptr) {
      Fail(ErrorKind::kFormat, "tensor '{}' is missing; config.json asks for shape {}", name, ShapeText(tensor.shape));
    }
    if (view->shape != tensor.shape) {
      Fail(ErrorKind::kFormat, "tensor '{}' has shape {}; config.json asks for {}", name, ShapeText(view->shape),
           ShapeText(tensor.shape));
    }
    CheckFloat(name, *view);
    const size_t size = SizeOf(view->dtype);
    for (const TensorPiece& piece : tensor.pieces) {
      const auto begin = static_cast<size_t>(piece.file_begin) * size, bytes = static_cast<size_t>(piece.size) * size;
      pieces[piece.param].push_back({view->dtype, {piece.size}, view->bytes.subspan(begin, bytes)});
    }
    // One tensor under two names is one matrix stored twice (HasOwnHead); else the second is no part of the model.
    if (spec.tie_embeddings && &tensor == &tensors.front()) {
      known.insert(known.end(), tensor.names.begin(), tensor.names.end());
    } else {
      known.push_back(name);
    }
  }
  std::sort(known.begin(), known.end());
  const std::span<const std::string_view> ignored = FindFamily(spec.family).ignored;
  for (const auto& [name, view] : source.tensors()) {
    if (std::binary_search(known.begin(), known.end(), name)) continue;
    if (std::ranges::any_of(ignored, [&name = name](std::string_view glob) { return GlobMatch(glob, name); })) continue;
    if (name.ends_with("rotary_emb.inv_freq") && spec.places == Places::kRope) {
      CheckRotaryTable(name, view, spec);
      continue;
    }
    Fail(ErrorKind::kFormat, "tensor '{}' {} is not part of the model that config.json describes", name,
         ShapeText(view.shape));
  }
  return pieces;
}

}  // namespace hawser
