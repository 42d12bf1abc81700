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

void SoftmaxRowImpl(const double* q, const double* keys, int64_t ld, int64_t dim, double scale, int64_t begin,
                    int64_t end, double* p) {
  const D d;
  const int64_t whole = begin + (end - begin) / Lanes() * Lanes();
  V top = hn::Set(d, -std::numeric_limits<double>::infinity());
  HWY_ALIGN double rest[8];
  for (int64_t j = begin; j < end; j += Lanes()) {
    V s = hn::Zero(d);
    for (int64_t c = 0; c < dim; ++c) s = hn::MulAdd(hn::Set(d, q[c]), hn::LoadU(d, keys + c * ld + j), s);
    s = hn::Mul(s, hn::Set(d, scale));
    if (j < whole) {
      hn::StoreU(s, d, p + j);
      top = hn::Max(top, s);
    } else {
      hn::Store(s, d, rest);
      std::copy_n(rest, end - j, p + j);
    }
  }
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

}  // namespace HWY_NAMESPACE
}  // namespace hawser
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hawser {

HWY_EXPORT(SoftmaxRowImpl);
HWY_EXPORT(AddDifferenceImpl);
HWY_EXPORT(WeightedSumImpl);

void SoftmaxRow(const double* q, const double* keys, int64_t ld, int64_t dim, double scale, int64_t begin, int64_t end,
                double* p) {
  HWY_DYNAMIC_DISPATCH(SoftmaxRowImpl)(q, keys, ld, dim, scale, begin, end, p);
}

void AddDifference(const double* a, const double* b, int64_t begin, int64_t end, double* sum, double* magnitude) {
  HWY_DYNAMIC_DISPATCH(AddDifferenceImpl)(a, b, begin, end, sum, magnitude);
}

void WeightedSum(const double* p, const double* values, int64_t dim, int64_t begin, int64_t end, double* out) {
  HWY_DYNAMIC_DISPATCH(WeightedSumImpl)(p, values, dim, begin, end, out);
}

}  // namespace hawser
#endif
