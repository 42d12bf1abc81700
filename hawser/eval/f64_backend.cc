#include "hawser/eval/f64_backend.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "hawser/base/error.h"
#include "hawser/base/parallel.h"

namespace hawser {
namespace {

constexpr int64_t kRows = 32;  // of a piece

/// body(row) for every row.
template <class Body>
void ForRows(int64_t rows, Body&& body) {
  ParallelChunks(rows, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) body(r);
  });
}

/// A row of weights, or null where there is none.
const float* WeightRow(ConstMat m, int64_t row = 0) {
  if (m.empty()) return nullptr;
  HAWSER_CHECK(m.dtype == DType::kF32);
  return m.Row<float>(row);
}

double Activated(Act act, double z) {
  switch (act) {
    case Act::kSilu:
      return z / (1 + std::exp(-z));
    case Act::kGelu:
      return z / 2 * std::erfc(-z / std::numbers::sqrt2);
    case Act::kGeluTanh:
      return z / 2 * (1 + std::tanh(std::sqrt(2 / std::numbers::pi) * (z + 0.044715 * z * z * z)));
    case Act::kRelu:
      return std::max(z, 0.0);
  }
  return z;
}

/// A piece of a row, as ops/backend.h has it.
void NormPiece(const NormArgs& args, const double* x, int64_t n, double* y) {
  double mean = 0, squares = 0;
  if (args.kind == NormKind::kLayer) {
    for (int64_t c = 0; c < n; ++c) mean += x[c];
    mean /= static_cast<double>(n);
  }
  for (int64_t c = 0; c < n; ++c) squares += (x[c] - mean) * (x[c] - mean);
  const double scale = 1 / std::sqrt(squares / static_cast<double>(n) + double{args.eps});
  const float *weight = WeightRow(args.weight), *bias = WeightRow(args.bias);
  for (int64_t c = 0; c < n; ++c) {
    y[c] = (x[c] - mean) * scale * (args.plus_one ? 1 + double{weight[c]} : double{weight[c]});
    if (bias != nullptr) y[c] += bias[c];
  }
}

}  // namespace

void F64Backend::Copy(ConstMat from, Mat to) {
  if (from.dtype != DType::kF64) return ForwardingBackend::Copy(from, to);
  ForRows(to.rows, [&](int64_t r) { std::copy_n(from.Row<double>(r), to.cols, to.Row<double>(r)); });
}

void F64Backend::Add(ConstMat x, Mat y) {
  if (x.dtype != DType::kF64) return ForwardingBackend::Add(x, y);
  ForRows(y.rows, [&](int64_t r) {
    for (int64_t c = 0; c < y.cols; ++c) y.Row<double>(r)[c] += x.Row<double>(r)[c];
  });
}

void F64Backend::Clamp(Mat x, float limit) {
  if (x.dtype != DType::kF64) return ForwardingBackend::Clamp(x, limit);
  ForRows(x.rows, [&](int64_t r) {
    for (int64_t c = 0; c < x.cols; ++c) {
      double& value = x.Row<double>(r)[c];
      value = std::clamp(value, -double{limit}, double{limit});
    }
  });
}

void F64Backend::EmbedForward(ConstMat table, const int32_t* ids, Mat y, float scale) {
  if (y.dtype != DType::kF64) return ForwardingBackend::EmbedForward(table, ids, y, scale);
  ForRows(y.rows, [&](int64_t r) {
    const float* from = WeightRow(table, ids[r]);
    for (int64_t c = 0; c < y.cols; ++c) y.Row<double>(r)[c] = double{scale} * from[c];
  });
}

void F64Backend::Linear(const LinearArgs& args) {
  if (args.x.dtype != DType::kF64) return ForwardingBackend::Linear(args);
  const float* bias = WeightRow(args.bias);
  // A row of weights meets all rows of a piece while it is near.
  ParallelChunks(args.x.rows, kRows, [&](int64_t begin, int64_t end) {
    for (int64_t o = 0; o < args.w.rows; ++o) {
      const float* row = WeightRow(args.w, o);
      for (int64_t r = begin; r < end; ++r) {
        const double* from = args.x.Row<double>(r);
        double sum = 0;
#pragma omp simd reduction(+ : sum)
        for (int64_t c = 0; c < args.x.cols; ++c) sum += from[c] * static_cast<double>(row[c]);
        args.y.Row<double>(r)[o] = sum + (bias != nullptr ? bias[o] : 0.0);
      }
    }
  });
}

void F64Backend::NormForward(const NormArgs& args) {
  if (args.x.dtype != DType::kF64) return ForwardingBackend::NormForward(args);
  HAWSER_CHECK(args.rstd == nullptr);
  const int64_t piece = args.x.cols / args.heads;
  ForRows(args.x.rows, [&](int64_t r) {
    for (int64_t c = 0; c < args.x.cols; c += piece) {
      NormPiece(args, args.x.Row<double>(r) + c, piece, args.y.Row<double>(r) + c);
    }
  });
}

void F64Backend::ActForward(const ActArgs& args) {
  if (args.in.dtype != DType::kF64) return ForwardingBackend::ActForward(args);
  ForRows(args.y.rows, [&](int64_t r) {
    const double* in = args.in.Row<double>(r);
    double* y = args.y.Row<double>(r);
    for (int64_t c = 0; c < args.y.cols; ++c) {
      y[c] = Activated(args.act, in[c]) * (args.gated ? in[args.y.cols + c] : 1.0);
    }
  });
}

}  // namespace hawser
