// eval/wikitext.h - WikiText-2 as pages, and a page as ordinary text (github.com/EleutherAI/lm-evaluation-harness, task
// wikitext): its tokens are set apart by blanks, which nothing else does.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// A page begins at each heading of the first level; blank ones are left out.
std::vector<std::string> WikitextPages(std::string_view file);
std::string WikitextDetokenized(std::string page);
/// Pieces of a split at runs of blanks, empty ones at the edges counted.
int64_t WikitextWords(std::string_view page);

}  // namespace hawser
