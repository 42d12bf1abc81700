// tok/normalizer.h - the "normalizer" of a tokenizer.json: text to text, before anything is split.
#pragma once

#include <functional>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/tok/text_place.h"

namespace hawser {

class Normalizer {
 public:
  Normalizer() = default;
  /// Sequence, NFC, NFD, NFKC, NFKD, Replace, Prepend, Lowercase, Strip, StripAccents and ByteLevel; null: none.
  /// Errors: kFormat (too many or too deep steps too), kUnsupported naming the type.
  explicit Normalizer(const nlohmann::json& json);

  /// Prepend acts wherever the text does not go on from before. Errors: kUnsupported where the text grows beyond
  /// MostGrown, or a pattern needs too much work.
  std::string Apply(std::string_view text, TextPlace place) const;
  bool empty() const { return steps_.empty(); }

 private:
  using Step = std::function<std::string(std::string text, TextPlace place, size_t most)>;
  void Add(const nlohmann::json& json, int depth);

  std::vector<Step> steps_;
};

/// The "pattern" of Replace and Split, {"String": ...} or {"Regex": ...}, as a regular expression.
class Regex;
Regex PatternOf(const nlohmann::json& json);

}  // namespace hawser
