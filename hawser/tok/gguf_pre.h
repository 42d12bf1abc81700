// tok/gguf_pre.h - how text is cut before merges, by the names that GGUF files have for it (`tokenizer.ggml.pre`).
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace hawser {

/// Each step splits what the one before left: by a pattern whose matches stand alone, or each digit alone. Two rules
/// may have the same names: the first is read, and both are recognised.
struct PreRule {
  std::string_view names;  // of the rule in GGUF files, joined by |; the first is written
  std::vector<std::string_view> patterns;
  bool single_digits = false;  // before a pattern that is alone, behind several
  bool nfc = false;
  bool whole_words = false;  // a word that is a token is that token, whatever the merges say

  bool operator==(const PreRule&) const = default;
};

/// Errors: kUnsupported with the known names.
const PreRule& FindPreRule(std::string_view name);

/// "pre_tokenizer" of a tokenizer.json that cuts so, to the printable alphabet of bytes.
nlohmann::json PreTokenizerJson(const PreRule& rule);

/// The name under which GGUF files know how a byte-level tokenizer.json cuts text. A rule that differs in NFC alone
/// counts where there is no other: readers of GGUF files do not normalize. Errors: kUnsupported naming the part that no
/// rule has.
std::string PreNameOf(const nlohmann::json& tokenizer);

}  // namespace hawser
