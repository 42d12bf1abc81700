// attn/variant.h - a named training variant: a pattern, how positions run, and what the packer does to documents.
#pragma once

#include <string>
#include <string_view>

#include "hawser/attn/pattern.h"

namespace hawser {

/// arXiv:2411.13476 section 3: full (V0), intra (V1), intra-reset (V1r), anchor (V2), anchor-reset (V2r), and with -tag
/// and -interleaved (`anchor-tag`, `intra-interleaved`, ...). Any other text is a raw pattern, with the same flags as
/// words of their own: `scope=doc window=256 reset`. Positions are continuous unless reset. The text parses back.
struct AttnVariant {
  AttnPattern pattern = {};
  bool reset_positions = false;  // positions restart at every document (after the anchor where there is one)
  bool tags = false;             // every document starts with its source name, not trained on
  bool interleaved = false;      // documents are cut in chunks that are shuffled between one another

  bool operator==(const AttnVariant&) const = default;
};

/// Errors: kUsage as ParsePattern, and for an unknown or repeated flag.
AttnVariant ParseVariant(std::string_view text);
std::string ToString(const AttnVariant& variant);

}  // namespace hawser
