// tok/text_place.h - where a stretch of text stands, for the blanks that some vocabularies put before a text.
#pragma once

#include <cstdint>

namespace hawser {

enum class TextPlace : uint8_t {
  kStart,   // where the whole text begins
  kInside,  // behind an added token or a cut
  kGoesOn,  // straight behind text that was encoded before: no blank belongs there
};

}  // namespace hawser
