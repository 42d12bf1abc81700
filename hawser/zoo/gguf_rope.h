// zoo/gguf_rope.h - rotary positions in GGUF files: keys, tensors of divisors, and the text of the whole.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/pos/scheme.h"
#include "hawser/zoo/gguf_keys.h"

namespace hawser {

/// Divisors of the frequencies of pairs, F32: of llama3, and of the two lists of LongRoPE.
inline constexpr std::string_view kGgufRopeFactors = "rope_freqs.weight";
inline constexpr std::string_view kGgufLongFactors = "rope_factors_long.weight";
inline constexpr std::string_view kGgufShortFactors = "rope_factors_short.weight";
/// The rope of the model as its text form (pos/scheme.h), where the other keys say less: which scheme they come from,
/// a base that is no f32, rounding. Readers that do not know it lose nothing they compute with.
inline constexpr std::string_view kGgufRopeText = "hawser.rope";

/// Errors: kFormat for a text that the other keys contradict; kUnsupported for schemes that are none of ours, and for a
/// rotation of a part of the channels where not `partial`.
RopeSpec ReadGgufRope(GgufKeys& keys, int32_t head_dim, int64_t context, bool partial);

using GgufFactors = std::vector<std::pair<std::string, std::vector<float>>>;

/// Writes the keys, and gives the tensors that belong to them. A scheme that they cannot say is not written.
GgufFactors WriteGgufRope(GgufKeys& keys, const RopeSpec& rope, int64_t context);

}  // namespace hawser
