// tok/post_processor.h - the "post_processor" of a tokenizer.json: the special tokens that stand before a text.
#pragma once

#include <cstdint>
#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace hawser {

/// The ids that it puts before a single text: those of TemplateProcessing ahead of its first sequence, "cls" of
/// RobertaProcessing and BertProcessing, of a Sequence the last part's first. null, ByteLevel and unknown types put
/// none. `id_of` gives the id of a token's text, -1 where it is unknown. Errors: kFormat for a token of no known id.
std::vector<int32_t> PrefixOfPostProcessor(const nlohmann::json& processor,
                                           const std::function<int32_t(const std::string&)>& id_of);

}  // namespace hawser
