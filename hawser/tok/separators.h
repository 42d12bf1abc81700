// tok/separators.h - which tokens separate text: the ones that SepLLM (arXiv:2412.12094) never forgets.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/tok/tokenizer.h"

namespace hawser {

/// Text form, the same in patterns (`sep=FORM`), cache policies (`,sep=FORM`) and recipes: parts joined by `+`, each
/// one
///   text         the decoded token contains one of . , ? ! ; : or a newline, or is blank throughout (spaces, tabs);
///                control pieces never do. What an empty form means
///   a preset     neox-9, neox-20, llama3-9, llama3-17, llama3-18, falcon-13 (also with `sepllm-` in front): the ids
///                that the reference of SepLLM lists for these vocabularies
///   a token id
/// Returns one flag per id of the tokenizer. Errors: kUsage for an unknown part, an id outside the vocabulary, or a
/// preset made for another vocabulary (an id of it that neither separates text here nor begins one).
std::vector<uint8_t> SeparatorFlags(const Tokenizer& tokenizer, std::string_view form = "text");

/// Empty, or one line for people: nothing matches, or more than half of the vocabulary does.
std::string SeparatorWarning(const std::vector<uint8_t>& flags, std::string_view form = "text");

/// SeparatorFlags for a model with `vocab` rows of embeddings, and its warning on stderr. Empty without a tokenizer.
std::vector<uint8_t> ModelSeparators(const Tokenizer* tokenizer, std::string_view form, int32_t vocab);

}  // namespace hawser
