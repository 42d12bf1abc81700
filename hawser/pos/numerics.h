// pos/numerics.h - how a rotary embedding is rounded on its way from a position id to a stored query or key, as a
// value. The engine's own way is the default; the others exist to measure what they cost, to agree with other programs,
// and for controlled experiments.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "hawser/base/dtype.h"

namespace hawser {

/// Significand bits, the hidden one included: 53, 24, 11 (range of f32), 11, 8 (range of f32).
enum class FloatFormat : uint8_t { kF64, kF32, kTF32, kF16, kBF16 };

/// "f64", "f32", "tf32", "f16", "bf16".
std::string_view Name(FloatFormat format);

/// x to the nearest number of the format, ties to even, by way of f32 for those narrower; beyond its range infinite.
inline double RoundTo(FloatFormat format, double x) {
  if (format == FloatFormat::kF64) return x;
  const auto y = static_cast<float>(x);
  if (format == FloatFormat::kF32) return y;
  if (format == FloatFormat::kBF16) return ToF32(ToBF16(y));
  if (format == FloatFormat::kF16) return F16ToF32(F32ToF16(y));
  constexpr uint32_t kDropped = 13;  // bits of f32 that tf32 lacks
  const uint32_t bits = std::bit_cast<uint32_t>(y);
  const uint32_t half = (1u << (kDropped - 1)) - 1 + ((bits >> kDropped) & 1u);
  return std::isfinite(y) ? std::bit_cast<float>((bits + half) & ~((1u << kDropped) - 1)) : y;
}

/// kTurns: position * (inv_freq / 2 pi) in 64-bit fixed point, exact. kF64, kF32: the rounded product of position and
/// frequency in radians. kIterated: in f32, the angle of a pair is that of the pair before times theta^(-2/d) (ggml;
/// unscaled frequencies only).
enum class RopeAngle : uint8_t { kTurns, kF64, kF32, kIterated };

/// Each field is the format that a stage rounds to:
///   angle = positions * inv_freq;  table = cos, sin of angle;  rotation of (x1, x2) = (x1 c - x2 s, x2 c + x1 s)
/// with operands, products and sums of the rotation rounded to `math`; then the rotated q and k to `qk`.
struct RopeNumerics {
  FloatFormat inv_freq = FloatFormat::kF64;
  FloatFormat positions = FloatFormat::kF64;
  RopeAngle angle = RopeAngle::kTurns;
  FloatFormat table = FloatFormat::kF32;
  FloatFormat math = FloatFormat::kF32;
  std::optional<FloatFormat> qk = std::nullopt;  // none: the dtype of activations

  bool operator==(const RopeNumerics&) const = default;
};

struct RopeNumericsName {
  std::string_view name;
  std::string_view summary;
  RopeNumerics value;
};
/// The pipelines that have names; `exact` is the engine's default.
std::span<const RopeNumericsName> NamedRopeNumerics();

/// A name of NamedRopeNumerics(), or fields joined by '+' over the default: `inv_freq=bf16+table=bf16`. Errors: kUsage
/// with the known names, fields or formats.
RopeNumerics ParseRopeNumerics(std::string_view text);
/// The name of the value where it has one, else its fields; parses back.
std::string ToString(const RopeNumerics& numerics);

/// The rotation of one pair as `math` computes it.
struct RopePair {
  double low = 0, high = 0;
};
inline RopePair RotatePair(FloatFormat math, double x1, double x2, double cos, double sin) {
  const auto fl = [math](double x) { return RoundTo(math, x); };
  const double a = fl(x1), b = fl(x2);
  return {fl(fl(a * cos) - fl(b * sin)), fl(fl(b * cos) + fl(a * sin))};
}

}  // namespace hawser
