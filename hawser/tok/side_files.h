// tok/side_files.h - what the files of a model's folder say beside the tokenizer's own file: tokenizer_config.json,
// special_tokens_map.json, added_tokens.json, generation_config.json, config.json, chat_template.jinja.
#pragma once

#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <unordered_map>

#include "hawser/tok/bpe_tokenizer.h"

namespace hawser {

class TokenizerSideFiles {
 public:
  TokenizerSideFiles() = default;
  /// Errors: kFormat for one that is no JSON object.
  explicit TokenizerSideFiles(const std::filesystem::path& folder);

  /// The tokens of added_tokens.json and of "added_tokens_decoder" that `known` (content -> id) has not, as
  /// "added_tokens" of a tokenizer.json. One whose id the model of config.json has no row for is left out with a line.
  /// Errors: kFormat for a token that `known` has under another id, or an id given to two.
  nlohmann::json AddedTokens(const std::unordered_map<std::string, int32_t>& known) const;

  /// BOS and EOS, whether texts begin with BOS ("add_bos_token", which wins over a template), and the configuration to
  /// save with it. What no file says stays as the tokenizer has it, then comes from well-known names.
  void Apply(BpeTokenizer* tokenizer) const;

 private:
  nlohmann::json config_, map_, added_, generation_, model_;
  std::string chat_template_;
};

}  // namespace hawser
