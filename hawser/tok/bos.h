// tok/bos.h - what a text begins with: the tokenizer's own rule, or BOS by choice.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "hawser/tok/tokenizer.h"

namespace hawser {

/// Text form: `auto`, `on`, `off`.
enum class BosRule : uint8_t {
  kAuto,  // what the tokenizer itself puts before a text, which may be nothing
  kOn,    // the BOS token
  kOff,   // nothing
};
/// Errors: kUsage with the known names.
BosRule ParseBosRule(std::string_view name);
std::string_view Name(BosRule rule);

/// The ids that a text begins with. Never EOS in place of a missing BOS. Errors: kUsage for `on` where the vocabulary
/// has no BOS.
std::vector<int32_t> TextPrefix(const Tokenizer& tokenizer, BosRule rule = BosRule::kAuto);

}  // namespace hawser
