// eval/drift_rows.h - rows of an attention matrix in f64, vectorised: what `drift` spends its time on.
#pragma once

#include <cstdint>

namespace hawser {

/// p[j] = softmax over j in [begin, end) of scale * sum over c of q[c] keys[c * ld + j]. Writes nothing else of p,
/// which has room for 8 values past end, as every row of keys has.
void SoftmaxRow(const double* q, const double* keys, int64_t ld, int64_t dim, double scale, int64_t begin, int64_t end,
                double* p);

/// sum[j] += a[j] - b[j], magnitude[j] += |a[j] - b[j]| for j in [begin, end).
void AddDifference(const double* a, const double* b, int64_t begin, int64_t end, double* sum, double* magnitude);

/// out[c] = sum over j in [begin, end) of p[j] values[j * dim + c].
void WeightedSum(const double* p, const double* values, int64_t dim, int64_t begin, int64_t end, double* out);

}  // namespace hawser
