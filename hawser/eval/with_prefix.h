// eval/with_prefix.h - requests whose prompts begin with an indexed prefix (kv/prefix_index.h), so that it is not
// read for each of them.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hawser/eval/lm.h"
#include "hawser/eval/prompt_ids.h"

namespace hawser {

/// What comes before the first token that is predicted has to begin with the prefix and go on behind it: nothing is
/// known of the prefix's last token but its keys. Errors: kUsage, telling where a prompt differs; kUnsupported for
/// kRolling, whose windows have no prompt.
void CheckBehindPrefix(std::span<const int32_t> prefix, const LmRequest& request, std::span<const int32_t> prompt);

/// The longest prefix that CheckBehindPrefix takes of all requests. Errors: its own, and those of PromptEncoder.
std::vector<int32_t> SharedPrefix(std::span<const LmRequest> requests, const PromptEncoder& encoder);

}  // namespace hawser
