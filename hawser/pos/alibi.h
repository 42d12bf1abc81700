// pos/alibi.h - linear biases of attention scores (ALiBi), their interpolations, and their text form.
//   score of head h += -slope[h] * (place of the query - place of the key)
// Sources: ALiBi arXiv:2108.12409; linear interpolation arXiv:2310.13017; NTK-ALiBi (keezen/ntk_alibi 2023).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// With a the factor, s the slopes, smax and smin the largest and the smallest of them:
///   kLinear   s / a                            every head reaches further, near tokens are told apart less
///   kNtk      s a^-e, e = log(smax / s) / log(smax / smin): the sharpest head stays, the flattest reaches a times as
///   far kMaxBias  max_bias + log2(a): for a power of two of heads the flattest reaches a times as far, and configs of
///   other
///             programs can say it
enum class AlibiScaling : uint8_t { kNone, kLinear, kNtk, kMaxBias };

struct AlibiSpec {
  double max_bias = 8.0;  // -log2 of the flattest slope of a power of two of heads
  AlibiScaling scaling = AlibiScaling::kNone;
  double factor = 1.0;
  int64_t original = 0;  // pretraining context in tokens; 0: the model's
  /// Of all slopes: 1 / sqrt(head dim) where the bias is added before scores are scaled (Falcon).
  double multiplier = 1.0;
  /// Slopes, places and their products are rounded to BF16, before the multiplier, as in models that compute them so
  /// (Falcon). Each head then has keys of its own.
  bool bf16 = false;

  bool operator==(const AlibiSpec&) const = default;
};

/// Slopes of heads [0, heads), > 0, in the order of the heads. 2^(-max_bias (h + 1) / P) for the P heads that are the
/// largest power of two; the others take every second slope of 2 P heads, from the first on. BLOOM, MPT, Baichuan and
/// Falcon agree on these. Errors: kUsage for heads < 1 (2 for kNtk), a factor below 1, numbers that are not finite.
std::vector<float> AlibiSlopes(const AlibiSpec& spec, int32_t heads);

/// `alibi`, `alibi:linear,factor=4`, `alibi:ntk,factor=4,original=2048`, `alibi:bmax,factor=4`; max_bias=B changes the
/// largest bias (default: that of `base`). Applied to `base`: replaces its scaling. `context`: that of the model, used
/// where neither the text nor `base` has an original. A scaling without a factor gets the one that reaches `wanted`
/// tokens, where that is more than the original. Errors: kUsage naming the part that is wrong; rope schemes by name.
AlibiSpec ApplyAlibiText(const AlibiSpec& base, std::string_view text, int64_t context, int64_t wanted = 0);

/// What an alibi text may be, for people.
std::string AlibiHelp();

/// Parses back by ApplyAlibiText over the default.
std::string ToString(const AlibiSpec& spec);

/// The context before scaling, and the one that the scaling is meant for; without a scaling both are `context`.
int64_t OriginalContext(const AlibiSpec& spec, int64_t context);
int64_t MaxContext(const AlibiSpec& spec, int64_t context);

/// kMaxBias is a larger max_bias and nothing else, which is how other readers know it; others come back as they are.
/// The slopes of the result have the same bits.
AlibiSpec BakeMaxBias(const AlibiSpec& spec);

}  // namespace hawser
