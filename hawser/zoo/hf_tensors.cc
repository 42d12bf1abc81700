#include "hawser/zoo/hf_tensors.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string_view>

#include "hawser/base/error.h"
#include "hawser/io/convert.h"
#include "hawser/io/safetensors.h"

namespace hawser {
namespace {

constexpr const char* kWeights = "model.safetensors";
constexpr const char* kIndex = "model.safetensors.index.json";
constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
constexpr std::string_view kHead = "lm_head.weight";
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

}  // namespace

std::vector<int64_t> FileShape(const ParamInfo& info) {
  if (info.vector) return {info.cols};
  return {info.rows, info.cols};
}

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

bool HasOwnHead(const TensorSource& source) {
  const TensorView* head = source.Find(kHead);
  const TensorView* embedding = source.Find(kEmbedding);
  if (head == nullptr || embedding == nullptr) return false;
  if (head->shape != embedding->shape) {
    Fail(ErrorKind::kFormat, "tensor '{}' has shape {}, the embedding {}", kHead, ShapeText(head->shape),
         ShapeText(embedding->shape));
  }
  CheckFloat(kHead, *head);
  CheckFloat(kEmbedding, *embedding);
  return !SameValues(*head, *embedding);
}

std::vector<TensorView> MatchHfTensors(const TensorSource& source, const ModelSpec& spec) {
  const ParamLayout layout(spec);
  std::vector<TensorView> views;
  std::vector<std::string_view> known;
  for (const ParamInfo& info : layout.params()) {
    const TensorView* view = source.Find(info.name);
    if (view == nullptr && info.role == Role::kEmbedding && spec.tie_embeddings) view = source.Find(kHead);
    const std::vector<int64_t> wanted = FileShape(info);
    if (view == nullptr) {
      Fail(ErrorKind::kFormat, "tensor '{}' is missing; config.json asks for shape {}", info.name, ShapeText(wanted));
    }
    if (view->shape != wanted) {
      Fail(ErrorKind::kFormat, "tensor '{}' has shape {}; config.json asks for {}", info.name, ShapeText(view->shape),
           ShapeText(wanted));
    }
    CheckFloat(info.name, *view);
    views.push_back(*view);
    known.push_back(info.name);
  }
  if (spec.tie_embeddings) known.push_back(kHead);  // the embedding once more (HasOwnHead)
  std::sort(known.begin(), known.end());
  for (const auto& [name, view] : source.tensors()) {
    if (std::binary_search(known.begin(), known.end(), name)) continue;
    if (name.ends_with("rotary_emb.inv_freq")) {
      CheckRotaryTable(name, view, spec);
      continue;
    }
    Fail(ErrorKind::kFormat, "tensor '{}' {} is not part of the model that config.json describes", name,
         ShapeText(view.shape));
  }
  return views;
}

}  // namespace hawser
