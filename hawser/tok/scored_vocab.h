// tok/scored_vocab.h - vocabularies whose pieces carry scores (SentencePiece, llama2.c), as tokenizers.
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "hawser/tok/bpe_tokenizer.h"

namespace hawser {

/// The numbers are those of SentencePiece's ModelProto (github.com/google/sentencepiece).
enum class PieceType : uint8_t { kNormal = 1, kUnknown = 2, kControl = 3, kUserDefined = 4, kUnused = 5, kByte = 6 };

struct ScoredPiece {
  std::string text;  // a byte is "<0x0A>"
  float score = 0;
  PieceType type = PieceType::kNormal;
};

struct ScoredVocab {
  std::string kind;                 // for Tokenizer::Kind()
  std::vector<ScoredPiece> pieces;  // by id
  bool add_dummy_prefix = true;
  bool remove_extra_whitespaces = false;
  bool escape_whitespaces = true;  // write blanks as U+2581
  int32_t unk = 0;
  int32_t bos = 1;  // -1: none
  int32_t eos = 2;
  nlohmann::json added = nullptr;  // tokens beyond the pieces, as "added_tokens" of a tokenizer.json
};

/// Every pair of normal pieces whose joined text is a normal piece, ranked by its score, best first; pieces of equal
/// scores share a rank. Time and memory follow the bytes of the pieces, whose texts are distinct.
std::vector<Merge> DeriveMerges(const std::vector<ScoredPiece>& pieces);

/// A tokenizer that joins, again and again, the neighbours whose joined text is the piece with the best score (the
/// leftmost of equals); characters that are no piece become byte pieces, or `unk` where there are none. Saved, it is a
/// tokenizer.json with the merges this implies. Pieces that repeat an earlier one, or are empty, can never come out
/// and are named [PAD<id>]. Errors: kFormat for text that is not UTF-8, over-long pieces, NaN scores, ids outside.
std::unique_ptr<BpeTokenizer> MakeScoredTokenizer(ScoredVocab vocab);

/// llama2.c tokenizer.bin: i32 longest piece, then per piece f32 score, i32 length, bytes, up to the end of the file;
/// ids 0 unknown, 1 BOS, 2 EOS, 3..258 the bytes. Errors: kFormat naming the piece and the offset.
ScoredVocab ParseLlama2cTokenizer(std::string_view file);

/// SentencePiece ModelProto of BPE type. Errors: kFormat (truncated, not protobuf); kUnsupported for other model types,
/// normalization tables and unused pieces.
ScoredVocab ParseSentencePiece(std::string_view file);

}  // namespace hawser
