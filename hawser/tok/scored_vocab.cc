#include "hawser/tok/scored_vocab.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <unordered_map>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

using nlohmann::json;

constexpr size_t kMaxPiece = 4096;  // bytes; finding the merges of a piece costs the square of this

struct ScoredMerge {
  int32_t left;
  int32_t right;
  int32_t result;
};

/// Every pair of normal pieces whose joined text is a normal piece, best score first. Among equal scores the longer
/// result, then the longer left half: with these ranks a row of one character grows from the left, as it does where
/// ties go to the leftmost pair.
std::vector<ScoredMerge> DeriveMerges(const std::vector<ScoredPiece>& pieces) {
  std::unordered_map<std::string_view, int32_t> ids;
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].type == PieceType::kNormal) ids.emplace(pieces[id].text, static_cast<int32_t>(id));
  }
  std::vector<ScoredMerge> merges;
  for (const auto& [text, id] : ids) {
    for (size_t cut = CodePointAt(text, 0).length; cut < text.size(); cut += CodePointAt(text, cut).length) {
      const auto left = ids.find(text.substr(0, cut));
      const auto right = left == ids.end() ? ids.end() : ids.find(text.substr(cut));
      if (right != ids.end()) merges.push_back({left->second, right->second, id});
    }
  }
  const auto piece = [&](int32_t id) -> const ScoredPiece& { return pieces[static_cast<size_t>(id)]; };
  std::sort(merges.begin(), merges.end(), [&](const ScoredMerge& a, const ScoredMerge& b) {
    const ScoredPiece& to_a = piece(a.result);
    const ScoredPiece& to_b = piece(b.result);
    if (to_a.score != to_b.score) return to_a.score > to_b.score;
    if (to_a.text.size() != to_b.text.size()) return to_a.text.size() > to_b.text.size();
    if (a.result != b.result) return a.result < b.result;
    return piece(a.left).text.size() > piece(b.left).text.size();
  });
  return merges;
}

/// Checks the pieces and makes their texts distinct.
void Settle(ScoredVocab& vocab) {
  std::unordered_map<std::string, size_t> seen;
  for (size_t id = 0; id < vocab.pieces.size(); ++id) {
    ScoredPiece& piece = vocab.pieces[id];
    if (!IsUtf8(piece.text)) Fail(ErrorKind::kFormat, "piece {} is not UTF-8", id);
    if (piece.text.size() > kMaxPiece) {
      Fail(ErrorKind::kFormat, "piece {} has {} bytes, at most {} are allowed", id, piece.text.size(), kMaxPiece);
    }
    if (std::isnan(piece.score))
      Fail(ErrorKind::kFormat, "piece {} (\"{}\"): its score is not a number", id, piece.text);
    if (piece.text.empty() || !seen.emplace(piece.text, id).second) {
      piece.text = fmt::format("[PAD{}]", id);
      piece.type = PieceType::kControl;
      if (!seen.emplace(piece.text, id).second) Fail(ErrorKind::kFormat, "piece {} repeats an earlier one", id);
    }
  }
  const auto count = static_cast<int32_t>(vocab.pieces.size());
  for (const int32_t id : {vocab.unk, vocab.bos, vocab.eos}) {
    if (id < -1 || id >= count) Fail(ErrorKind::kFormat, "special id {} is outside the {} pieces", id, count);
  }
}

json Replace(const json& pattern, std::string_view content) {
  return {{"type", "Replace"}, {"pattern", pattern}, {"content", content}};
}

}  // namespace

std::unique_ptr<BpeTokenizer> MakeScoredTokenizer(ScoredVocab vocab) {
  Settle(vocab);
  const auto& pieces = vocab.pieces;
  const auto text = [&](int32_t id) { return pieces[static_cast<size_t>(id)].text; };
  constexpr const char* kMark = "\u2581";

  json entries = json::object();
  json added = json::array();
  bool has_bytes = false;
  bool has_blanks = false;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const ScoredPiece& piece = pieces[id];
    entries[piece.text] = id;
    has_bytes = has_bytes || piece.type == PieceType::kByte;
    has_blanks = has_blanks || piece.text.find(' ') != std::string::npos;
    if (piece.type == PieceType::kNormal || piece.type == PieceType::kByte) continue;
    added.push_back({{"id", id},
                     {"content", piece.text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", piece.type != PieceType::kUserDefined}});
  }

  json merge_list = json::array();
  std::vector<uint32_t> ranks;
  int32_t previous = -1;
  for (const ScoredMerge& merge : DeriveMerges(pieces)) {
    const bool tie =
        previous >= 0 && pieces[static_cast<size_t>(previous)].score == pieces[static_cast<size_t>(merge.result)].score;
    ranks.push_back(tie ? ranks.back() : static_cast<uint32_t>(ranks.size()));
    previous = merge.result;
    if (has_blanks) {  // the older form, with one blank between, would be ambiguous
      merge_list.push_back({text(merge.left), text(merge.right)});
    } else {
      merge_list.push_back(text(merge.left) + " " + text(merge.right));
    }
  }

  json normalizers = json::array();
  if (vocab.remove_extra_whitespaces) {
    normalizers.push_back(Replace({{"Regex", "\\A +| +\\z"}}, ""));
    normalizers.push_back(Replace({{"Regex", " {2,}"}}, " "));
  }
  if (vocab.add_dummy_prefix)
    normalizers.push_back({{"type", "Prepend"}, {"prepend", vocab.escape_whitespaces ? kMark : " "}});
  json decoders = json::array();
  if (vocab.escape_whitespaces) {
    normalizers.push_back(Replace({{"String", " "}}, kMark));
    decoders.push_back(Replace({{"String", kMark}}, " "));
  }
  decoders.push_back({{"type", "ByteFallback"}});
  decoders.push_back({{"type", "Fuse"}});
  if (vocab.add_dummy_prefix) {
    decoders.push_back({{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}});
  }
  json post_processor;
  if (vocab.bos >= 0) {
    const json bos = {{"SpecialToken", {{"id", text(vocab.bos)}, {"type_id", 0}}}};
    const auto sequence = [](const char* id, int type) { return json{{"Sequence", {{"id", id}, {"type_id", type}}}}; };
    post_processor = {
        {"type", "TemplateProcessing"},
        {"single", json::array({bos, sequence("A", 0)})},
        {"pair", json::array({bos, sequence("A", 0), sequence("B", 1)})},
        {"special_tokens",
         {{text(vocab.bos),
           {{"id", text(vocab.bos)}, {"ids", json::array({vocab.bos})}, {"tokens", json::array({text(vocab.bos)})}}}}}};
  }
  const json unk = vocab.unk >= 0 ? json(text(vocab.unk)) : json();
  const json document = {{"version", "1.0"},
                         {"truncation", nullptr},
                         {"padding", nullptr},
                         {"added_tokens", std::move(added)},
                         {"normalizer", {{"type", "Sequence"}, {"normalizers", std::move(normalizers)}}},
                         {"pre_tokenizer", nullptr},
                         {"post_processor", std::move(post_processor)},
                         {"decoder", {{"type", "Sequence"}, {"decoders", std::move(decoders)}}},
                         {"model",
                          {{"type", "BPE"},
                           {"dropout", nullptr},
                           {"unk_token", unk},
                           {"continuing_subword_prefix", nullptr},
                           {"end_of_word_suffix", nullptr},
                           {"fuse_unk", true},
                           {"byte_fallback", has_bytes},
                           {"ignore_merges", false},
                           {"vocab", std::move(entries)},
                           {"merges", std::move(merge_list)}}}};
  auto tokenizer = std::make_unique<BpeTokenizer>(
      document.dump(), TokenizerOrigin{.kind = vocab.kind, .ranks = std::move(ranks), .prepend_once = true});
  tokenizer->set_bos(vocab.bos);
  tokenizer->set_eos(vocab.eos);
  json config = {{"tokenizer_class", "PreTrainedTokenizerFast"},
                 {"add_bos_token", vocab.bos >= 0},
                 {"add_eos_token", false},
                 {"clean_up_tokenization_spaces", false}};
  if (vocab.unk >= 0) config["unk_token"] = text(vocab.unk);
  tokenizer->set_config(std::move(config));
  return tokenizer;
}

}  // namespace hawser
