#include "hawser/model/params.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/io/convert.h"

namespace hawser {
namespace {

constexpr int64_t kAlign = 32;  // elements: 64 bytes in BF16, 128 in F32
constexpr int kLayerRoles = static_cast<int>(Role::kDown) - static_cast<int>(Role::kAttnNorm) + 1;

/// Names inside "model.layers.N.", in the order of Role.
constexpr std::array<std::string_view, kLayerRoles> kLayerNames = {
    "input_layernorm",          "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
    "post_attention_layernorm", "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj"};

bool IsNorm(Role role) { return role == Role::kAttnNorm || role == Role::kMlpNorm || role == Role::kFinalNorm; }

/// A number for each role of each layer: the four tensors outside of layers first.
size_t Slot(Role role, int32_t layer) {
  if (role == Role::kEmbedding) return 0;
  if (role == Role::kFinalNorm) return 1;
  if (role == Role::kHead) return 2;
  if (role == Role::kPlaces) return 3;
  return 4 + static_cast<size_t>(layer) * kLayerRoles + static_cast<size_t>(role) -
         static_cast<size_t>(Role::kAttnNorm);
}

std::vector<ParamInfo> AllParams(const ModelSpec& spec) {
  Validate(spec);
  std::vector<ParamInfo> params;
  const int64_t width = spec.width;
  const int64_t q = int64_t{spec.heads} * spec.head_dim, kv = int64_t{spec.kv_heads} * spec.head_dim;
  const int64_t mlp = spec.mlp_width;
  params.reserve(static_cast<size_t>(spec.layers) * kLayerRoles + 4);
  const auto add = [&](std::string name, Role role, int32_t layer, int64_t rows, int64_t cols) {
    params.push_back({std::move(name), role, layer, rows, cols, 0, IsNorm(role)});
  };
  add("model.embed_tokens.weight", Role::kEmbedding, -1, spec.vocab, width);
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    const auto add_layer = [&](Role role, int64_t rows, int64_t cols) {
      const std::string_view name = kLayerNames[static_cast<size_t>(role) - static_cast<size_t>(Role::kAttnNorm)];
      add(fmt::format("model.layers.{}.{}.weight", layer, name), role, layer, rows, cols);
    };
    add_layer(Role::kAttnNorm, 1, width);
    add_layer(Role::kQuery, q, width);
    add_layer(Role::kKey, kv, width);
    add_layer(Role::kValue, kv, width);
    add_layer(Role::kAttnOut, width, q);
    add_layer(Role::kMlpNorm, 1, width);
    add_layer(Role::kGate, mlp, width);
    add_layer(Role::kUp, mlp, width);
    add_layer(Role::kDown, width, mlp);
  }
  add("model.norm.weight", Role::kFinalNorm, -1, 1, width);
  if (!spec.tie_embeddings) add("lm_head.weight", Role::kHead, -1, spec.vocab, width);
  if (spec.segments.places > 0) add("model.embed_places.weight", Role::kPlaces, -1, spec.segments.places, width);
  return params;
}

}  // namespace

bool ContinuesGroup(Role role) { return role == Role::kKey || role == Role::kValue || role == Role::kUp; }

ParamLayout::ParamLayout(const ModelSpec& spec) : ParamLayout(AllParams(spec)) {}

ParamLayout::ParamLayout(std::vector<ParamInfo> tensors) : params_(std::move(tensors)) {
  const auto align = [&] { size_ = (size_ + kAlign - 1) / kAlign * kAlign; };
  for (size_t i = 0; i < params_.size(); ++i) {
    ParamInfo& info = params_[i];
    if (!ContinuesGroup(info.role)) align();
    info.offset = size_;
    size_ += info.size();
    const size_t slot = Slot(info.role, info.layer);
    if (slot >= index_.size()) index_.resize(slot + 1, -1);
    index_[slot] = static_cast<int32_t>(i);
  }
  align();
}

const ParamInfo* ParamLayout::TryFind(Role role, int32_t layer) const {
  const size_t slot = Slot(role, layer);
  return slot < index_.size() && index_[slot] >= 0 ? &params_[static_cast<size_t>(index_[slot])] : nullptr;
}

const ParamInfo& ParamLayout::Find(Role role, int32_t layer) const {
  const ParamInfo* info = TryFind(role, layer);
  HAWSER_CHECK(info != nullptr);
  return *info;
}

ParamStore::ParamStore(const ModelSpec& spec, DType dtype) : ParamStore(spec, ParamLayout(spec), dtype) {
  partial_ = false;
}

ParamStore::ParamStore(const ModelSpec& spec, ParamLayout layout, DType dtype)
    : spec_(spec),
      layout_(std::make_shared<ParamLayout>(std::move(layout))),
      partial_(true),
      arena_(1, layout_->size(), dtype) {
  HAWSER_CHECK(dtype == DType::kF32 || dtype == DType::kBF16);
}

Mat ParamStore::At(const ParamInfo& info) {
  const Mat arena = arena_.view();
  char* data = static_cast<char*>(arena.data) + info.offset * static_cast<int64_t>(SizeOf(arena.dtype));
  return {data, arena.dtype, info.rows, info.cols, info.cols};
}
ConstMat ParamStore::At(const ParamInfo& info) const { return const_cast<ParamStore*>(this)->At(info); }

const ParamInfo* ParamStore::Find(Role role, int32_t layer) const {
  const ParamInfo* info = layout_->TryFind(role, layer);
  HAWSER_CHECK(info != nullptr || partial_);
  return info;
}

Mat ParamStore::Group(Role first, int32_t layer, int64_t rows) {
  const ParamInfo* info = Find(first, layer);
  if (info == nullptr) return {};
  Mat group = At(*info);
  group.rows = rows;
  return group;
}

Mat ParamStore::Get(Role role, int32_t layer) {
  const ParamInfo* info = Find(role, layer);
  return info != nullptr ? At(*info) : Mat();
}
Mat ParamStore::Qkv(int32_t layer) {
  return Group(Role::kQuery, layer, (int64_t{spec_.heads} + 2 * int64_t{spec_.kv_heads}) * spec_.head_dim);
}
Mat ParamStore::GateUp(int32_t layer) { return Group(Role::kGate, layer, 2 * int64_t{spec_.mlp_width}); }
Mat ParamStore::Head() { return Get(spec_.tie_embeddings ? Role::kEmbedding : Role::kHead); }

// The views of a const store are const; building them changes nothing.
ConstMat ParamStore::Get(Role role, int32_t layer) const { return const_cast<ParamStore*>(this)->Get(role, layer); }
ConstMat ParamStore::Qkv(int32_t layer) const { return const_cast<ParamStore*>(this)->Qkv(layer); }
ConstMat ParamStore::GateUp(int32_t layer) const { return const_cast<ParamStore*>(this)->GateUp(layer); }
ConstMat ParamStore::Head() const { return const_cast<ParamStore*>(this)->Head(); }

void InitializeParams(ParamStore& params, uint64_t seed) {
  const double residual = 1.0 / std::sqrt(2.0 * params.spec().layers);
  for (const ParamInfo& info : params.layout().params()) {
    const bool to_residual = info.role == Role::kAttnOut || info.role == Role::kDown;
    const double std = 0.02 * std::sqrt(1024.0 / params.spec().width) * (to_residual ? residual : 1.0);
    const uint64_t stream = static_cast<uint64_t>(info.role) << 32 | static_cast<uint32_t>(info.layer + 1);
    const Mat tensor = params.Get(info.role, info.layer);
    ParallelChunks(info.size(), 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Rng rng{seed, stream, static_cast<uint64_t>(2 * i)};  // a normal takes two draws
        const float value = info.vector ? 1.0f : static_cast<float>(std * rng.Normal());
        if (tensor.dtype == DType::kF32) {
          tensor.Row<float>(0)[i] = value;
        } else {
          tensor.Row<bf16>(0)[i] = ToBF16(value);
        }
      }
    });
  }
}

ParamStore Cast(const ParamStore& params, DType dtype) {
  ParamStore result =
      params.partial() ? ParamStore(params.spec(), params.layout(), dtype) : ParamStore(params.spec(), dtype);
  const auto* from = static_cast<const std::byte*>(params.arena().data);
  auto* to = static_cast<std::byte*>(result.arena().data);
  if (params.dtype() == dtype) {
    std::copy_n(from, static_cast<size_t>(params.size()) * SizeOf(dtype), to);
  } else if (dtype == DType::kF32) {
    ConvertToF32(params.dtype(), from, params.size(), reinterpret_cast<float*>(to));
  } else {
    ConvertFromF32(reinterpret_cast<const float*>(from), params.size(), dtype, to);
  }
  return result;
}

}  // namespace hawser
