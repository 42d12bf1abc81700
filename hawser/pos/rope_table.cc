#include <algorithm>
#include <cmath>
#include <numbers>
#include <tuple>
#include <utility>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/pos/scheme.h"

namespace hawser {
namespace {

constexpr int64_t kGrain = 64;  // positions of a piece of a table

bool HasExactTable(const RopeNumerics& n) {
  return n.positions == FloatFormat::kF64 && n.angle == RopeAngle::kTurns && n.table == FloatFormat::kF32;
}

// A phase in 2^-64 turns as the nearest quarter turn and the rest, in radians within pi / 4: exact in integers.
struct Reduced {
  uint64_t quarter;
  double rest;
};
Reduced ReducePhase(uint64_t phase) {
  const uint64_t quarter = (phase + (uint64_t{1} << 61)) >> 62;
  return {quarter,
          static_cast<double>(static_cast<int64_t>(phase - (quarter << 62))) * (2.0 * std::numbers::pi * 0x1p-64)};
}

// (cos, sin) of an angle plus quarter turns, given those of the angle.
std::pair<double, double> TurnQuarters(uint64_t quarter, double cos, double sin) {
  const double even = quarter & 1 ? sin : cos;
  const double odd = quarter & 1 ? cos : sin;
  return {(quarter + 1) & 2 ? -even : even, quarter & 2 ? -odd : odd};
}

}  // namespace

void FillRopeTable(const RopeFrequencies& frequencies, const int64_t* positions, int64_t count, float* cos,
                   float* sin) {
  const int64_t half = static_cast<int64_t>(frequencies.turns.size());
  const double a = frequencies.multiplier;
  if (!HasExactTable(frequencies.numerics)) {
    const int64_t piece = std::min<int64_t>(count, 4096);  // positions in f64 at once
    std::vector<double> wide_cos(static_cast<size_t>(piece * half)), wide_sin(wide_cos.size());
    for (int64_t begin = 0; begin < count; begin += piece) {
      const int64_t n = std::min(piece, count - begin);
      FillRopeTableF64(frequencies, positions + begin, n, wide_cos.data(), wide_sin.data());
      std::copy_n(wide_cos.data(), n * half, cos + begin * half);
      std::copy_n(wide_sin.data(), n * half, sin + begin * half);
    }
    return;
  }
  ParallelChunks(count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const uint64_t position = static_cast<uint64_t>(positions[n]);
      for (int64_t i = 0; i < half; ++i) {
        const auto [quarter, x] = ReducePhase(position * frequencies.turns[i]);
        // Taylor: the terms left out are below 7e-12 at x = pi / 4, far under the f32 rounding of the result.
        const double z = x * x;
        const double s =
            x + x * z * (-1.0 / 6 + z * (1.0 / 120 + z * (-1.0 / 5040 + z * (1.0 / 362880 - z * (1.0 / 39916800)))));
        const double c =
            1 + z * (-0.5 + z * (1.0 / 24 +
                                 z * (-1.0 / 720 + z * (1.0 / 40320 + z * (-1.0 / 3628800 + z * (1.0 / 479001600))))));
        const auto [cosine, sine] = TurnQuarters(quarter, c, s);
        cos[n * half + i] = static_cast<float>(a * cosine);
        sin[n * half + i] = static_cast<float>(a * sine);
      }
    }
  });
}

void FillRopeTableF64(const RopeFrequencies& frequencies, const int64_t* positions, int64_t count, double* cos,
                      double* sin) {
  const int64_t half = static_cast<int64_t>(frequencies.turns.size());
  const RopeNumerics& numerics = frequencies.numerics;
  ParallelChunks(count, kGrain, [&](int64_t begin, int64_t end) {
    for (int64_t n = begin; n < end; ++n) {
      const double position = RoundTo(numerics.positions, static_cast<double>(positions[n]));
      double iterated = RoundTo(FloatFormat::kF32, position);
      for (int64_t i = 0; i < half; ++i) {
        const double frequency = frequencies.inv_freq[i];
        double c, s;
        if (numerics.angle == RopeAngle::kTurns && std::isfinite(position)) {
          const auto [quarter, x] = ReducePhase(static_cast<uint64_t>(position) * frequencies.turns[i]);
          std::tie(c, s) = TurnQuarters(quarter, std::cos(x), std::sin(x));
        } else {
          double angle = position * frequency;
          if (numerics.angle == RopeAngle::kF32) {
            angle = RoundTo(FloatFormat::kF32, RoundTo(FloatFormat::kF32, position) * frequency);
          } else if (numerics.angle == RopeAngle::kIterated) {
            angle = iterated;
            iterated =
                RoundTo(FloatFormat::kF32, iterated * RoundTo(FloatFormat::kF32, frequencies.inv_freq[half > 1]));
          }
          c = std::cos(angle);
          s = std::sin(angle);
        }
        cos[n * half + i] = RoundTo(numerics.table, frequencies.multiplier * c);
        sin[n * half + i] = RoundTo(numerics.table, frequencies.multiplier * s);
      }
    }
  });
}

}  // namespace hawser
