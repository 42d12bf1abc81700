#include "hawser/tok/gguf_vocab.h"

#include <array>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/tok/byte_level.h"
#include "hawser/tok/scored_vocab.h"

namespace hawser {
namespace {

using nlohmann::json;

constexpr std::string_view kModel = "tokenizer.ggml.model";
constexpr std::string_view kPre = "tokenizer.ggml.pre";
constexpr std::string_view kTokens = "tokenizer.ggml.tokens";
constexpr std::string_view kScores = "tokenizer.ggml.scores";
constexpr std::string_view kTypes = "tokenizer.ggml.token_type";
constexpr std::string_view kMerges = "tokenizer.ggml.merges";

// How text is cut before merges. Each step splits what the one before left: by a pattern whose matches stand alone, by
// single or grouped digits, or by punctuation.
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kBloom = R"( ?[^(\s|.,!?…。，、।۔،)]+)";
constexpr std::string_view kCjk = "[一-龥ࠀ-一가-퟿]+";

struct PreRule {
  std::string_view name;  // of the rule in GGUF files, several joined by |
  std::vector<std::string_view> patterns;
  std::string_view digits;  // "", "single": each digit alone, before the last pattern
  bool nfc = false;
  bool whole_words = false;  // a word that is a token is that token, whatever the merges say
};

const std::vector<PreRule>& PreRules() {
  static const std::vector<PreRule> rules = {
      {"gpt-2|phi-2|jais|roberta-bpe", {kGpt2Pattern}, "", false, false},
      {"mpt|olmo|gpt-neox", {kGpt2Pattern}, "", true, false},
      {"llama-bpe|llama3|llama-v3|falcon3|pixtral", {kLlama3}, "", false, true},
      {"qwen2|deepseek-r1-qwen|megrez", {kQwen2}, "", true, false},
      {"smollm|starcoder|refact|command-r|codeshell|granite|exaone", {kGpt2Pattern}, "single", false, false},
      {"falcon", {R"([\p{P}$+<=>^`|~]+)", kGpt2Pattern, "[0-9][0-9][0-9]"}, "", false, false},
      {"bloom|poro-chat|gpt3-finnish", {kBloom}, "", false, false},
      {"deepseek-coder", {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+)", kCjk}, "single", false, false},
      {"deepseek-llm",
       {"[\r\n]", R"(\s?[\p{Lu}\p{Ll}\p{Lt}]+)", R"(\s?[!-/:-~！-／：-～‘-‟　-。]+)", R"(\s+$)", kCjk},
       "single",
       false,
       false},
  };
  return rules;
}

bool Names(const PreRule& rule, std::string_view name) {
  const std::string padded = "|" + std::string(rule.name) + "|";
  return !name.empty() && padded.find("|" + std::string(name) + "|") != std::string::npos;
}

const PreRule& FindPreRule(const GgufFile& file) {
  std::string_view name = file.Text(kPre).value_or("");
  if (name.empty() || name == "default") {
    const std::string_view architecture = file.Text("general.architecture").value_or("");
    name = architecture == "gptneox" ? "gpt-neox" : "gpt-2";
    LogLine(fmt::format("'{}' is not given; text is cut as {} does", kPre, name));
  }
  std::string known;
  for (const PreRule& rule : PreRules()) {
    if (Names(rule, name)) return rule;
    for (const char c : "|" + std::string(rule.name))
      known += c == '|' ? std::string(known.empty() ? "" : ", ") : std::string(1, c);
  }
  Fail(ErrorKind::kUnsupported, "'{}' = '{}' is not supported; known are {}", kPre, name, known);
}

json SplitStep(std::string_view pattern) {
  return {{"type", "Split"}, {"pattern", {{"Regex", pattern}}}, {"behavior", "Isolated"}, {"invert", false}};
}

json PreTokenizerJson(const PreRule& rule) {
  json steps = json::array();
  if (rule.digits == "single" && rule.patterns.size() == 1) {
    steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  }
  for (const std::string_view pattern : rule.patterns) steps.push_back(SplitStep(pattern));
  if (rule.digits == "single" && rule.patterns.size() > 1) {
    steps.push_back({{"type", "Digits"}, {"individual_digits", true}});
  }
  steps.push_back({{"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", false}});
  return {{"type", "Sequence"}, {"pretokenizers", std::move(steps)}};
}

/// The type of each token, normal where the file gives none.
std::vector<PieceType> TokenTypes(const GgufFile& file, size_t tokens) {
  std::vector<PieceType> types(tokens, PieceType::kNormal);
  const auto stored = file.Ints(kTypes);
  if (stored.empty()) return types;
  if (stored.size() != tokens) {
    Fail(ErrorKind::kFormat, "'{}' has {} entries, '{}' {}", kTypes, stored.size(), kTokens, tokens);
  }
  for (size_t i = 0; i < tokens; ++i) {
    if (stored[i] < 1 || stored[i] > 6) {
      Fail(ErrorKind::kFormat, "'{}': token {} has type {}, known are 1 to 6", kTypes, i, stored[i]);
    }
    types[i] = static_cast<PieceType>(stored[i]);
  }
  return types;
}

/// A special token's id; -1 where none is given.
int32_t SpecialId(const GgufFile& file, std::string_view name, size_t tokens, int32_t fallback) {
  const std::string key = fmt::format("tokenizer.ggml.{}_token_id", name);
  const auto id = file.Int(key, 0, static_cast<int64_t>(UINT32_MAX));
  if (!id) return fallback;
  if (*id == static_cast<int64_t>(UINT32_MAX)) return -1;  // how some writers say none
  if (*id >= static_cast<int64_t>(tokens)) {
    Fail(ErrorKind::kFormat, "'{}' is {}, there are {} tokens", key, *id, tokens);
  }
  return static_cast<int32_t>(*id);
}

json AddedToken(size_t id, std::string_view text, bool special) {
  return {{"id", id},        {"content", text},     {"single_word", false}, {"lstrip", false},
          {"rstrip", false}, {"normalized", false}, {"special", special}};
}

/// What tokenizer_config.json would say.
json ConfigJson(const GgufFile& file, bool adds_bos) {
  const auto tokens = file.Texts(kTokens);
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"add_bos_token", file.Bool("tokenizer.ggml.add_bos_token").value_or(adds_bos)},
                 {"add_eos_token", file.Bool("tokenizer.ggml.add_eos_token").value_or(false)},
                 {"clean_up_tokenization_spaces", false}};
  for (const auto& [name, key] : {std::pair("bos", "bos_token"), std::pair("eos", "eos_token"),
                                  std::pair("unknown", "unk_token"), std::pair("padding", "pad_token")}) {
    if (const int32_t id = SpecialId(file, name, tokens.size(), -1); id >= 0)
      config[key] = tokens[static_cast<size_t>(id)];
  }
  if (const auto chat = file.Text("tokenizer.chat_template")) config["chat_template"] = *chat;
  return config;
}

std::unique_ptr<BpeTokenizer> ByteLevelTokenizer(const GgufFile& file) {
  const auto tokens = file.Texts(kTokens);
  const std::vector<PieceType> types = TokenTypes(file, tokens.size());
  const PreRule& rule = FindPreRule(file);
  json vocab = json::object(), added = json::array(), merges = json::array();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool special = types[i] == PieceType::kControl || types[i] == PieceType::kUnknown;
    if (special || types[i] == PieceType::kUserDefined) {
      added.push_back(AddedToken(i, tokens[i], special));
    } else if (!vocab.emplace(tokens[i], i).second) {
      Fail(ErrorKind::kFormat, "'{}': token {} stands there twice", kTokens, i);
    }
  }
  for (const std::string_view merge : file.Texts(kMerges)) merges.push_back(merge);
  const json document = {
      {"version", "1.0"},
      {"added_tokens", std::move(added)},
      {"normalizer", rule.nfc ? json{{"type", "NFC"}} : json()},
      {"pre_tokenizer", PreTokenizerJson(rule)},
      {"post_processor",
       {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}, {"use_regex", true}}},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model",
       {{"type", "BPE"},
        {"dropout", nullptr},
        {"unk_token", nullptr},
        {"continuing_subword_prefix", nullptr},
        {"end_of_word_suffix", nullptr},
        {"fuse_unk", false},
        {"byte_fallback", false},
        {"ignore_merges", rule.whole_words},
        {"vocab", std::move(vocab)},
        {"merges", std::move(merges)}}}};
  auto tokenizer = std::make_unique<BpeTokenizer>(document.dump(), TokenizerOrigin{.kind = "GGUF byte-level BPE"});
  tokenizer->set_bos(SpecialId(file, "bos", tokens.size(), -1));
  tokenizer->set_eos(SpecialId(file, "eos", tokens.size(), -1));
  tokenizer->set_config(ConfigJson(file, false));
  tokenizer->set_chat_template(std::string(file.Text("tokenizer.chat_template").value_or("")));
  return tokenizer;
}

std::unique_ptr<BpeTokenizer> ScoredTokenizer(const GgufFile& file) {
  const auto tokens = file.Texts(kTokens);
  const auto scores = file.Numbers(kScores);
  const std::vector<PieceType> types = TokenTypes(file, tokens.size());
  if (scores.size() != tokens.size()) {
    Fail(ErrorKind::kFormat, "'{}' has {} entries, '{}' {}", kScores, scores.size(), kTokens, tokens.size());
  }
  ScoredVocab vocab{.kind = "GGUF SentencePiece BPE"};
  for (size_t i = 0; i < tokens.size(); ++i) {
    vocab.pieces.push_back({std::string(tokens[i]), static_cast<float>(scores[i]), types[i]});
  }
  vocab.add_dummy_prefix = file.Bool("tokenizer.ggml.add_space_prefix").value_or(true);
  vocab.remove_extra_whitespaces = file.Bool("tokenizer.ggml.remove_extra_whitespaces").value_or(false);
  const auto or_none = [&](int32_t id) { return static_cast<size_t>(id) < tokens.size() ? id : -1; };
  vocab.unk = SpecialId(file, "unknown", tokens.size(), or_none(0));
  vocab.bos = SpecialId(file, "bos", tokens.size(), or_none(1));
  vocab.eos = SpecialId(file, "eos", tokens.size(), or_none(2));
  auto tokenizer = MakeScoredTokenizer(std::move(vocab));
  tokenizer->set_config(ConfigJson(file, true));
  tokenizer->set_chat_template(std::string(file.Text("tokenizer.chat_template").value_or("")));
  return tokenizer;
}

}  // namespace

std::unique_ptr<BpeTokenizer> GgufTokenizer(const GgufFile& file) {
  const std::string_view model = file.Text(kModel).value_or("no_vocab");
  if (model == "no_vocab" || model == "none") return nullptr;
  if (file.Texts(kTokens).empty()) Fail(ErrorKind::kFormat, "'{}' is missing or empty", kTokens);
  if (model == "gpt2") return ByteLevelTokenizer(file);
  if (model == "llama") return ScoredTokenizer(file);
  Fail(ErrorKind::kUnsupported, "'{}' = '{}' is not supported; known are llama and gpt2", kModel, model);
}

}  // namespace hawser
