#include "hawser/tok/gguf_vocab.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/progress.h"
#include "hawser/tok/gguf_pre.h"
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
constexpr std::string_view kJson = "tokenizer.huggingface.json";

/// How text is cut before merges.
const PreRule& RuleOf(const GgufFile& file) {
  std::string_view name = file.Text(kPre).value_or("");
  if (name.empty() || name == "default") {
    const std::string_view architecture = file.Text("general.architecture").value_or("");
    name = architecture == "gptneox" ? "gpt-neox" : "gpt-2";
    LogLine(fmt::format("'{}' is not given; text is cut as {} does", kPre, name));
  }
  return FindPreRule(name);
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

/// What tokenizer_config.json would say. `adds_bos`: where the file does not; nothing: as the tokenizer itself does.
json ConfigJson(const GgufFile& file, std::optional<bool> adds_bos) {
  const auto tokens = file.Texts(kTokens);
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"add_eos_token", file.Bool("tokenizer.ggml.add_eos_token").value_or(false)},
                 {"clean_up_tokenization_spaces", false}};
  if (const auto stored = file.Bool("tokenizer.ggml.add_bos_token")) adds_bos = stored;
  if (adds_bos) config["add_bos_token"] = *adds_bos;
  for (const auto& [name, key] : {std::pair("bos", "bos_token"), std::pair("eos", "eos_token"),
                                  std::pair("unknown", "unk_token"), std::pair("padding", "pad_token")}) {
    if (const int32_t id = SpecialId(file, name, tokens.size(), -1); id >= 0)
      config[key] = tokens[static_cast<size_t>(id)];
  }
  if (const auto chat = file.Text("tokenizer.chat_template")) config["chat_template"] = *chat;
  return config;
}

/// The tokenizer.json that came with the file.
std::unique_ptr<BpeTokenizer> StoredTokenizer(const GgufFile& file) {
  const auto tokens = file.Texts(kTokens);
  auto tokenizer = WithFrame(kJson, [&] { return std::make_unique<BpeTokenizer>(std::string(*file.Text(kJson))); });
  const auto count = static_cast<int32_t>(tokens.size());
  for (int32_t id = 0; id < std::max(count, tokenizer->vocab_size()); ++id) {
    const std::string name = id < tokenizer->vocab_size() ? tokenizer->Display(id) : std::string();
    if (name.empty() || (id < count && tokens[static_cast<size_t>(id)] == name)) continue;
    Fail(ErrorKind::kFormat, "'{}' has \"{}\" as token {}, '{}' {}", kJson, name, id, kTokens,
         id < count ? fmt::format("\"{}\"", tokens[static_cast<size_t>(id)]) : fmt::format("has only {}", count));
  }
  tokenizer->set_bos(SpecialId(file, "bos", tokens.size(), -1));
  tokenizer->set_eos(SpecialId(file, "eos", tokens.size(), -1));
  tokenizer->set_config(ConfigJson(file, std::nullopt));
  tokenizer->set_chat_template(std::string(file.Text("tokenizer.chat_template").value_or("")));
  return tokenizer;
}

std::unique_ptr<BpeTokenizer> ByteLevelTokenizer(const GgufFile& file) {
  const auto tokens = file.Texts(kTokens);
  const std::vector<PieceType> types = TokenTypes(file, tokens.size());
  const PreRule& rule = RuleOf(file);
  json vocab = json::object(), added = json::array(), merges = json::array();
  for (size_t i = 0; i < tokens.size(); ++i) {
    const bool special = types[i] == PieceType::kControl || types[i] == PieceType::kUnknown;
    if (special || types[i] == PieceType::kUserDefined) {
      added.push_back(AddedToken(i, tokens[i], special));
    } else if (!vocab.emplace(tokens[i], i).second) {
      Fail(ErrorKind::kFormat, "'{}': token {} stands there twice", kTokens, i);
    }
  }
  // Readers number added tokens that the model does not have from its end on, whatever id they name.
  for (const json& token : added) vocab.emplace(token["content"].get<std::string>(), token["id"]);
  for (const std::string_view merge : file.Texts(kMerges)) merges.push_back(merge);
  const json document = {
      {"version", "1.0"},
      {"added_tokens", std::move(added)},
      {"normalizer", rule.nfc ? json{{"type", "NFC"}} : json()},
      {"pre_tokenizer", PreTokenizerJson(rule)},
      {"post_processor",
       {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", false}, {"use_regex", true}}},
      {"decoder", {{"type", "ByteLevel"}, {"add_prefix_space", true}, {"trim_offsets", true}, {"use_regex", true}}},
      {"model", BpeModelJson(std::move(vocab), std::move(merges), rule.whole_words)}};
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
  if (file.Has(kJson)) return StoredTokenizer(file);
  if (model == "gpt2") return ByteLevelTokenizer(file);
  if (model == "llama") return ScoredTokenizer(file);
  Fail(ErrorKind::kUnsupported, "'{}' = '{}' is not supported; known are llama and gpt2", kModel, model);
}

}  // namespace hawser
