#include "hawser/tok/gguf_pre.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "hawser/base/error.h"
#include "hawser/tok/byte_level.h"

namespace hawser {
namespace {

using nlohmann::json;

constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBloom = R"( ?[^(\s|.,!?…。，、।۔،)]+)";
constexpr std::string_view kBloomNested = R"( ?[^(\s|[.,!?…。，、।۔،])]+)";  // the same as its files have it
constexpr std::string_view kPunctuation = R"([\p{P}$+<=>^`|~]+)";
constexpr std::string_view kDigit = R"(\p{N})", kDigits = R"(\p{N}+)";
constexpr std::string_view kCjk = "[一-龥ࠀ-一가-퟿]+";

const std::vector<PreRule>& PreRules() {
  static const std::vector<PreRule> rules = {
      {"gpt-2|phi-2|jais|roberta-bpe", {kGpt2Pattern}, false, false, false},
      {"mpt|olmo|gpt-neox", {kGpt2Pattern}, false, true, false},
      {"llama-bpe|llama3|llama-v3|falcon3|pixtral", {kLlama3}, false, false, true},
      {"dbrx|smaug-bpe", {kLlama3}, false, false, false},
      {"tekken", {kTekken}, false, false, true},
      {"qwen2|deepseek-r1-qwen|megrez", {kQwen2}, false, true, false},
      {"smollm|starcoder|refact|command-r|codeshell|granite|exaone", {kGpt2Pattern}, true, false, false},
      {"falcon", {kPunctuation, kGpt2Pattern, "[0-9][0-9][0-9]"}, false, false, false},
      // Its tokenizer.json parts digits from the blank before them too, which no token of it holds together.
      {"falcon", {kPunctuation, kGpt2Pattern, kDigits, "[0-9][0-9][0-9]"}, false, false, false},
      {"bloom|poro-chat|gpt3-finnish", {kBloom}, false, false, false},
      {"bloom", {kBloomNested}, false, false, false},
      {"deepseek-coder", {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kCjk}, true, false, false},
      {"deepseek-llm",
       {"[\r\n]", R"(\s?[\p{Lu}\p{Ll}\p{Lt}]+)", R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)", R"(\s+$)", kCjk},
       true,
       false,
       false},
  };
  return rules;
}

bool Names(const PreRule& rule, std::string_view name) {
  const std::string padded = "|" + std::string(rule.names) + "|";
  return !name.empty() && padded.find("|" + std::string(name) + "|") != std::string::npos;
}

std::string_view FirstName(const PreRule& rule) { return rule.names.substr(0, rule.names.find('|')); }

json SplitStep(std::string_view pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}
json DigitsStep() { return {{"type", "Digits"}, {"individual_digits", true}}; }

std::string Shown(const json& part) { return part.is_object() ? part.value("type", "?") : part.dump(); }

/// What a pre_tokenizer does, in order: patterns whose matches stand alone.
void AddSteps(const json& pre, int depth, std::vector<std::string>* steps) {
  const std::string type = pre.is_object() ? pre.value("type", "") : "";
  const auto is = [&](const char* key, const json& value) { return pre.contains(key) && pre[key] == value; };
  if (type == "Sequence" && depth == 0 && pre.contains("pretokenizers") && pre["pretokenizers"].is_array()) {
    for (const json& part : pre["pretokenizers"]) AddSteps(part, depth + 1, steps);
  } else if (type == "ByteLevel" && is("add_prefix_space", false)) {
    if (!is("use_regex", false)) steps->emplace_back(kGpt2Pattern);
  } else if (type == "Digits") {
    steps->emplace_back(is("individual_digits", true) ? kDigit : kDigits);
  } else if (type == "Punctuation" && is("behavior", "Contiguous")) {
    steps->emplace_back(kPunctuation);
  } else if (type == "Split" && is("behavior", "Isolated") && !is("invert", true) && pre.contains("pattern") &&
             pre["pattern"].is_object() && pre["pattern"].contains("Regex") && pre["pattern"]["Regex"].is_string()) {
    steps->push_back(pre["pattern"]["Regex"].get<std::string>());
  } else {
    Fail(ErrorKind::kUnsupported, "GGUF has no name for the pre_tokenizer {} as this tokenizer has it", Shown(pre));
  }
}

std::vector<std::string> StepsOf(const PreRule& rule) {
  std::vector<std::string> steps(rule.patterns.begin(), rule.patterns.end());
  if (rule.single_digits) steps.insert(steps.size() == 1 ? steps.begin() : steps.end(), std::string(kDigit));
  return steps;
}

}  // namespace

const PreRule& FindPreRule(std::string_view name) {
  std::string known;
  for (const PreRule& rule : PreRules()) {
    if (Names(rule, name)) return rule;
    known += (known.empty() ? "" : ", ") + std::string(rule.names);
  }
  std::replace(known.begin(), known.end(), '|', ' ');
  Fail(ErrorKind::kUnsupported, "'tokenizer.ggml.pre' = '{}' is not supported; known are {}", name, known);
}

json PreTokenizerJson(const PreRule& rule) {
  json steps = json::array();
  if (rule.single_digits && rule.patterns.size() == 1) steps.push_back(DigitsStep());
  for (const std::string_view pattern : rule.patterns) steps.push_back(SplitStep(pattern));
  if (rule.single_digits && rule.patterns.size() > 1) steps.push_back(DigitsStep());
  steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

std::string PreNameOf(const json& tokenizer) {
  std::vector<std::string> steps;
  AddSteps(tokenizer.value("pre_tokenizer", json()), 0, &steps);
  const json normalizer = tokenizer.value("normalizer", json());
  const bool nfc = normalizer.is_object() && normalizer.value("type", "") == "NFC";
  if (!normalizer.is_null() && !nfc) {
    Fail(ErrorKind::kUnsupported, "GGUF has no name for the normalizer {} of this tokenizer", Shown(normalizer));
  }
  const bool whole_words = tokenizer.at("model").value("ignore_merges", false);
  const PreRule* near = nullptr;
  for (const PreRule& rule : PreRules()) {
    if (StepsOf(rule) != steps || rule.whole_words != whole_words) continue;
    if (rule.nfc == nfc) return std::string(FirstName(rule));
    if (near == nullptr) near = &rule;
  }
  if (near != nullptr) return std::string(FirstName(*near));
  Fail(ErrorKind::kUnsupported, "GGUF has no name for how this tokenizer cuts text: {}{}", fmt::join(steps, " then "),
       whole_words ? ", whole words first" : "");
}

}  // namespace hawser
