// pos/scheme.h - where a token stands: rotary frequencies, their scalings, and their text and config forms.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/pos/fold.h"
#include "hawser/pos/numerics.h"
#include "hawser/pos/query_scale.h"

namespace hawser {

/// kHalf: pair i is channels (i, i + d/2) (Hugging Face); kAdjacent: (2i, 2i+1) (Meta, llama2.c).
enum class RopePairing : uint8_t { kHalf, kAdjacent };
enum class RopeKind : uint8_t { kDefault, kLinear, kNtk, kDynamic, kYarn, kLlama3, kLong };
enum class YarnRamp : uint8_t { kIndex, kRotations };    // ramp variable: pair index (code) or rotations (paper)
enum class YarnBlend : uint8_t { kFrequency, kPeriod };  // theta*(w+(1-w)/s) or theta/(w+(1-w)*s)

/// A scaling of the frequencies theta_i = theta^(-2i/d). Sources: PI arXiv:2306.15595; NTK-aware (bloc97 2023);
/// YaRN arXiv:2309.00071; llama3 (Llama 3.1 release); LongRoPE arXiv:2402.13753. All transforms are independent of the
/// position; kDynamic and kLong depend on the declared maximum length and are pinned to it when a cache or a batch is
/// created.
struct RopeScaling {
  RopeKind kind = RopeKind::kDefault;
  double factor = 1.0;
  int64_t original = 0;  // pretraining context L in tokens; 0: the model's
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  bool truncate = true;
  YarnRamp ramp = YarnRamp::kIndex;
  YarnBlend blend = YarnBlend::kFrequency;
  std::optional<double> attention_factor = std::nullopt;
  std::optional<double> mscale = std::nullopt;
  std::optional<double> mscale_all_dim = std::nullopt;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  std::vector<double> short_divisors = {}, long_divisors = {};  // kLong: [d/2], up to `original` tokens and beyond

  bool operator==(const RopeScaling&) const = default;
};

struct RopeSpec {
  double theta = 10000.0;
  int32_t rotary_dim = 0;  // d, even, <= head dim; only the first d channels of a head rotate
  RopePairing pairing = RopePairing::kHalf;
  RopeScaling scaling = {};
  RopeNumerics numerics = {};
  QueryScale query_scale = {};
  RopeFold fold = {};

  bool operator==(const RopeSpec&) const = default;
};

/// `default`, `linear:factor=8`, `ntk:factor=8`, `dynamic:factor=8`, `yarn:factor=8,original=4096[,beta_fast=..,
/// beta_slow=..,truncate=0|1,ramp=index|rotations,blend=frequency|period,attention_factor=..,mscale=..,
/// mscale_all_dim=..]`, `llama3:factor=8,low=1,high=4,original=8192`, `longrope:factor=4,original=4096,
/// short=1+1.1+..,long=1.2+2+..[,attention_factor=..]`, `theta=5e6` (changes the base only).
/// Applied to `base`: replaces its scaling; theta= replaces its base, and of its scaling what ntk is. `context`: that
/// of the model, used where neither the text nor the scaling of `base` has an `original`, so that a model that is
/// scaled already gets what it would have got before. Every scheme also takes theta=B and numerics=N
/// (ParseRopeNumerics) beside its keys; without the latter the numerics become the default. A scaling without a factor
/// gets the one that reaches `wanted` tokens, where that is more than the original.
/// `string[:shift=S,window=W,temperature=T]` (pos/fold.h) behind a scheme, and a comma, or alone: a fold on top of it,
/// or of what `base` has; a scheme without it has none. Errors: kUsage naming scheme and key, and for a fold of
/// frequencies that follow the tokens (dynamic).
RopeSpec ApplyRopeText(const RopeSpec& base, std::string_view text, int64_t context, int64_t wanted = 0);

/// What a rope text may be, a scheme a line with its keys, for people.
std::string RopeHelp();

/// The text form of spec.scaling, with theta where it is not 10000 and numerics where they are not the default
/// (`yarn:factor=8,original=4096,theta=500000`); parses back by ApplyRopeText over a base whose theta is 10000.
std::string ToString(const RopeSpec& spec);

/// The context of the model before it was scaled: that of the scaling, or `context` where it has none.
int64_t OriginalContext(const RopeSpec& spec, int64_t context);

/// The longest context the scheme is meant for: factor * original for static schemes, unlimited (max int64) where the
/// scheme has no bound of its own (kDynamic); default and theta return `context`; llama3 whichever is longer, since its
/// models declare more than factor * original. A fold gains shift - window more.
int64_t MaxContext(const RopeSpec& spec, int64_t context);

/// NTK-aware scaling is a base b * s^(d / (d - 2)) and nothing else, which is how other readers know it; other schemes
/// come back as they are. The frequencies of the result have the same bits.
RopeSpec BakeNtk(const RopeSpec& rope);

/// The longest length in tokens whose frequencies are those of `length`; 2^53, more than there ever are, where longer
/// ones change nothing.
int64_t SameFrequenciesUntil(const RopeSpec& spec, int64_t length);
/// Whether frequencies depend on the length.
bool DependsOnLength(const RopeSpec& spec);

/// Frequencies after scaling and rounding to numerics.inv_freq, and their exact phase increments.
struct RopeFrequencies {
  std::vector<double> inv_freq;  // [d/2] radians per position
  std::vector<uint64_t> turns;   // [d/2] round(inv_freq / (2 pi) * 2^64)
  double multiplier = 1.0;       // A: cos and sin are both multiplied by it
  RopeNumerics numerics;         // how the rest of the way to a table is rounded
};

/// YaRN's g(m) = 0.1 m ln(factor) + 1 for factor > 1, else 1. The multiplier A is attention_factor if given, else
/// g(mscale) / g(mscale_all_dim) if both are, else g(1); of LongRoPE attention_factor, else
/// sqrt(1 + ln(factor) / ln(original)). DeepSeek's softmax scale also takes g(mscale_all_dim)^2.
double YarnMscale(double factor, double mscale);

/// Errors: kUsage for an odd or empty rotary_dim (4 or more for ntk and dynamic), theta <= 1, factor < 1, a missing
/// original where the scheme needs it, bounds of a ramp out of order; kUnsupported for iterated angles of a scaling.
/// `length`: the declared maximum length in tokens (only kDynamic and kLong depend on it).
RopeFrequencies ComputeFrequencies(const RopeSpec& spec, int64_t length);

/// cos and sin of position * frequency, times the multiplier, in f32: [positions, d/2] each, row-major.
/// By default the phase is position * turns mod 2^64, exact for any int64 position >= 0. An entry depends on its
/// position alone, never on the length of the request, whatever the numerics.
void FillRopeTable(const RopeFrequencies& frequencies, const int64_t* positions, int64_t count, float* cos, float* sin);
/// The same for any numerics, in f64 rounded to numerics.table. NaN where a rounded position is infinite.
void FillRopeTableF64(const RopeFrequencies& frequencies, const int64_t* positions, int64_t count, double* cos,
                      double* sin);

}  // namespace hawser
