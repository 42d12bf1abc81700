// fuzz/mutate.h - changes that keep a structure, so that an input gets past the first check.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "fuzz/target.h"

namespace hawser::fuzz {

/// Changes one to four places of a value: other values, members and elements dropped, doubled, moved, renamed to one of
/// `words`, put inside others, numbers at the edges of their types, texts that are odd or long.
void MutateJson(nlohmann::json& value, const std::vector<std::string>& words, Rng& rng);

/// JSON, or a discarded value: what is none, or nests so deep that its copies and its text, which recurse, would end
/// the process.
nlohmann::json ToMutate(std::string_view text);

/// A mutator of JSON text; text that is none gets other bytes.
Mutator JsonMutator(std::vector<std::string> words);
/// The same for files with a value in each line: lines are dropped, doubled and moved too.
Mutator JsonLinesMutator(std::vector<std::string> words);

/// A mutator of texts that consist of words between `separators`: words are dropped, doubled, moved, replaced by one of
/// `words` or by a number, and separators exchanged.
Mutator WordMutator(std::vector<std::string> words, std::string separators);

/// A few bytes changed, dropped, doubled or put in.
std::string MutateBytes(std::string_view input, Rng& rng);

/// One of `items`; it must not be empty.
template <class T>
const T& Choose(const std::vector<T>& items, Rng& rng) {
  return items[rng.Below(items.size())];
}

/// A number at the edge of something.
int64_t EdgeNumber(Rng& rng);

}  // namespace hawser::fuzz
