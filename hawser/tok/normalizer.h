// tok/normalizer.h - the "normalizer" of a tokenizer.json: text to text, before anything is split.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

class Normalizer {
 public:
  Normalizer() = default;
  /// Sequence, NFC, NFD, NFKC, NFKD, Replace, Prepend, Lowercase, Strip, StripAccents and ByteLevel; null: none.
  /// `prepend_once`: Prepend acts at the start of a text only, not again after every added token.
  /// Errors: kFormat, kUnsupported naming the type.
  Normalizer(const nlohmann::json& json, bool prepend_once);

  /// `at_start`: `text` begins where the whole text does.
  std::string Apply(std::string_view text, bool at_start) const;
  bool empty() const { return steps_.empty(); }

 private:
  using Step = std::function<std::string(std::string text, bool at_start)>;
  void Add(const nlohmann::json& json, bool prepend_once, int depth);

  std::vector<Step> steps_;
};

/// The "pattern" of Replace and Split, {"String": ...} or {"Regex": ...}, as a regular expression.
class Regex;
Regex PatternOf(const nlohmann::json& json);

}  // namespace hawser
