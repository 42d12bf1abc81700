// eval/with_prefix.h - prompts and texts that begin with an indexed prefix (kv/prefix_index.h), so that it is not read
// for each of them.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "hawser/eval/lm.h"
#include "hawser/eval/prompt_ids.h"

namespace hawser {

/// `ids`, which are read, have to begin with the prefix and go on behind it: nothing is known of its last token but
/// its keys. `what` begins the message, `advice` ends it. Errors: kUsage, telling where they part.
void CheckBeginsWith(std::span<const int32_t> prefix, std::span<const int32_t> ids, std::string_view what,
                     std::string_view advice);

/// What comes before the first token that is predicted is checked so. Errors: those of CheckBeginsWith; kUnsupported
/// for kRolling, whose windows have no prompt.
void CheckBehindPrefix(std::span<const int32_t> prefix, const LmRequest& request, std::span<const int32_t> prompt);

/// The longest prefix that CheckBehindPrefix takes of all requests. Errors: its own, and those of PromptEncoder.
std::vector<int32_t> SharedPrefix(std::span<const LmRequest> requests, const PromptEncoder& encoder);

}  // namespace hawser
