#include "hawser/tok/bos.h"

#include "hawser/base/error.h"
#include "hawser/base/text.h"

namespace hawser {

BosRule ParseBosRule(std::string_view name) {
  for (const BosRule rule : {BosRule::kAuto, BosRule::kOn, BosRule::kOff}) {
    if (name == Name(rule)) return rule;
  }
  Fail(ErrorKind::kUsage, "unknown rule for BOS '{}'{}", name, SuggestName(name, {"auto", "on", "off"}));
}

std::string_view Name(BosRule rule) {
  switch (rule) {
    case BosRule::kAuto:
      return "auto";
    case BosRule::kOn:
      return "on";
    case BosRule::kOff:
      return "off";
  }
  return "";
}

std::vector<int32_t> TextPrefix(const Tokenizer& tokenizer, BosRule rule) {
  if (rule == BosRule::kOff) return {};
  if (rule == BosRule::kAuto) return tokenizer.prefix();
  if (tokenizer.bos() < 0) {
    Fail(ErrorKind::kUsage, "this vocabulary has no BOS token to begin a text with; leave BOS to the tokenizer (auto)");
  }
  return {tokenizer.bos()};
}

}  // namespace hawser
