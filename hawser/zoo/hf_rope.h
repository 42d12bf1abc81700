// zoo/hf_rope.h - rotary settings in config.json: top-level members, `rope_scaling` (transformers 4) and
// `rope_parameters` (transformers 5).
#pragma once

#include <nlohmann/json.hpp>

#include <vector>

#include "hawser/io/json.h"
#include "hawser/pos/scheme.h"

namespace hawser {

struct HfRope {
  RopeSpec rope;
  /// What `longrope` divides the frequencies by, where its two lists are one: its scaling is not in `rope`. Else empty.
  std::vector<double> divisors;
  double multiplier = 1.0;  // of cos and sin, with divisors
};

/// `context`: max_position_embeddings. Errors: kFormat (missing, out of range, two blocks that disagree) and
/// kUnsupported (kinds) naming the key.
HfRope ParseHfRope(const JsonObject& config, int32_t head_dim, int64_t context);

/// The frequencies that the members stand for, for a maximum of `length` tokens.
RopeFrequencies HfFrequencies(const HfRope& rope, int64_t length);

/// max_position_embeddings, rope_theta and the blocks, such that both generations of readers compute the frequencies of
/// `rope`. Readers replace the factor of yarn by max_position_embeddings / original, and take max_position_embeddings
/// for the original context of dynamic: there the former follows the scheme, not `context`. What no kind can say
/// (other yarn ramps and blends) is written as longrope with one list.
void WriteHfRope(const RopeSpec& rope, int32_t head_dim, int64_t context, nlohmann::ordered_json& config);

}  // namespace hawser
