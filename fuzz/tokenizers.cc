// Vocabularies of every kind, used on a text once they are read.
#include <cstring>
#include <filesystem>
#include <memory>

#include "fuzz/mutate.h"
#include "fuzz/target.h"
#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/jinja/template.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/byte_level.h"
#include "hawser/tok/regex.h"
#include "hawser/tok/scored_vocab.h"
#include "hawser/tok/tokenizer.h"

namespace hawser::fuzz {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr std::string_view kText = "Grüße, <s> 12 of\n\nthe  lazy </s>\tdogs' tails… \U0001F642 日本 a\u0301";

/// A tokenizer that was read encodes any text and decodes every id, or says why not.
void Use(const Tokenizer& tokenizer) {
  for (const bool special : {false, true}) tokenizer.Decode(tokenizer.Encode(kText, special));
  const int32_t shown = std::min(tokenizer.vocab_size(), 400);
  for (int32_t id = 0; id < shown; ++id) tokenizer.Piece(id), tokenizer.Display(id);
}

std::vector<std::string> TokenizerWords() {
  return {"type",
          "Sequence",
          "normalizers",
          "pretokenizers",
          "decoders",
          "processors",
          "NFC",
          "NFKD",
          "Lowercase",
          "Replace",
          "Prepend",
          "Strip",
          "StripAccents",
          "pattern",
          "String",
          "Regex",
          "content",
          "ByteLevel",
          "Split",
          "Metaspace",
          "replacement",
          "prepend_scheme",
          "always",
          "first",
          "never",
          "Digits",
          "Punctuation",
          "Whitespace",
          "WhitespaceSplit",
          "behavior",
          "Isolated",
          "Removed",
          "MergedWithNext",
          "Contiguous",
          "invert",
          "BPE",
          "Unigram",
          "unk_id",
          "vocab",
          "merges",
          "unk_token",
          "byte_fallback",
          "ignore_merges",
          "added_tokens",
          "special",
          "lstrip",
          "rstrip",
          "single_word",
          "normalized",
          "id",
          "ByteFallback",
          "Fuse",
          "TemplateProcessing",
          "single",
          "SpecialToken",
          "RobertaProcessing",
          "split",
          "add_prefix_space",
          "use_regex",
          "individual_digits",
          "trim",
          "\u2581",
          "\\s+|\\w+",
          "a",
          "<s>",
          "continuing_subword_prefix",
          "end_of_word_suffix",
          "dropout"};
}

std::vector<std::string> TokenizerFiles() {
  std::vector<std::string> files = {ByteLevelTokenizerJson({" of", "the"})};
  const json model = {{"type", "BPE"},
                      {"unk_token", "<unk>"},
                      {"byte_fallback", true},
                      {"vocab", {{"<unk>", 0}, {"<s>", 1}, {"</s>", 2}, {"\u2581", 3}, {"a", 4}, {"\u2581a", 5}}},
                      {"merges", {"\u2581 a"}}};
  const auto file = [&](json normalizer, json pre, json decoder, json post) {
    json tokens = json::array();
    for (int id = 0; id < 3; ++id) {
      tokens.push_back({{"id", id}, {"content", id == 0 ? "<unk>" : id == 1 ? "<s>" : "</s>"}, {"special", true}});
    }
    const json whole = {{"version", "1.0"},     {"added_tokens", tokens}, {"normalizer", std::move(normalizer)},
                        {"pre_tokenizer", pre}, {"decoder", decoder},     {"post_processor", post},
                        {"model", model}};
    files.push_back(whole.dump());
  };
  const json replace = {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}};
  const json prepend = {{"type", "Prepend"}, {"prepend", "\u2581"}};
  const json back = {{"type", "Replace"}, {"pattern", {{"String", "\u2581"}}}, {"content", " "}};
  file(
      {{"type", "Sequence"}, {"normalizers", {prepend, replace}}}, nullptr,
      {{"type", "Sequence"},
       {"decoders",
        {back,
         {{"type", "ByteFallback"}},
         {{"type", "Fuse"}},
         {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}},
      {{"type", "TemplateProcessing"},
       {"single", {{{"SpecialToken", {{"id", "<s>"}, {"type_id", 0}}}}, {{"Sequence", {{"id", "A"}, {"type_id", 0}}}}}},
       {"pair", json::array()},
       {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {1}}, {"tokens", {"<s>"}}}}}}});
  file({{"type", "NFC"}}, {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "first"}},
       {{"type", "Metaspace"}, {"replacement", "\u2581"}}, nullptr);
  file(nullptr,
       {{"type", "Sequence"},
        {"pretokenizers",
         {{{"type", "Split"}, {"pattern", {{"Regex", "\\s+|\\w+"}}}, {"behavior", "Isolated"}, {"invert", false}},
          {{"type", "Digits"}, {"individual_digits", true}},
          {{"type", "Punctuation"}}}}},
       nullptr, nullptr);
  json unigram = json::parse(files[2]);
  unigram["model"] = {{"type", "Unigram"}, {"unk_id", 0}, {"byte_fallback", true}, {"vocab", json::array()}};
  for (const auto& [piece, score] : std::initializer_list<std::pair<const char*, double>>{
           {"<unk>", 0}, {"<s>", 0}, {"</s>", 0}, {"\u2581", -2}, {"a", -3}, {"\u2581a", -4.5}, {"<0x61>", 0}}) {
    unigram["model"]["vocab"].push_back(json::array({piece, score}));
  }
  files.push_back(unigram.dump());
  return files;
}

void RunTokenizerFile(std::string_view input) {
  const BpeTokenizer tokenizer{std::string(input)};
  Use(tokenizer);
}

void RunTokenizerConfig(std::string_view input) {
  static const std::string vocabulary = InFile("tokenizer/tokenizer.json", TokenizerFiles()[1]);
  const fs::path folder = fs::path(InFile("tokenizer/tokenizer_config.json", input)).parent_path();
  const std::unique_ptr<Tokenizer> tokenizer = LoadTokenizer(folder);
  Use(*tokenizer);
  const fs::path saved = folder / "saved";
  tokenizer->Save(saved);
  try {
    LoadTokenizer(saved);
  } catch (const Error& error) {
    Finding(fmt::format("a saved tokenizer is refused: {}", error.what()));
  }
}

// SentencePiece is protobuf: fields of a number, a wire type and a value.

void PutVarint(std::string* out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out->push_back(static_cast<char>(value | 0x80));
  out->push_back(static_cast<char>(value));
}
std::string Number(uint32_t field, int64_t value) {
  std::string out;
  PutVarint(&out, field << 3);
  PutVarint(&out, static_cast<uint64_t>(value));
  return out;
}
std::string Bytes(uint32_t field, std::string_view bytes) {
  std::string out;
  PutVarint(&out, field << 3 | 2);
  PutVarint(&out, bytes.size());
  return out.append(bytes);
}
std::string Float(uint32_t field, float value) {
  std::string out;
  PutVarint(&out, field << 3 | 5);
  return out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

/// `odd`: also with types of pieces that are refused.
std::string SentencePieceFile(Rng& rng, bool odd) {
  std::string file;
  const auto piece = [&](std::string_view text, float score, int type) {
    file += Bytes(1, Bytes(1, text) + Float(2, score) + Number(3, type));
  };
  piece("<unk>", 0, 2);
  piece("<s>", 0, 3);
  piece("</s>", 0, 3);
  if (rng.Below(2) == 0) {
    for (int b = 0; b < 256; ++b) piece(fmt::format("<0x{:02X}>", b), 0, 6);
  }
  const std::vector<std::string> texts = {"\u2581", "a", "b",  "\u2581a", "ab", "aa",  "aaaa", "\u2581the",    "t",
                                          "h",      "e", "th", "",        " ",  "x y", "日",   "\u2581\u2581", "<s>",
                                          "\n"};
  for (uint64_t n = rng.Below(40); n > 0; --n) {
    const int type = odd && rng.Below(8) == 0 ? static_cast<int>(rng.Below(7)) : rng.Below(6) == 0 ? 4 : 1;
    piece(Choose(texts, rng), static_cast<float>(-1.0 * static_cast<double>(rng.Below(50))), type);
  }
  std::string trainer = Number(3, odd && rng.Below(16) == 0 ? static_cast<int64_t>(rng.Below(5)) : 2);
  for (const uint32_t field : {40u, 41u, 42u}) {
    if (odd && rng.Below(4) == 0) trainer += Number(field, EdgeNumber(rng));
  }
  std::string normalizer = Bytes(1, "identity");
  for (const uint32_t field : {3u, 4u, 5u}) {
    if (rng.Below(2) == 0) normalizer += Number(field, static_cast<int64_t>(rng.Below(2)));
  }
  return file + Bytes(2, trainer) + Bytes(3, normalizer);
}

std::string Llama2cTokenizerFile(Rng& rng) {
  std::string file;
  const auto put = [&](auto value) { file.append(reinterpret_cast<const char*>(&value), sizeof(value)); };
  put(int32_t{16});
  const std::vector<std::string> texts = {" ",    "a", "b", " a", "ab", "aa", "aaaa",
                                          " the", "t", "h", "e",  "th", "日", ""};
  for (uint64_t id = 0, n = 259 + rng.Below(40); id < n; ++id) {
    const std::string text = id < 259 ? "x" : Choose(texts, rng);
    put(static_cast<float>(-1.0 * static_cast<double>(rng.Below(50))));
    put(static_cast<int32_t>(text.size()));
    file += text;
  }
  return file;
}

template <class Make>
Mutator MadeOrChanged(Make make) {
  return [make](std::string_view input, Rng& rng) {
    const std::string file = rng.Below(2) == 0 ? make(rng) : std::string(input);
    return rng.Below(2) == 0 ? MutateBytes(file, rng) : file;
  };
}

template <class Make>
std::vector<std::string> Some(Make make) {
  std::vector<std::string> files;
  for (uint64_t i = 0; i < 6; ++i) {
    Rng rng{.seed = i, .stream = 1};
    files.push_back(make(rng));
  }
  return files;
}

void RunTemplate(std::string_view input) {
  static const jinja::Value globals = jinja::Value::FromJson(
      nlohmann::ordered_json::parse(
          R"({"messages": [{"role": "user", "content": " a b "}, {"role": "assistant", "content": "x"}],
              "bos_token": "<s>", "eos_token": "</s>", "add_generation_prompt": true, "tools": null})"),
      true);
  jinja::Template(input).Render(globals, {.steps = 20'000, .bytes = size_t{1} << 20});
}

void RunRegex(std::string_view input) {
  const Regex regex(input);
  size_t end = 0;
  regex.ForEachMatch(kText, [&](size_t from, size_t to) {
    if (from < end || to < from || to > kText.size()) Finding("matches overlap");
    end = to;
  });
}

}  // namespace

std::vector<Target> TokenizerTargets() {
  return {
      {.name = "tokenizer", .seeds = TokenizerFiles, .run = RunTokenizerFile, .mutate = JsonMutator(TokenizerWords())},
      {.name = "tokenizer_config",
       .seeds =
           [] {
             return std::vector<std::string>{
                 R"({"bos_token": "<s>", "eos_token": {"content": "</s>", "special": true}, "add_bos_token": true,
                     "model_max_length": 1000000000000000019884624838656, "chat_template": "{{ bos_token }}",
                     "added_tokens_decoder": {"0": {"content": "<unk>", "special": true}},
                     "tokenizer_class": "LlamaTokenizer"})"};
           },
       .run = RunTokenizerConfig,
       .mutate = JsonMutator({"bos_token", "eos_token", "pad_token", "unk_token", "add_bos_token", "add_eos_token",
                              "model_max_length", "chat_template", "added_tokens_decoder", "content", "special", "<s>",
                              "</s>", "tokenizer_class", "PreTrainedTokenizerFast", "legacy", "3", "7"})},
      {.name = "sentencepiece",
       .seeds = [] { return Some([](Rng& rng) { return SentencePieceFile(rng, false); }); },
       .run = [](std::string_view input) { Use(*MakeScoredTokenizer(ParseSentencePiece(input))); },
       .mutate = MadeOrChanged([](Rng& rng) { return SentencePieceFile(rng, true); })},
      {.name = "llama2c_tokenizer",
       .seeds = [] { return Some(Llama2cTokenizerFile); },
       .run = [](std::string_view input) { Use(*MakeScoredTokenizer(ParseLlama2cTokenizer(input))); },
       .mutate = MadeOrChanged(Llama2cTokenizerFile)},
      {.name = "template",
       .seeds =
           [] {
             return std::vector<std::string>{
                 "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[{{ m['content'] | trim }}]{% else %}"
                 "{{ m.content ~ eos_token }}{% endif %}{% endfor %}",
                 "{%- set ns = namespace(x=0) -%}{%- for i in range(3) if i % 2 == 0 -%}{% set ns.x = ns.x + i %}"
                 "{{ loop.index0 }}{%- endfor -%}{{ ns.x if ns.x is defined else raise_exception('no') }}",
                 "{% macro f(a, b=1) %}{{ a * b }}{% endmacro %}{{ f(2) }}{{ messages[-1:][0].content.split('a')|join "
                 "}}"};
           },
       .run = RunTemplate,
       .mutate = WordMutator({"{{",
                              "}}",
                              "{%",
                              "%}",
                              "{%-",
                              "-%}",
                              "{#",
                              "#}",
                              "if",
                              "else",
                              "elif",
                              "endif",
                              "for",
                              "in",
                              "endfor",
                              "set",
                              "endset",
                              "macro",
                              "endmacro",
                              "raw",
                              "endraw",
                              "generation",
                              "endgeneration",
                              "break",
                              "continue",
                              "not",
                              "and",
                              "or",
                              "is",
                              "defined",
                              "none",
                              "true",
                              "namespace",
                              "range",
                              "dict",
                              "loop",
                              "messages",
                              "content",
                              "role",
                              "bos_token",
                              "trim",
                              "upper",
                              "length",
                              "join",
                              "tojson",
                              "default",
                              "replace",
                              "list",
                              "items",
                              "first",
                              "selectattr",
                              "map",
                              "strftime_now",
                              "raise_exception",
                              "'a'",
                              "1e9",
                              "x"},
                             " .,|()[]{}%'=+-*/~:<>")},
      {.name = "regex",
       .seeds =
           [] {
             return std::vector<std::string>{"\\s+|\\w+", "(?i:'s|'t)|[^\\r\\n\\p{L}]?\\p{L}+|\\p{N}{1,3}"};
           },
       .run = RunRegex,
       .mutate = WordMutator({"\\s", "\\S", "\\w", "\\W", "\\h", "\\p{L}", "\\P{N}", "(?i:", "(?=", "(?<!", "[:alpha:]",
                              "{1,3}", "a", "\\K", "\\x{41}", "\\b", "(?R)", "\\1"},
                             "()[]{}|+*?^$.-")},
  };
}

}  // namespace hawser::fuzz
