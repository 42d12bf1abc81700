// Expected Attention (arXiv:2510.00636): queries to come are taken to be normal, with the mean m and the covariance C
// of the prompt's queries before rotation, rotated by R, the mean rotation of the next `future` places. Of each query
// head
//   z[s] = scale <R m, k[s]> + scale^2 / 2 k[s]^T (R C R^T) k[s],   a = softmax(z) over all keys but the sinks
//   score[s] = |v[s]| * mean over the query heads of a key head of a[s]
// The first `sinks` tokens stay, and their queries do not count. A cap of scores does not enter.
#include <algorithm>
#include <cmath>
#include <limits>

#include "hawser/base/parallel.h"
#include "hawser/kv/chooser.h"

namespace hawser {
namespace {

/// Sums over queries, of each head.
struct QueryMoments {
  int64_t count = 0;
  std::vector<double> first;   // [H*D]
  std::vector<double> second;  // [H][D][D], lower triangles; empty: not wanted

  void Add(const QueryMoments& other) {
    if (count == 0) {
      *this = other;
      return;
    }
    count += other.count;
    for (size_t i = 0; i < first.size(); ++i) first[i] += other.first[i];
    for (size_t i = 0; i < second.size(); ++i) second[i] += other.second[i];
  }
};

class ExpectedChooser final : public KeyChooser {
 public:
  ExpectedChooser(const KvExpected& form, const ChooserShape& shape) : form_(form), shape_(shape) {}

  void Observe(const ChunkQueries& queries) override {
    const int64_t dim = shape_.head_dim, columns = queries.q.cols;
    const int64_t skip = std::clamp<int64_t>(form_.sinks - queries.first, 0, queries.q.rows);
    coming_ = {};
    coming_.count = queries.q.rows - skip;
    if (coming_.count == 0) return;
    coming_.first.resize(static_cast<size_t>(columns));
    if (form_.covariance) coming_.second.resize(static_cast<size_t>(columns * dim));
    const std::vector<float> rows = queries.Plain();
    ParallelFor(shape_.heads, [&](int64_t head) {
      double* first = coming_.first.data() + head * dim;
      for (int64_t row = skip; row < queries.q.rows; ++row) {
        const float* q = rows.data() + row * columns + head * dim;
        for (int64_t i = 0; i < dim; ++i) first[i] += double{q[i]};
        if (!form_.covariance) continue;
        double* second = coming_.second.data() + head * dim * dim;
        for (int64_t i = 0; i < dim; ++i, second += dim) {
          for (int64_t j = 0; j <= i; ++j) second[j] += double{q[i]} * double{q[j]};
        }
      }
    });
  }
  void Commit() override {
    if (coming_.count > 0) sum_.Add(coming_);
    coming_ = {};
  }
  void RollBack() override { coming_ = {}; }
  void Clear() override { sum_ = coming_ = {}; }

  std::vector<std::vector<float>> Scores(const HeldRows& held) const override {
    const int64_t slots = held.keys.rows, dim = shape_.head_dim, sinks = std::min(form_.sinks, slots);
    const auto size = static_cast<size_t>(slots * held.keys.cols);
    std::vector<float> keys(size), values(size);
    held.backend->Download(held.keys, keys.data());
    if (form_.norms) held.backend->Download(held.values, values.data());
    const Rotation future = FutureRotation(held);
    std::vector<std::vector<float>> scores;
    for (int32_t g = 0; g < shape_.kv_heads; ++g) {
      std::vector<double> sum(static_cast<size_t>(slots));
      for (int32_t h = g * shape_.group(); sum_.count > 0 && h < (g + 1) * shape_.group(); ++h) {
        AddWeights(held, keys, future, g, h, sinks, &sum);
      }
      std::vector<float>& of = scores.emplace_back(sum.size(), std::numeric_limits<float>::infinity());
      for (int64_t s = sinks; s < slots; ++s) {
        double norm = 1;
        if (form_.norms) {
          const float* v = values.data() + s * held.values.cols + g * dim;
          norm = 0;
          for (int64_t i = 0; i < dim; ++i) norm += double{v[i]} * double{v[i]};
          norm = std::sqrt(norm);
        }
        of[static_cast<size_t>(s)] = static_cast<float>(sum[static_cast<size_t>(s)] / shape_.group() * norm);
      }
    }
    return scores;
  }

 private:
  /// Pair (a, b) -> (cos a - sin b, cos b + sin a), and what is in no pair times `rest`.
  struct Rotation {
    std::vector<double> cos, sin;
    double rest = 1;
    RopePairing pairing = RopePairing::kHalf;
    template <class At>  // at(i): element i of what is rotated
    void Apply(int64_t dim, At&& at) const {
      const auto half = static_cast<int64_t>(cos.size());
      for (int64_t i = 0; i < half; ++i) {
        const bool adjacent = pairing == RopePairing::kAdjacent;
        double &a = at(adjacent ? 2 * i : i), &b = at(adjacent ? 2 * i + 1 : i + half);
        const double x = a, c = cos[static_cast<size_t>(i)], s = sin[static_cast<size_t>(i)];
        a = c * x - s * b;
        b = c * b + s * x;
      }
      for (int64_t i = 2 * half; i < dim; ++i) at(i) *= rest;
    }
  };

  Rotation FutureRotation(const HeldRows& held) const {
    Rotation mean{.pairing = held.pairing};
    std::vector<int64_t> places(static_cast<size_t>(form_.future));
    double scales = 0;
    for (size_t i = 0; i < places.size(); ++i) {
      places[i] = held.seen + static_cast<int64_t>(i);
      scales += held.query_scale != nullptr ? double{held.query_scale->At(places[i])} : 1.0;
    }
    mean.rest = scales / static_cast<double>(places.size());
    if (held.frequencies == nullptr) return mean;
    const size_t half = held.frequencies->inv_freq.size();
    std::vector<float> cos(places.size() * half), sin(cos.size());
    FillRopeTable(*held.frequencies, places.data(), form_.future, cos.data(), sin.data());
    mean.cos.resize(half);
    mean.sin.resize(half);
    for (size_t p = 0; p < places.size(); ++p) {
      const double scale = held.query_scale != nullptr ? double{held.query_scale->At(places[p])} : 1.0;
      for (size_t i = 0; i < half; ++i) {
        mean.cos[i] += scale * double{cos[p * half + i]} / static_cast<double>(places.size());
        mean.sin[i] += scale * double{sin[p * half + i]} / static_cast<double>(places.size());
      }
    }
    return mean;
  }

  /// Adds the weights that query head h is expected to give.
  void AddWeights(const HeldRows& held, const std::vector<float>& keys, const Rotation& future, int32_t g, int32_t h,
                  int64_t sinks, std::vector<double>* sum) const {
    const int64_t slots = held.keys.rows, dim = shape_.head_dim, columns = held.keys.cols;
    const auto width = static_cast<size_t>(dim);
    const auto count = static_cast<double>(sum_.count);
    std::vector<double> mean(width);
    for (size_t i = 0; i < width; ++i) mean[i] = sum_.first[static_cast<size_t>(h) * width + i] / count;
    std::vector<double> spread(form_.covariance ? width * width : 0);
    if (form_.covariance) {
      const double* second = sum_.second.data() + static_cast<size_t>(h) * width * width;
      for (size_t i = 0; i < width; ++i) {
        for (size_t j = 0; j <= i; ++j) {
          spread[i * width + j] = spread[j * width + i] = second[i * width + j] / count - mean[i] * mean[j];
        }
      }
      for (size_t j = 0; j < width; ++j) {
        future.Apply(dim, [&](int64_t i) -> double& { return spread[static_cast<size_t>(i) * width + j]; });
      }
      for (size_t i = 0; i < width; ++i) {
        future.Apply(dim, [&](int64_t j) -> double& { return spread[i * width + static_cast<size_t>(j)]; });
      }
    }
    future.Apply(dim, [&](int64_t i) -> double& { return mean[static_cast<size_t>(i)]; });

    Matrix spread_keys = held.backend->NewMatrix(slots, dim, DType::kF32);
    std::vector<float> product(static_cast<size_t>(form_.covariance ? slots * dim : 0));
    if (form_.covariance) {
      const std::vector<float> narrow(spread.begin(), spread.end());
      Matrix matrix = held.backend->NewMatrix(dim, dim, DType::kF32);
      held.backend->Upload(narrow.data(), matrix);
      held.backend->MatMul({.a = held.keys.Cols(g * dim, dim), .b = matrix, .c = spread_keys});
      held.backend->Download(spread_keys, product.data());
    }
    const double scale = double{shape_.scale};
    std::vector<double> z(static_cast<size_t>(slots));
    ParallelFor(slots, [&](int64_t s) {
      const float* k = keys.data() + s * columns + g * dim;
      double first = 0, second = 0;
      for (int64_t i = 0; i < dim; ++i) first += mean[static_cast<size_t>(i)] * double{k[i]};
      for (int64_t i = 0; form_.covariance && i < dim; ++i) {
        second += double{product[static_cast<size_t>(s * dim + i)]} * double{k[i]};
      }
      z[static_cast<size_t>(s)] = scale * first + scale * scale / 2 * second;
    });
    const auto scored = std::span(z).subspan(static_cast<size_t>(sinks));
    const double most = scored.empty() ? 0 : *std::ranges::max_element(scored);
    double total = 0;
    for (double& x : scored) total += x = std::exp(x - most);
    for (size_t s = 0; s < scored.size(); ++s) (*sum)[static_cast<size_t>(sinks) + s] += scored[s] / total;
  }

  KvExpected form_;
  ChooserShape shape_;
  QueryMoments sum_, coming_;
};

}  // namespace

std::unique_ptr<KeyChooser> MakeChooser(const KvExpected& form, const ChooserShape& shape) {
  return std::make_unique<ExpectedChooser>(form, shape);
}

}  // namespace hawser
