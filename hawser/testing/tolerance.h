// testing/tolerance.h - the only place tolerances live: how far a correct result may be from the f64 twin.
#pragma once

#include <cmath>
#include <cstdint>

#include "hawser/base/dtype.h"

namespace hawser::testing {

/// Half a unit in the last place of a value of size 1: what one rounding to the dtype may cost.
inline double RoundingUnit(DType dtype) { return dtype == DType::kBF16 ? 0x1p-8 : 0x1p-24; }

/// Bound on |got - want| for a sum of `terms` products accumulated in f32 in any order and stored as `stored`.
/// `magnitude` is the sum of the absolute values of the products; a rounding error of every partial sum grows like the
/// square root of their number. `want` carries the one rounding on the way out.
inline double SumTolerance(DType stored, int64_t terms, double magnitude, double want) {
  return 0x1p-24 * (4.0 + 4.0 * std::sqrt(static_cast<double>(terms))) * magnitude +
         RoundingUnit(stored) * std::abs(want) + 1e-37;
}

/// Bound on |got - want| for a result of attention. `size` is the sum of the absolute values of what is added up in it.
/// Probabilities and their gradients are rounded to the operand dtype (at most one unit each, twice in backward); a
/// score is an f32 sum of `dim` products of size up to `score`, and its error moves the probability by as much.
inline double AttentionTolerance(DType operands, DType stored, int64_t dim, double score, double size, double want) {
  const double score_error = 0x1p-24 * (4.0 + 4.0 * std::sqrt(static_cast<double>(dim))) * (1.0 + score);
  return (2.0 * RoundingUnit(operands) + 4.0 * score_error + 0x1p-20) * size + RoundingUnit(stored) * std::abs(want) +
         1e-30;
}

/// Bound on the length of the difference of two gradients that are equal but for the rounding of `stored` tensors on
/// the way to them: relative errors of at most the unit, independent and evenly spread (mean square: a third of it
/// squared), none of them amplified; three standard deviations. `terms`: of the longest sum in f32 on the way. `size`:
/// the sum of the lengths of the vectors that the gradient is added up from.
inline double GradientTolerance(DType dtype, int64_t stored, int64_t terms, double size) {
  const double sums = 0x1p-24 * (4.0 + 4.0 * std::sqrt(static_cast<double>(terms)));
  return 3.0 * std::sqrt(static_cast<double>(stored) / 3.0) * (RoundingUnit(dtype) + sums) * size;
}

}  // namespace hawser::testing
