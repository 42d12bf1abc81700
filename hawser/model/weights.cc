#include "hawser/model/weights.h"

#include <array>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/quant/block.h"

namespace hawser {
namespace {

int64_t BytesOfRow(const ConstMat& m) { return RowBytes(m.dtype, m.cols).value(); }

/// Whether the rows of b follow those of a.
bool Follows(const ConstMat& a, const ConstMat& b) {
  return a.dtype == b.dtype && a.cols == b.cols &&
         static_cast<const std::byte*>(a.data) + a.rows * BytesOfRow(a) == b.data;
}

std::vector<ConstMat> ViewsOf(const ParamStore& params) {
  HAWSER_CHECK(!params.partial());
  std::vector<ConstMat> views;
  for (const ParamInfo& info : params.layout().params()) views.push_back(params.At(info));
  return views;
}

}  // namespace

int64_t StoredBytes(const ConstMat& matrix) { return matrix.rows * BytesOfRow(matrix); }

Weights::Weights(const ParamStore& params) : Weights(params.spec(), params.dtype(), ViewsOf(params), {}) {}

Weights::Weights(const ModelSpec& spec, DType activations, std::vector<ConstMat> tensors,
                 std::vector<std::shared_ptr<const void>> owners)
    : spec_(spec),
      activations_(activations),
      layout_(std::make_shared<ParamLayout>(spec)),
      tensors_(std::move(tensors)),
      owners_(std::move(owners)) {
  HAWSER_CHECK(tensors_.size() == layout_->params().size());
  for (int32_t layer = 0; layer < spec.layers; ++layer) {
    qkv_.push_back(Group(std::array{Role::kQuery, Role::kKey, Role::kValue}, layer));
    mlp_in_.push_back(spec.block.gated ? Group(std::array{Role::kGate, Role::kUp}, layer)
                                       : Group(std::array{Role::kUp}, layer));
  }
}

Weights Weights::Of(std::shared_ptr<const ParamStore> params) {
  Weights weights(*params);
  weights.owners_.push_back(std::move(params));
  return weights;
}

Weights Weights::WithSpec(const ModelSpec& spec) const { return {spec, activations_, tensors_, owners_}; }

int64_t Weights::bytes() const {
  int64_t sum = 0;
  for (const ConstMat& tensor : tensors_) sum += StoredBytes(tensor);
  return sum;
}

ConstMat Weights::Get(Role role, int32_t layer) const {
  return tensors_[static_cast<size_t>(&layout_->Find(role, layer) - layout_->params().data())];
}

ConstMat Weights::Bias(Role role, int32_t layer) const {
  const ParamInfo* info = layout_->TryFind(role, layer, Part::kBias);
  return info != nullptr ? tensors_[static_cast<size_t>(info - layout_->params().data())] : ConstMat();
}

std::vector<WeightView> Weights::Group(std::span<const Role> roles, int32_t layer) const {
  std::vector<WeightView> group;
  for (const Role role : roles) {
    const WeightView next = Linear(role, layer);
    const auto joins = [](const ConstMat& a, const ConstMat& b) {  // biases, [1, n] each
      return a.empty() ? b.empty()
                       : a.dtype == b.dtype && static_cast<const std::byte*>(a.data) + BytesOfRow(a) == b.data;
    };
    if (!group.empty() && Follows(group.back().w, next.w) && joins(group.back().bias, next.bias)) {
      group.back().w.rows += next.w.rows;
      if (!next.bias.empty()) group.back().bias.ld = group.back().bias.cols += next.bias.cols;
    } else {
      group.push_back(next);
    }
  }
  return group;
}

}  // namespace hawser
