#include "hawser/eval/drift_pass.h"

#include <cmath>
#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"
#include "hawser/eval/drift_rows.h"
#include "hawser/model/block.h"

namespace hawser {
namespace {

constexpr int64_t kPad = 8;       // values a row of keys has beyond its end
constexpr int64_t kTileRows = 8;  // query rows whose reference attention is kept while the shifts pass by

FloatFormat FormatOf(DType dtype) {
  return dtype == DType::kF64 ? FloatFormat::kF64 : dtype == DType::kF32 ? FloatFormat::kF32 : FloatFormat::kBF16;
}

/// Elements [begin, begin + count) of a row, widened.
void ReadRow(ConstMat mat, int64_t row, int64_t begin, int64_t count, double* to) {
  if (mat.dtype == DType::kF64) {
    std::copy_n(mat.Row<double>(row) + begin, count, to);
  } else if (mat.dtype == DType::kF32) {
    std::copy_n(mat.Row<float>(row) + begin, count, to);
  } else {
    const bf16* from = mat.Row<bf16>(row) + begin;
    for (int64_t i = 0; i < count; ++i) to[i] = ToF32(from[i]);
  }
}

/// The same back, rounded to the matrix's dtype.
void WriteRow(const double* from, int64_t count, Mat mat, int64_t row, int64_t begin) {
  for (int64_t i = 0; i < count; ++i) {
    if (mat.dtype == DType::kF64) {
      mat.Row<double>(row)[begin + i] = from[i];
    } else if (mat.dtype == DType::kF32) {
      mat.Row<float>(row)[begin + i] = static_cast<float>(from[i]);
    } else {
      mat.Row<bf16>(row)[begin + i] = ToBF16(static_cast<float>(from[i]));
    }
  }
}

}  // namespace

DriftPass::Table::Table(const RopeSpec& rope, const RopeNumerics& rounding, int64_t shift, int64_t tokens)
    : numerics(rounding) {
  RopeSpec spec = rope;
  spec.numerics = rounding;
  const RopeFrequencies frequencies = ComputeFrequencies(spec, 0);
  half = static_cast<int64_t>(frequencies.inv_freq.size());
  std::vector<int64_t> positions(static_cast<size_t>(tokens));
  std::iota(positions.begin(), positions.end(), shift);
  cos.resize(static_cast<size_t>(tokens * half));
  sin.resize(cos.size());
  FillRopeTableF64(frequencies, positions.data(), tokens, cos.data(), sin.data());
}

void DriftPass::Table::Rotate(RopePairing pairing, int64_t t, int64_t dim, FloatFormat store, double* x) const {
  for (int64_t i = 0; i < half; ++i) {
    const int64_t a = pairing == RopePairing::kHalf ? i : 2 * i;
    const int64_t b = pairing == RopePairing::kHalf ? i + half : 2 * i + 1;
    const RopePair pair = RotatePair(numerics.math, x[a], x[b], cos[t * half + i], sin[t * half + i]);
    x[a] = pair.low;
    x[b] = pair.high;
  }
  for (int64_t c = 0; c < dim; ++c) x[c] = RoundTo(store, x[c]);
}

DriftPass::DriftPass(Backend* backend, const ParamStore& weights, const DriftOptions& options, int64_t tokens,
                     std::span<const int64_t> lengths)
    : spec_(weights.spec()),
      options_(options),
      tokens_(tokens),
      lengths_(lengths),
      backend_(backend),
      weights_(weights),
      work_(&backend_),
      ends_(&backend_, &weights_, &work_) {
  const RopeNumerics exact = ParseRopeNumerics("f64");
  const FloatFormat activations = FormatOf(options.dtype);
  const auto side = [&](bool rounded) { return rounded ? options.numerics : exact; };
  for (int64_t s = 0; s < streams(); ++s) {
    const int64_t shift = s == 0 ? options.reference : options.deltas[s - 1];
    query_tables_.emplace_back(spec_.rope, side(options.side != DriftSide::kKeys), shift, tokens);
    key_tables_.emplace_back(spec_.rope, side(options.side != DriftSide::kQueries), shift, tokens);
  }
  query_store_ = query_tables_[0].numerics.qk.value_or(activations);
  key_store_ = key_tables_[0].numerics.qk.value_or(activations);
  const int64_t qkv = (int64_t{spec_.heads} + 2 * spec_.kv_heads) * spec_.head_dim;
  for (int64_t s = 0; s < hidden_streams(); ++s) {
    x_.emplace_back(tokens, spec_.width, options.dtype);
    qkv_.emplace_back(tokens, qkv, options.dtype);
    attn_out_.emplace_back(tokens, int64_t{spec_.heads} * spec_.head_dim, options.dtype);
  }
}

double DriftPass::Scale() const {
  return spec_.attn_scale > 0 ? double{spec_.attn_scale} : 1 / std::sqrt(static_cast<double>(spec_.head_dim));
}

void DriftPass::Begin(const std::vector<int32_t>& ids) {
  for (Matrix& x : x_) ends_.Embed(ids.data(), /*places=*/nullptr, x.view());
}

void DriftPass::Layer(int32_t layer, std::vector<HeadDrift>* drift) {
  const BlockContext context{.backend = &backend_, .work = &work_, .weights = &weights_};
  window_ = std::min<int64_t>(OwnPattern(spec_).OfLayer(layer, spec_.layers).window, tokens_);
  for (size_t s = 0; s < x_.size(); ++s) BlockQkv(context, layer, x_[s].view(), qkv_[s].view());
  drift->assign(static_cast<size_t>(spec_.heads), {});
  ParallelFor(spec_.heads, [&](int64_t h) { (*drift)[h] = Head(h); });
  for (size_t s = 0; s < x_.size(); ++s) BlockFinish(context, layer, attn_out_[s].view(), x_[s].view());
}

DriftPass::HeadRows DriftPass::Rows(int64_t head, int64_t stream) const {
  const int64_t dim = spec_.head_dim, group = head / (spec_.heads / spec_.kv_heads), ld = tokens_ + kPad;
  const ConstMat qkv = qkv_[options_.mode == DriftMode::kFree ? stream : 0].view();
  HeadRows rows;
  rows.q.resize(static_cast<size_t>(tokens_ * dim));
  rows.k.resize(static_cast<size_t>(ld * dim));
  rows.v.resize(static_cast<size_t>(tokens_ * dim));
  std::vector<double> key(static_cast<size_t>(dim));
  for (int64_t t = 0; t < tokens_; ++t) {
    double* q = rows.q.data() + t * dim;
    ReadRow(qkv, t, head * dim, dim, q);
    query_tables_[stream].Rotate(spec_.rope.pairing, t, dim, query_store_, q);
    ReadRow(qkv, t, (spec_.heads + group) * dim, dim, key.data());
    key_tables_[stream].Rotate(spec_.rope.pairing, t, dim, key_store_, key.data());
    for (int64_t c = 0; c < dim; ++c) rows.k[c * ld + t] = key[c];
    ReadRow(qkv, t, (spec_.heads + spec_.kv_heads + group) * dim, dim, rows.v.data() + t * dim);
  }
  return rows;
}

/// Attention of rows [begin, end), at most kTileRows, to p [end - begin, tokens + kPad]; with `output` also what it
/// reads of the values.
void DriftPass::Attend(const HeadRows& rows, int64_t head, int64_t stream, int64_t begin, int64_t end, bool output,
                       double* p) {
  const int64_t ld = tokens_ + kPad, dim = spec_.head_dim;
  double out[kRowTile * 256];
  for (int64_t t = begin; t < end;) {
    double* to = p + (t - begin) * ld;
    const int64_t count = t + kRowTile <= end && FirstKey(t + kRowTile - 1) == 0 ? kRowTile : 1;
    if (count == kRowTile) {
      SoftmaxRowTile(rows.q.data() + t * dim, rows.k.data(), ld, dim, Scale(), t + 1, to, ld);
      if (output) WeightedSumTile(to, ld, rows.v.data(), dim, t + 1, out);
    } else {
      SoftmaxRow(rows.q.data() + t * dim, rows.k.data(), ld, dim, Scale(), FirstKey(t), t + 1, to);
      if (output) WeightedSum(to, rows.v.data(), dim, FirstKey(t), t + 1, out);
    }
    for (int64_t r = 0; output && r < count; ++r) {
      WriteRow(out + r * dim, dim, attn_out_[stream].view(), t + r, head * dim);
    }
    t += count;
  }
}

/// Logit of the first key.
double DriftPass::FirstLogit(const HeadRows& rows, int64_t t) const {
  double sum = 0;
  for (int64_t c = 0; c < spec_.head_dim; ++c) {
    sum += rows.q[t * spec_.head_dim + c] * rows.k[c * (tokens_ + kPad)];
  }
  return sum * Scale();
}

HeadDrift DriftPass::Head(int64_t head) {
  std::vector<HeadRows> rows;
  for (int64_t s = 0; s < streams(); ++s) rows.push_back(Rows(head, s));
  HeadDrift drift;
  drift.column.assign(static_cast<size_t>(shifts()), std::vector<double>(static_cast<size_t>(tokens_)));
  drift.column_abs = drift.column;
  const int64_t ld = tokens_ + kPad;
  std::vector<double> reference(static_cast<size_t>(kTileRows * ld)), shifted(reference.size());
  for (int64_t begin = 0; begin < tokens_; begin += kTileRows) {
    const int64_t end = std::min(begin + kTileRows, tokens_);
    Attend(rows[0], head, 0, begin, end, /*output=*/true, reference.data());
    for (int64_t s = 1; s < streams(); ++s) {
      Attend(rows[s], head, s, begin, end, options_.mode == DriftMode::kFree, shifted.data());
      for (int64_t t = begin; t < end; ++t) {
        const int64_t from = (t - begin) * ld;
        AddDifference(shifted.data() + from, reference.data() + from, FirstKey(t), t + 1, drift.column[s - 1].data(),
                      drift.column_abs[s - 1].data());
      }
    }
  }
  for (int64_t s = 1; s < streams(); ++s) Weigh(drift, s - 1);
  for (int64_t s = 1; s < streams(); ++s) drift.logits.push_back(Logits(rows[0], rows[s]));
  return drift;
}

/// Column sums to their parts of D, D_abs and D_l1.
void DriftPass::Weigh(HeadDrift& drift, int64_t shift) const {
  std::vector<double>&column = drift.column[shift], &magnitude = drift.column_abs[shift];
  DriftSums sums;
  for (int64_t j = 0; j < tokens_; ++j) {
    const double n = 1.0 / static_cast<double>(std::min(tokens_ - j, window_));
    column[j] *= n;
    const double l1 = magnitude[j] * n;
    magnitude[j] = std::abs(column[j]);
    if (j == 0) sums = {.first = column[j], .first_abs = magnitude[j], .first_l1 = l1};
    sums.d += column[j];
    sums.abs += magnitude[j];
    sums.l1 += l1;
  }
  drift.sums.push_back(sums);
}

std::vector<DriftLogit> DriftPass::Logits(const HeadRows& reference, const HeadRows& shifted) const {
  std::vector<DriftLogit> logits;
  double sum = 0, magnitude = 0;
  int64_t t = 0;
  for (const int64_t length : lengths_) {
    for (; t < std::min(length, window_); ++t) {
      const double difference = FirstLogit(shifted, t) - FirstLogit(reference, t);
      sum += difference;
      magnitude += std::abs(difference);
    }
    const auto rows = static_cast<double>(std::min(length, window_));
    logits.push_back({length, sum / rows, magnitude / rows});
  }
  return logits;
}

}  // namespace hawser
