// attn/softmax.h - how scores become weights: the softmax of a model as a value.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace hawser {

/// Weights w of values v from the scores z = scale * <q, k> of the keys that a row sees; P = softmax(z):
///   kStandard     w = P
///   kSelfAdjust   w = P * (z - lo + nb) / (hi - lo),  lo = min(min z, 0),  hi = max(max z, 0) + db
///   kSelfAdjustProduct  w = P * z
/// The last two are Self-Adjust softmax (arXiv:2502.18277), as the training code of SepLLM has it (transformer.py of
/// its GPT-NeoX tree, options USE_SA_SOFTMAX and USE_SA_SOFTMAX_NO_DENO; its scores above the diagonal count as 0,
/// which lo and hi do anyway). Weights do not add up to 1. There it excludes every pattern; here lo and hi are taken
/// over what the row sees, so that a pattern and a cache that keeps the same keys agree. Gradients go through lo and hi
/// to the first key that has the extreme score.
enum class SoftmaxKind : uint8_t { kStandard, kSelfAdjust, kSelfAdjustProduct };

/// Text form: `standard`, `self-adjust`, `self-adjust:nb=0.1,db=1e-6`, `self-adjust-product`.
struct SoftmaxSpec {
  SoftmaxKind kind = SoftmaxKind::kStandard;
  float numerator_bias = 0.0f;      // nb, >= 0
  float denominator_bias = 1e-10f;  // db, > 0: what keeps a row of zeros finite

  bool operator==(const SoftmaxSpec&) const = default;
};

/// Errors: kUsage naming the part that is wrong.
SoftmaxSpec ParseSoftmax(std::string_view text);
/// Parses back to the same value.
std::string ToString(const SoftmaxSpec& softmax);
/// For --help: every kind and field.
std::string SoftmaxHelp();

}  // namespace hawser
