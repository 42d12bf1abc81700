#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "hawser/eval/drift_rows.cc"
#include "hawser/eval/drift_rows.h"

#include "hwy/foreach_target.h"  // must come before highway.h
// clang-format off
#include "hwy/highway.h"
#include "hwy/contrib/math/math-inl.h"
// clang-format on

#include <algorithm>
#include <limits>

HWY_BEFORE_NAMESPACE();
namespace hawser {
namespace HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;
using D = hn::CappedTag<double, 8>;
using V = hn::Vec<D>;

HWY_INLINE int64_t Lanes() { return static_cast<int64_t>(hn::Lanes(D())); }

/// p[j] = softmax of the scores p[j], j in [begin, end).
HWY_INLINE void FinishRow(int64_t begin, int64_t end, double* p) {
  const D d;
  const int64_t whole = begin + (end - begin) / Lanes() * Lanes();
  V top = hn::Set(d, -std::numeric_limits<double>::infinity());
  for (int64_t j = begin; j < whole; j += Lanes()) top = hn::Max(top, hn::LoadU(d, p + j));
  HWY_ALIGN double rest[8];
  double max = whole > begin ? hn::GetLane(hn::MaxOfLanes(d, top)) : p[begin];
  for (int64_t j = whole; j < end; ++j) max = std::max(max, p[j]);
  V sums = hn::Zero(d);
  double sum = 0;
  const V shift = hn::Set(d, max);
  for (int64_t j = begin; j < whole; j += Lanes()) {
    const V e = hn::Exp(d, hn::Sub(hn::LoadU(d, p + j), shift));
    hn::StoreU(e, d, p + j);
    sums = hn::Add(sums, e);
  }
  if (whole < end) {
    std::fill_n(rest, 8, max);
    std::copy(p + whole, p + end, rest);
    hn::Store(hn::Exp(d, hn::Sub(hn::Load(d, rest), shift)), d, rest);
    std::copy_n(rest, end - whole, p + whole);
    for (int64_t j = whole; j < end; ++j) sum += p[j];
  }
  sum += hn::GetLane(hn::SumOfLanes(d, sums));
  const V factor = hn::Set(d, 1 / sum);
  for (int64_t j = begin; j < whole; j += Lanes()) hn::StoreU(hn::Mul(hn::LoadU(d, p + j), factor), d, p + j);
  for (int64_t j = whole; j < end; ++j) p[j] *= 1 / sum;
}

void SoftmaxRowImpl(const double* q, const double* keys, int64_t ld, int64_t dim, double scale, int64_t begin,
                    int64_t end, double* p) {
  const D d;
  const int64_t whole = begin + (end - begin) / Lanes() * Lanes();
  HWY_ALIGN double rest[8];
  for (int64_t j = begin; j < end; j += Lanes()) {
    V s = hn::Zero(d);
    for (int64_t c = 0; c < dim; ++c) s = hn::MulAdd(hn::Set(d, q[c]), hn::LoadU(d, keys + c * ld + j), s);
    s = hn::Mul(s, hn::Set(d, scale));
    if (j < whole) {
      hn::StoreU(s, d, p + j);
    } else {
      hn::Store(s, d, rest);
      std::copy_n(rest, end - j, p + j);
    }
  }
  FinishRow(begin, end, p);
}

void SoftmaxRowTileImpl(const double* q, const double* keys, int64_t ld, int64_t dim, double scale, int64_t end,
                        double* p, int64_t p_ld) {
  static_assert(kRowTile == 4);
  const D d;
  const V factor = hn::Set(d, scale);
  const int64_t last = end + kRowTile - 1, width = Lanes();
  int64_t j = 0;
  for (; j + 2 * width <= last; j += 2 * width) {
    V a0 = hn::Zero(d), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;
    for (int64_t c = 0; c < dim; ++c) {
      const V k0 = hn::LoadU(d, keys + c * ld + j), k1 = hn::LoadU(d, keys + c * ld + j + width);
      V x = hn::Set(d, q[c]);
      a0 = hn::MulAdd(x, k0, a0);
      a1 = hn::MulAdd(x, k1, a1);
      x = hn::Set(d, q[dim + c]);
      b0 = hn::MulAdd(x, k0, b0);
      b1 = hn::MulAdd(x, k1, b1);
      x = hn::Set(d, q[2 * dim + c]);
      c0 = hn::MulAdd(x, k0, c0);
      c1 = hn::MulAdd(x, k1, c1);
      x = hn::Set(d, q[3 * dim + c]);
      d0 = hn::MulAdd(x, k0, d0);
      d1 = hn::MulAdd(x, k1, d1);
    }
    hn::StoreU(hn::Mul(a0, factor), d, p + j);
    hn::StoreU(hn::Mul(a1, factor), d, p + j + width);
    hn::StoreU(hn::Mul(b0, factor), d, p + p_ld + j);
    hn::StoreU(hn::Mul(b1, factor), d, p + p_ld + j + width);
    hn::StoreU(hn::Mul(c0, factor), d, p + 2 * p_ld + j);
    hn::StoreU(hn::Mul(c1, factor), d, p + 2 * p_ld + j + width);
    hn::StoreU(hn::Mul(d0, factor), d, p + 3 * p_ld + j);
    hn::StoreU(hn::Mul(d1, factor), d, p + 3 * p_ld + j + width);
  }
  for (; j < last; j += width) {
    for (int64_t r = 0; r < kRowTile; ++r) {
      V s = hn::Zero(d);
      for (int64_t c = 0; c < dim; ++c) {
        s = hn::MulAdd(hn::Set(d, q[r * dim + c]), hn::LoadU(d, keys + c * ld + j), s);
      }
      hn::StoreU(hn::Mul(s, factor), d, p + r * p_ld + j);
    }
  }
  for (int64_t r = 0; r < kRowTile; ++r) {
    FinishRow(0, end + r, p + r * p_ld);
    std::fill(p + r * p_ld + end + r, p + r * p_ld + last, 0.0);
  }
}

void AddDifferenceImpl(const double* a, const double* b, int64_t begin, int64_t end, double* sum, double* magnitude) {
  const D d;
  int64_t j = begin;
  for (; j + Lanes() <= end; j += Lanes()) {
    const V difference = hn::Sub(hn::LoadU(d, a + j), hn::LoadU(d, b + j));
    hn::StoreU(hn::Add(hn::LoadU(d, sum + j), difference), d, sum + j);
    hn::StoreU(hn::Add(hn::LoadU(d, magnitude + j), hn::Abs(difference)), d, magnitude + j);
  }
  for (; j < end; ++j) {
    sum[j] += a[j] - b[j];
    magnitude[j] += a[j] > b[j] ? a[j] - b[j] : b[j] - a[j];
  }
}

void WeightedSumImpl(const double* p, const double* values, int64_t dim, int64_t begin, int64_t end, double* out) {
  const D d;
  int64_t c = 0;
  for (; c + Lanes() <= dim; c += Lanes()) {
    V even = hn::Zero(d), odd = hn::Zero(d);
    int64_t j = begin;
    for (; j + 2 <= end; j += 2) {
      even = hn::MulAdd(hn::Set(d, p[j]), hn::LoadU(d, values + j * dim + c), even);
      odd = hn::MulAdd(hn::Set(d, p[j + 1]), hn::LoadU(d, values + (j + 1) * dim + c), odd);
    }
    if (j < end) even = hn::MulAdd(hn::Set(d, p[j]), hn::LoadU(d, values + j * dim + c), even);
    hn::StoreU(hn::Add(even, odd), d, out + c);
  }
  for (; c < dim; ++c) {
    double sum = 0;
    for (int64_t j = begin; j < end; ++j) sum += p[j] * values[j * dim + c];
    out[c] = sum;
  }
}

void WeightedSumTileImpl(const double* p, int64_t p_ld, const double* values, int64_t dim, int64_t end, double* out) {
  const D d;
  const int64_t last = end + kRowTile - 1;
  const double *pa = p, *pb = p + p_ld, *pc = p + 2 * p_ld, *pd = p + 3 * p_ld;
  int64_t c = 0;
  for (; c + Lanes() <= dim; c += Lanes()) {
    V a0 = hn::Zero(d), a1 = a0, b0 = a0, b1 = a0, c0 = a0, c1 = a0, d0 = a0, d1 = a0;  // even and odd keys
    int64_t j = 0;
    for (; j + 2 <= last; j += 2) {
      const V even = hn::LoadU(d, values + j * dim + c), odd = hn::LoadU(d, values + (j + 1) * dim + c);
      a0 = hn::MulAdd(hn::Set(d, pa[j]), even, a0);
      a1 = hn::MulAdd(hn::Set(d, pa[j + 1]), odd, a1);
      b0 = hn::MulAdd(hn::Set(d, pb[j]), even, b0);
      b1 = hn::MulAdd(hn::Set(d, pb[j + 1]), odd, b1);
      c0 = hn::MulAdd(hn::Set(d, pc[j]), even, c0);
      c1 = hn::MulAdd(hn::Set(d, pc[j + 1]), odd, c1);
      d0 = hn::MulAdd(hn::Set(d, pd[j]), even, d0);
      d1 = hn::MulAdd(hn::Set(d, pd[j + 1]), odd, d1);
    }
    if (j < last) {
      const V even = hn::LoadU(d, values + j * dim + c);
      a0 = hn::MulAdd(hn::Set(d, pa[j]), even, a0);
      b0 = hn::MulAdd(hn::Set(d, pb[j]), even, b0);
      c0 = hn::MulAdd(hn::Set(d, pc[j]), even, c0);
      d0 = hn::MulAdd(hn::Set(d, pd[j]), even, d0);
    }
    hn::StoreU(hn::Add(a0, a1), d, out + c);
    hn::StoreU(hn::Add(b0, b1), d, out + dim + c);
    hn::StoreU(hn::Add(c0, c1), d, out + 2 * dim + c);
    hn::StoreU(hn::Add(d0, d1), d, out + 3 * dim + c);
  }
  for (; c < dim; ++c) {
    for (int64_t r = 0; r < kRowTile; ++r) {
      double sum = 0;
      for (int64_t j = 0; j < end + r; ++j) sum += p[r * p_ld + j] * values[j * dim + c];
      out[r * dim + c] = sum;
    }
  }
}

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(SoftmaxRowImpl);
HWY_EXPORT(SoftmaxRowTileImpl);
HWY_EXPORT(AddDifferenceImpl);
HWY_EXPORT(WeightedSumImpl);
HWY_EXPORT(WeightedSumTileImpl);

void SoftmaxRow(const double* q, const double* keys, int64_t ld, int64_t dim, double scale, int64_t begin, int64_t end,
                double* p) {
  HWY_DYNAMIC_DISPATCH(SoftmaxRowImpl)(q, keys, ld, dim, scale, begin, end, p);
}

void SoftmaxRowTile(const double* q, const double* keys, int64_t ld, int64_t dim, double scale, int64_t end, double* p,
                    int64_t p_ld) {
  HWY_DYNAMIC_DISPATCH(SoftmaxRowTileImpl)(q, keys, ld, dim, scale, end, p, p_ld);
}

void AddDifference(const double* a, const double* b, int64_t begin, int64_t end, double* sum, double* magnitude) {
  HWY_DYNAMIC_DISPATCH(AddDifferenceImpl)(a, b, begin, end, sum, magnitude);
}

void WeightedSum(const double* p, const double* values, int64_t dim, int64_t begin, int64_t end, double* out) {
  HWY_DYNAMIC_DISPATCH(WeightedSumImpl)(p, values, dim, begin, end, out);
}

void WeightedSumTile(const double* p, int64_t p_ld, const double* values, int64_t dim, int64_t end, double* out) {
  HWY_DYNAMIC_DISPATCH(WeightedSumTileImpl)(p, p_ld, values, dim, end, out);
}

}  // namespace hawser
#endif
