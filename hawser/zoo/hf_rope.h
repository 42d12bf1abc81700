// zoo/hf_rope.h - rotary settings in config.json: top-level members, `rope_scaling` (transformers 4) and
// `rope_parameters` (transformers 5).
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "hawser/pos/scheme.h"
#include "hawser/zoo/config_members.h"

namespace hawser {

/// What a family's files call its rotary members, and what it takes for those that are absent.
struct HfRopeKeys {
  std::string_view theta = "rope_theta", share = "partial_rotary_factor";
  double default_theta = 10000.0, default_share = 1.0;
  bool partial = false;               // its readers know `share`
  int64_t original = 0;               // of original_max_position_embeddings; 0: the context
  bool only_long = false;             // its readers know no scaling but longrope
  std::string_view local_theta = {};  // of the layers with a window, which have a rope of their own (Gemma 3)
};

/// Reads rope_scaling, rope_parameters and what belongs to them. `local`: the rope of the layers with a window, where
/// the family has one. `context`: max_position_embeddings. Errors: kFormat (missing, out of range, two places that
/// disagree) and kUnsupported (kinds) naming the key.
void ReadHfRope(const HfRopeKeys& keys, int32_t head_dim, int64_t context, ConfigMembers& members, RopeSpec* rope,
                std::optional<RopeSpec>* local);

/// max_position_embeddings, the base and the blocks, such that both generations of readers compute the frequencies of
/// `rope` and `local`. Readers replace the factor of yarn by max_position_embeddings / original, and take
/// max_position_embeddings for the original context of dynamic: there the former follows the scheme, not `context`.
/// What no kind can say (other yarn ramps and blends, and every scaling of a family that knows longrope alone) is
/// written as longrope with one list. Errors: kUsage for a scaling that the family cannot say at all.
void WriteHfRope(const HfRopeKeys& keys, const RopeSpec& rope, const std::optional<RopeSpec>& local, int32_t head_dim,
                 int64_t context, ConfigMembers& members);

}  // namespace hawser
