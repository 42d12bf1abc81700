#include "hawser/model/params.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>

#include "hawser/base/parallel.h"
#include "hawser/base/rng.h"
#include "hawser/base/streams.h"
#include "hawser/io/convert.h"

namespace hawser {
namespace {

constexpr int64_t kAlign = 32;  // elements: 64 bytes in BF16, 128 in F32
using Spec = const ModelSpec&;

/// One tensor that a model may have: the table from which layouts, counts and FLOPs follow.
struct TensorRow {
  Role role;
  Part part;
  std::string_view name;
  int64_t (*rows)(Spec);
  int64_t (*cols)(Spec);
  bool (*present)(Spec);
};

int64_t One(Spec) { return 1; }
int64_t Width(Spec s) { return s.width; }
int64_t Heads(Spec s) { return int64_t{s.heads} * s.head_dim; }
int64_t KvHeads(Spec s) { return int64_t{s.kv_heads} * s.head_dim; }
int64_t MlpWidth(Spec s) { return s.mlp_width; }
int64_t Vocab(Spec s) { return s.vocab; }
int64_t PlaceRows(Spec s) { return s.segments.places; }
int64_t QueryNormCols(Spec s) { return s.block.qk_norm == QkNorm::kHead ? s.head_dim : Heads(s); }
int64_t KeyNormCols(Spec s) { return s.block.qk_norm == QkNorm::kHead ? s.head_dim : KvHeads(s); }

bool Always(Spec) { return true; }
bool PreNorm(Spec s) { return s.block.pre_norms; }
bool PreNormBias(Spec s) { return s.block.pre_norms && s.block.norm_bias; }
bool MlpNorm(Spec s) { return s.block.pre_norms && s.block.residual != Residual::kParallelOneNorm; }
bool MlpNormBias(Spec s) { return MlpNorm(s) && s.block.norm_bias; }
bool PostNorm(Spec s) { return s.block.post_norms; }
bool PostNormBias(Spec s) { return s.block.post_norms && s.block.norm_bias; }
bool NormBias(Spec s) { return s.block.norm_bias; }
bool EmbeddingNorm(Spec s) { return s.embedding_norm; }
bool EmbeddingNormBias(Spec s) { return s.embedding_norm && s.block.norm_bias; }
bool QkvBias(Spec s) { return s.block.qkv_bias; }
bool OutBias(Spec s) { return s.block.out_bias; }
bool MlpBias(Spec s) { return s.block.mlp_bias; }
bool QkNormed(Spec s) { return s.block.qk_norm != QkNorm::kNone; }
bool Gated(Spec s) { return s.block.gated; }
bool GateBias(Spec s) { return s.block.gated && s.block.mlp_bias; }
bool Untied(Spec s) { return !s.tie_embeddings; }
bool Segmented(Spec s) { return s.segments.places > 0; }

constexpr Part kW = Part::kWeight, kB = Part::kBias;

constexpr TensorRow kFirst[] = {
    {Role::kEmbedding, kW, "model.embed_tokens", Vocab, Width, Always},
    {Role::kEmbeddingNorm, kW, "model.embed_norm", One, Width, EmbeddingNorm},
    {Role::kEmbeddingNorm, kB, "model.embed_norm", One, Width, EmbeddingNormBias},
};
/// Of each layer, inside "model.layers.N.".
constexpr TensorRow kOfLayer[] = {
    {Role::kAttnNorm, kW, "input_layernorm", One, Width, PreNorm},
    {Role::kAttnNorm, kB, "input_layernorm", One, Width, PreNormBias},
    {Role::kQuery, kW, "self_attn.q_proj", Heads, Width, Always},
    {Role::kKey, kW, "self_attn.k_proj", KvHeads, Width, Always},
    {Role::kValue, kW, "self_attn.v_proj", KvHeads, Width, Always},
    {Role::kQuery, kB, "self_attn.q_proj", One, Heads, QkvBias},
    {Role::kKey, kB, "self_attn.k_proj", One, KvHeads, QkvBias},
    {Role::kValue, kB, "self_attn.v_proj", One, KvHeads, QkvBias},
    {Role::kQueryNorm, kW, "self_attn.q_norm", One, QueryNormCols, QkNormed},
    {Role::kKeyNorm, kW, "self_attn.k_norm", One, KeyNormCols, QkNormed},
    {Role::kAttnOut, kW, "self_attn.o_proj", Width, Heads, Always},
    {Role::kAttnOut, kB, "self_attn.o_proj", One, Width, OutBias},
    {Role::kAttnPostNorm, kW, "post_attn_branch_norm", One, Width, PostNorm},
    {Role::kAttnPostNorm, kB, "post_attn_branch_norm", One, Width, PostNormBias},
    {Role::kMlpNorm, kW, "post_attention_layernorm", One, Width, MlpNorm},
    {Role::kMlpNorm, kB, "post_attention_layernorm", One, Width, MlpNormBias},
    {Role::kGate, kW, "mlp.gate_proj", MlpWidth, Width, Gated},
    {Role::kUp, kW, "mlp.up_proj", MlpWidth, Width, Always},
    {Role::kGate, kB, "mlp.gate_proj", One, MlpWidth, GateBias},
    {Role::kUp, kB, "mlp.up_proj", One, MlpWidth, MlpBias},
    {Role::kDown, kW, "mlp.down_proj", Width, MlpWidth, Always},
    {Role::kDown, kB, "mlp.down_proj", One, Width, MlpBias},
    {Role::kMlpPostNorm, kW, "post_mlp_branch_norm", One, Width, PostNorm},
    {Role::kMlpPostNorm, kB, "post_mlp_branch_norm", One, Width, PostNormBias},
};
constexpr TensorRow kLast[] = {
    {Role::kFinalNorm, kW, "model.norm", One, Width, Always},
    {Role::kFinalNorm, kB, "model.norm", One, Width, NormBias},
    {Role::kHead, kW, "lm_head", Vocab, Width, Untied},
    {Role::kPlaces, kW, "model.embed_places", PlaceRows, Width, Segmented},
};

bool IsNorm(Role role) {
  switch (role) {
    case Role::kAttnNorm:
    case Role::kMlpNorm:
    case Role::kFinalNorm:
    case Role::kQueryNorm:
    case Role::kKeyNorm:
    case Role::kAttnPostNorm:
    case Role::kMlpPostNorm:
    case Role::kEmbeddingNorm:
      return true;
    default:
      return false;
  }
}

/// A number for each part of each role of each layer.
size_t Slot(Role role, int32_t layer, Part part) {
  constexpr size_t kRoles = static_cast<size_t>(Role::kEmbeddingNorm) + 1;
  constexpr size_t kParts = static_cast<size_t>(Part::kAdapterB) + 1;
  return (static_cast<size_t>(layer + 1) * kRoles + static_cast<size_t>(role)) * kParts + static_cast<size_t>(part);
}

std::vector<ParamInfo> AllParams(const ModelSpec& spec) {
  Validate(spec);
  std::vector<ParamInfo> params;
  const auto add = [&](std::span<const TensorRow> rows, int32_t layer) {
    const std::string scope = layer >= 0 ? fmt::format("model.layers.{}.", layer) : "";
    for (const TensorRow& row : rows) {
      if (!row.present(spec)) continue;
      params.push_back({.name = fmt::format("{}{}.{}", scope, row.name, row.part == Part::kBias ? "bias" : "weight"),
                        .role = row.role,
                        .layer = layer,
                        .rows = row.rows(spec),
                        .cols = row.cols(spec),
                        .vector = row.part == Part::kBias || IsNorm(row.role),
                        .part = row.part});
    }
  };
  add(kFirst, -1);
  for (int32_t layer = 0; layer < spec.layers; ++layer) add(kOfLayer, layer);
  add(kLast, -1);
  return params;
}

}  // namespace

bool ContinuesGroup(const ParamInfo& info, const ParamInfo& before) {
  const auto kind = [](Part part) { return part == Part::kAdapterB ? Part::kAdapterA : part; };  // A and B alternate
  if (info.layer != before.layer || kind(info.part) != kind(before.part)) return false;
  const auto follows = [&](Role role, Role previous) { return info.role == role && before.role == previous; };
  return follows(Role::kKey, Role::kQuery) || follows(Role::kValue, Role::kKey) || follows(Role::kUp, Role::kGate);
}

ParamLayout::ParamLayout(const ModelSpec& spec) : ParamLayout(AllParams(spec)) {}

ParamLayout::ParamLayout(std::vector<ParamInfo> tensors) : params_(std::move(tensors)) {
  const auto align = [&] { size_ = (size_ + kAlign - 1) / kAlign * kAlign; };
  for (size_t i = 0; i < params_.size(); ++i) {
    ParamInfo& info = params_[i];
    if (i == 0 || !ContinuesGroup(info, params_[i - 1])) align();
    info.offset = size_;
    size_ += info.size();
    const size_t slot = Slot(info.role, info.layer, info.part);
    if (slot >= index_.size()) index_.resize(slot + 1, -1);
    HAWSER_CHECK(index_[slot] < 0);
    index_[slot] = static_cast<int32_t>(i);
  }
  align();
}

const ParamInfo* ParamLayout::TryFind(Role role, int32_t layer, Part part) const {
  const size_t slot = Slot(role, layer, part);
  return slot < index_.size() && index_[slot] >= 0 ? &params_[static_cast<size_t>(index_[slot])] : nullptr;
}

const ParamInfo& ParamLayout::Find(Role role, int32_t layer, Part part) const {
  const ParamInfo* info = TryFind(role, layer, part);
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

ParamStore ParamStore::WithSpec(ModelSpec spec) && {
  HAWSER_CHECK(partial_ || ParamLayout(spec).size() == size());
  spec_ = std::move(spec);
  return std::move(*this);
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

/// The view of a whole group; empty where the store is partial or the model has no such part.
Mat ParamStore::Group(Role first, int32_t layer, Part part, int64_t rows) {
  const ParamInfo* info = part == Part::kWeight ? Find(first, layer) : layout_->TryFind(first, layer, part);
  if (info == nullptr) return {};
  Mat group = At(*info);
  if (part == Part::kBias) {
    group.cols = group.ld = rows;
  } else {
    group.rows = rows;
  }
  return group;
}

Mat ParamStore::Get(Role role, int32_t layer) {
  const ParamInfo* info = Find(role, layer);
  return info != nullptr ? At(*info) : Mat();
}
Mat ParamStore::Bias(Role role, int32_t layer) {
  const ParamInfo* info = layout_->TryFind(role, layer, Part::kBias);
  return info != nullptr ? At(*info) : Mat();
}
Mat ParamStore::Qkv(int32_t layer) {
  return Group(Role::kQuery, layer, Part::kWeight, Heads(spec_) + 2 * KvHeads(spec_));
}
Mat ParamStore::QkvBias(int32_t layer) {
  return Group(Role::kQuery, layer, Part::kBias, Heads(spec_) + 2 * KvHeads(spec_));
}
Mat ParamStore::MlpIn(int32_t layer) {
  return spec_.block.gated ? Group(Role::kGate, layer, Part::kWeight, 2 * int64_t{spec_.mlp_width})
                           : Get(Role::kUp, layer);
}
Mat ParamStore::MlpInBias(int32_t layer) {
  return spec_.block.gated ? Group(Role::kGate, layer, Part::kBias, 2 * int64_t{spec_.mlp_width})
                           : Bias(Role::kUp, layer);
}
Mat ParamStore::Head() { return Get(spec_.tie_embeddings ? Role::kEmbedding : Role::kHead); }

// The views of a const store are const; building them changes nothing.
ConstMat ParamStore::Get(Role role, int32_t layer) const { return const_cast<ParamStore*>(this)->Get(role, layer); }
ConstMat ParamStore::Qkv(int32_t layer) const { return const_cast<ParamStore*>(this)->Qkv(layer); }
ConstMat ParamStore::QkvBias(int32_t layer) const { return const_cast<ParamStore*>(this)->QkvBias(layer); }
ConstMat ParamStore::MlpIn(int32_t layer) const { return const_cast<ParamStore*>(this)->MlpIn(layer); }
ConstMat ParamStore::MlpInBias(int32_t layer) const { return const_cast<ParamStore*>(this)->MlpInBias(layer); }
ConstMat ParamStore::Bias(Role role, int32_t layer) const { return const_cast<ParamStore*>(this)->Bias(role, layer); }
ConstMat ParamStore::Head() const { return const_cast<ParamStore*>(this)->Head(); }

int64_t NumParameters(const ModelSpec& spec) {
  int64_t sum = 0;
  for (const ParamInfo& info : AllParams(spec)) sum += info.size();
  return sum;
}

int64_t MatrixParameters(const ModelSpec& spec) {
  int64_t sum = spec.tie_embeddings ? Vocab(spec) * spec.width : 0;  // the embedding is multiplied with as the head
  for (const ParamInfo& info : AllParams(spec)) {
    if (!info.vector && info.role != Role::kEmbedding && info.role != Role::kPlaces) sum += info.size();
  }
  return sum;
}

void InitializeParams(ParamStore& params, uint64_t seed) {
  const double residual = 1.0 / std::sqrt(2.0 * params.spec().layers);
  for (const ParamInfo& info : params.layout().params()) {
    const bool to_residual = info.role == Role::kAttnOut || info.role == Role::kDown;
    const double std = 0.02 * std::sqrt(1024.0 / params.spec().width) * (to_residual ? residual : 1.0);
    const uint64_t stream = streams::Tensor(static_cast<uint32_t>(info.role), info.layer);
    const Mat tensor = params.At(info);
    const float constant = info.part == Part::kBias || params.spec().block.norm_plus_one ? 0.0f : 1.0f;
    ParallelChunks(info.size(), 1 << 14, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        Rng rng{seed, stream, static_cast<uint64_t>(2 * i)};  // a normal takes two draws
        const float value = info.vector ? constant : static_cast<float>(std * rng.Normal());
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
