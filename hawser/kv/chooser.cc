#include "hawser/kv/chooser.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"

namespace hawser {
namespace {

std::vector<float> HostRows(Backend* backend, ConstMat m) {
  std::vector<float> rows(static_cast<size_t>(m.rows * m.cols));
  if (!rows.empty()) backend->Download(m, rows.data());
  return rows;
}

Matrix WideRows(const ChunkQueries& queries, int64_t count) {
  Matrix wide = queries.backend->NewMatrix(count, queries.q.cols, DType::kF32);
  queries.backend->Copy(queries.q.Rows(queries.q.rows - count, count), wide);
  return wide;
}

/// Scores of one query become weights over the first `seen`; the others weigh nothing.
void SoftmaxRow(float scale, float cap, int64_t seen, std::span<float> row) {
  float most = -INFINITY;
  for (int64_t s = 0; s < seen; ++s) {
    float& score = row[static_cast<size_t>(s)];
    score *= scale;
    if (cap > 0) score = cap * std::tanh(score / cap);
    most = std::max(most, score);
  }
  double sum = 0;
  for (int64_t s = 0; s < seen; ++s) sum += row[static_cast<size_t>(s)] = std::exp(row[static_cast<size_t>(s)] - most);
  for (int64_t s = 0; s < seen; ++s) row[static_cast<size_t>(s)] /= static_cast<float>(sum);
  std::fill(row.begin() + seen, row.end(), 0.0f);
}

}  // namespace

std::vector<float> ChunkQueries::Plain() const { return HostRows(backend, WideRows(*this, q.rows)); }

std::vector<float> ChunkQueries::Rotated(int64_t count) const {
  Matrix wide = WideRows(*this, count);
  const int64_t skipped = q.rows - count;
  RopeArgs args = rope;
  args.x = wide;
  if (rope.half > 0) {
    args.cos += skipped * rope.half;
    args.sin += skipped * rope.half;
    if (rope.row_scale != nullptr) args.row_scale += skipped;
    backend->Rope(args);
  }
  return HostRows(backend, wide);
}

std::unique_ptr<KeyChooser> MakeKeyChooser(const KvForm& form, const ChooserShape& shape) {
  return std::visit(
      [&]<class Kind>(const Kind& kind) -> std::unique_ptr<KeyChooser> {
        if constexpr (KvChosen<Kind>) {
          HAWSER_CHECK(shape.heads > 0 && shape.heads % shape.kv_heads == 0);
          return MakeChooser(kind, shape);
        }
        return nullptr;
      },
      form.kind);
}

std::vector<int32_t> GreatestSlots(std::span<const float> scores, int64_t count) {
  std::vector<int32_t> slots(scores.size());
  std::iota(slots.begin(), slots.end(), 0);
  if (count >= static_cast<int64_t>(slots.size())) return slots;
  const auto value = [&](int32_t slot) {
    const float score = scores[static_cast<size_t>(slot)];
    return std::isnan(score) ? -INFINITY : score;
  };
  const auto before = [&](int32_t a, int32_t b) { return value(a) != value(b) ? value(a) > value(b) : a < b; };
  std::ranges::nth_element(slots, slots.begin() + count, before);
  slots.resize(static_cast<size_t>(count));
  std::ranges::sort(slots);
  return slots;
}

void RecentQueries::Observe(const ChunkQueries& queries) {
  columns_ = queries.q.cols;
  coming_ = queries.Rotated(std::min(most_, queries.q.rows));
}

void RecentQueries::Commit() {
  const int64_t excess = static_cast<int64_t>(queries_.size() + coming_.size()) - most_ * columns_;
  if (excess > 0) queries_.erase(queries_.begin(), queries_.begin() + excess);
  queries_.insert(queries_.end(), coming_.begin(), coming_.end());
  coming_.clear();
}

void RecentQueries::Clear() {
  queries_.clear();
  coming_.clear();
}

std::vector<std::vector<float>> RecentQueries::MeanWeights(const ChooserShape& shape, const HeldRows& held) const {
  const int64_t slots = held.keys.rows, count = std::min(rows(), slots);
  if (count == 0) return {};
  Matrix queries = held.backend->NewMatrix(count, columns_, DType::kF32);
  held.backend->Upload(queries_.data() + (rows() - count) * columns_, queries);
  Matrix scores = held.backend->NewMatrix(count, slots, DType::kF32);
  std::vector<std::vector<float>> means;
  for (int32_t head = 0; head < shape.heads; ++head) {
    held.backend->MatMul({.a = queries.view().Cols(int64_t{head} * shape.head_dim, shape.head_dim),
                          .b = held.keys.Cols(int64_t{head / shape.group()} * shape.head_dim, shape.head_dim),
                          .trans_b = true,
                          .c = scores});
    std::vector<float> weights = HostRows(held.backend, scores);
    ParallelFor(count, [&](int64_t row) {
      SoftmaxRow(shape.scale, shape.cap, slots - count + row + 1,
                 std::span(weights).subspan(static_cast<size_t>(row * slots), static_cast<size_t>(slots)));
    });
    std::vector<double> sum(static_cast<size_t>(slots));
    for (int64_t row = 0; row < count; ++row) {
      const float* of = weights.data() + row * slots;
      for (int64_t s = 0; s < slots; ++s) sum[static_cast<size_t>(s)] += double{of[s]};
    }
    std::vector<float>& mean = means.emplace_back(sum.size());
    std::ranges::transform(sum, mean.begin(),
                           [&](double total) { return static_cast<float>(total / static_cast<double>(count)); });
  }
  return means;
}

}  // namespace hawser
