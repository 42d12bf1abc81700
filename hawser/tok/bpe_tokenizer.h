// tok/bpe_tokenizer.h - the one tokenizer there is: added tokens, normalizer, pre-tokenizer, merges, as a
// tokenizer.json describes them (github.com/huggingface/tokenizers). The other formats are turned into one.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "hawser/tok/added_tokens.h"
#include "hawser/tok/bpe.h"
#include "hawser/tok/normalizer.h"
#include "hawser/tok/pre_tokenizer.h"
#include "hawser/tok/sentencepiece_text.h"
#include "hawser/tok/tokenizer.h"
#include "hawser/tok/unigram.h"

namespace hawser {

/// What a format that was turned into a tokenizer.json brings beside its text.
struct TokenizerOrigin {
  std::string kind;           // empty: "tokenizer.json ..."
  std::vector<Merge> merges;  // where the text has none; equal ranks allowed
};

class BpeTokenizer final : public Tokenizer {
 public:
  /// Errors: kFormat, kUnsupported naming the key.
  explicit BpeTokenizer(std::string json_text, TokenizerOrigin origin = {});

  std::string Kind() const override { return kind_; }
  int32_t vocab_size() const override { return static_cast<int32_t>(names_.size()); }
  std::vector<int32_t> Encode(std::string_view text, bool parse_special = false, bool goes_on = false) const override;
  std::vector<int32_t> EncodeMarked(std::string_view text, std::string_view marks, bool goes_on = false) const override;
  std::string Piece(int32_t id) const override;
  std::string Display(int32_t id) const override;
  bool adds_dummy_prefix() const override { return strip_first_; }
  void Save(const std::filesystem::path& folder) const override;

  /// The id of a piece as it is written in the vocabulary; -1 where there is none.
  int32_t IdOf(std::string_view name) const;

  /// The tokenizer.json that Save writes.
  std::string JsonText() const;
  /// A unigram model, which has no merges.
  bool is_unigram() const { return is_unigram_; }
  /// Every merge, in no order; equal ranks where the vocabulary has them.
  std::vector<Merge> Merges() const { return merges_.All(); }

  /// tokenizer_config.json as it was found; Save writes it again with the present BOS and EOS. Its "add_bos_token",
  /// where it is said, wins over the template.
  void set_config(nlohmann::json config);
  const nlohmann::json& config() const { return config_; }

 private:
  struct StringHash {
    using is_transparent = void;
    size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
  };
  template <class Value>
  using StringMap = std::unordered_map<std::string, Value, StringHash, std::equal_to<>>;
  struct Call;  // what one Encode keeps: output, cache of words, scratch

  void ReadVocab(const nlohmann::json& model);
  void ReadUnigram(const nlohmann::json& model);
  void MakeUnigram(const nlohmann::json& model);
  void ReadByteFallback(const nlohmann::json& model);
  void ReadAddedTokens(const nlohmann::json& list);
  void ReadLevels();
  void ReadMerges(const nlohmann::json& model, std::vector<Merge> merges);
  nlohmann::json WithMerges() const;
  void ReadDecoder(const nlohmann::json& decoder, int depth);
  void SetPieces();
  void Name(int64_t id, const std::string& name);
  void CheckId(int32_t id) const;
  int32_t EncodedId(std::string_view name) const;
  void EncodeStretch(std::string_view text, bool parse_special, TextPlace place, Call& call) const;
  void EncodePiece(std::string_view piece, Call& call) const;
  void EncodeWord(std::string_view word, Call& call) const;
  void AppendBytes(std::string_view word, Call& call) const;
  void AppendWord(std::string_view word, Call& call) const;
  void AppendUnknown(std::string_view text, Call& call) const;

  std::string json_text_;
  std::string kind_;
  nlohmann::json config_;
  Normalizer normalizer_;
  PreTokenizer pre_tokenizer_;
  AddedTokens raw_tokens_;           // looked for in the text as it came
  AddedTokens normalized_tokens_;    // looked for after the normalizer
  SentencePieceText sentencepiece_;  // in place of normalizer and pre-tokenizer, where it is set
  StringMap<int32_t> vocab_;         // of names, those of added tokens too
  MergeTable merges_;
  UnigramModel unigram_;  // in place of merges, where it is_unigram_
  bool is_unigram_ = false;
  std::array<int32_t, 256> byte_ids_{};   // "<0x00>"...; -1: none
  std::array<int32_t, 256> level_ids_{};  // of bytes in the printable alphabet
  bool takes_bytes_ = false;              // words are bytes, each of which has an id in level_ids_
  int32_t unk_ = -1;
  bool fuse_unk_ = false;
  bool ignore_merges_ = false;
  bool has_merges_ = true;     // in json_text_
  bool cut_at_marks_ = false;  // no merge reaches across the start of a word, so words can be merged one by one

  std::vector<std::string> names_;                   // by id, as written
  std::vector<std::string> pieces_;                  // by id, the bytes
  std::map<int32_t, std::string> normalized_names_;  // of added tokens that are looked for in normalized text
  std::vector<uint8_t> control_;                     // by id: a special token, decodes to nothing
  std::vector<uint8_t> added_;                       // by id: an added token
  std::vector<uint8_t> of_model_;                    // by id: in the vocabulary of the merges
  bool decodes_byte_level_ = false;
  bool decodes_byte_fallback_ = false;
  bool strip_first_ = false;
  std::vector<std::pair<std::string, std::string>> decoder_replaces_;
};

}  // namespace hawser
