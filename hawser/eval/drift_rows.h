// eval/drift_rows.h - rows of an attention matrix in f64, vectorised: what `drift` spends its time on.
#pragma once

#include <cstdint>

namespace hawser {

/// p[j] = softmax over j in [begin, end) of scale * sum over c of q[c] keys[c * ld + j]. Writes nothing else of p,
/// which has room for 8 values past end, as every row of keys has.
void SoftmaxRow(const double* q, const double* keys, int64_t ld, int64_t dim, double scale, int64_t begin, int64_t end,
                double* p);

/// The same, to the last bit, for kRowTile query rows q [rows, dim] at once, so that keys are read once for all: row r
/// sees keys [0, end + r) and has its weights in p + r * p_ld. Beyond them p is 0 up to the last row's end; of the 8
/// values behind that anything may be left.
inline constexpr int64_t kRowTile = 4;
void SoftmaxRowTile(const double* q, const double* keys, int64_t ld, int64_t dim, double scale, int64_t end, double* p,
                    int64_t p_ld);

/// sum[j] += a[j] - b[j], magnitude[j] += |a[j] - b[j]| for j in [begin, end).
void AddDifference(const double* a, const double* b, int64_t begin, int64_t end, double* sum, double* magnitude);

/// out[c] = sum over j in [begin, end) of p[j] values[j * dim + c].
void WeightedSum(const double* p, const double* values, int64_t dim, int64_t begin, int64_t end, double* out);

/// The same, to the last bit, for the rows of a SoftmaxRowTile: out [kRowTile, dim].
void WeightedSumTile(const double* p, int64_t p_ld, const double* values, int64_t dim, int64_t end, double* out);

}  // namespace hawser
