// attn/variant.h - a named training variant: a pattern, how positions run, and what the packer does to documents.
#pragma once

#include <string>
#include <string_view>

#include "hawser/attn/pattern.h"

namespace hawser {

/// arXiv:2411.13476 section 3: full (V0), intra (V1), intra-reset (V1r), anchor (V2), anchor-reset (V2r), multi-bos
/// (V2m), and with -tag and -interleaved (`anchor-tag`, `intra-interleaved`, ...). Any other text is a raw pattern,
/// with the same flags as words of their own: `scope=doc window=256 reset`, `multi-bos window=256`. The text parses
/// back. Positions are continuous unless reset. multi-bos is the anchor without a key that all documents share:
/// scope=doc, and a copy of the anchor at the start of every document, each at position 0.
struct AttnVariant {
  LayeredPattern pattern = {};
  bool multi_bos = false;        // every document begins with its own copy of the anchor at position 0
  bool reset_positions = false;  // positions restart at every document (after the anchor where there is one)
  bool tags = false;             // every document starts with its source name, not trained on
  bool interleaved = false;      // documents are cut in chunks that are shuffled between one another

  bool operator==(const AttnVariant&) const = default;
};

/// Flags that contradict the pattern or each other: reset or interleaved across documents that see each other (later
/// keys would have smaller positions, chunks would lie out of order), multi-bos with reset (its text stands where it
/// stands in the context), with shared anchors, or without scope=doc. Errors: kUsage with the reason.
void Validate(const AttnVariant& variant);

/// Errors: kUsage as ParseLayeredPattern and Validate, and for an unknown or repeated flag.
AttnVariant ParseVariant(std::string_view text);
std::string ToString(const AttnVariant& variant);

}  // namespace hawser
