#include "hawser/tok/scored_vocab.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <unordered_map>
#include <utility>

#include "hawser/base/error.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

using nlohmann::json;

bool ByteLess(char a, char b) { return static_cast<unsigned char>(a) < static_cast<unsigned char>(b); }

constexpr size_t kMaxPiece = 4096;  // bytes; a longer one is damage

/// For each text the longest other text that it begins with (`ends`: ends with), -1 for none. Texts are distinct.
std::vector<int32_t> LongestInside(const std::vector<std::string_view>& texts, bool ends) {
  const auto less = [ends](std::string_view a, std::string_view b) {
    return ends ? std::lexicographical_compare(a.rbegin(), a.rend(), b.rbegin(), b.rend(), ByteLess)
                : std::lexicographical_compare(a.begin(), a.end(), b.begin(), b.end(), ByteLess);
  };
  std::vector<int32_t> order(texts.size());
  std::iota(order.begin(), order.end(), 0);
  const auto text = [&](int32_t i) { return texts[static_cast<size_t>(i)]; };
  std::ranges::sort(order, [&](int32_t a, int32_t b) { return less(text(a), text(b)); });
  std::vector<int32_t> inside(texts.size(), -1);
  std::vector<int32_t> open;  // texts that may still be found inside, each inside the next
  for (const int32_t i : order) {
    while (!open.empty() && !(ends ? text(i).ends_with(text(open.back())) : text(i).starts_with(text(open.back())))) {
      open.pop_back();
    }
    if (!open.empty()) inside[static_cast<size_t>(i)] = open.back();
    open.push_back(i);
  }
  return inside;
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

std::vector<Merge> DeriveMerges(const std::vector<ScoredPiece>& pieces) {
  std::vector<int32_t> ids;
  std::vector<std::string_view> texts;
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (pieces[id].type != PieceType::kNormal) continue;
    ids.push_back(static_cast<int32_t>(id));
    texts.push_back(pieces[id].text);
  }
  const std::vector<int32_t> begins = LongestInside(texts, false), finishes = LongestInside(texts, true);
  const auto score = [&](int32_t i) { return pieces[static_cast<size_t>(ids[static_cast<size_t>(i)])].score; };
  std::vector<int32_t> order(texts.size());
  std::iota(order.begin(), order.end(), 0);
  std::ranges::stable_sort(order, [&](int32_t a, int32_t b) { return score(a) > score(b); });

  std::vector<Merge> merges;
  uint32_t rank = 0;
  std::vector<int32_t> rights;  // shortest first
  for (size_t place = 0; place < order.size(); ++place) {
    const int32_t whole = order[place];
    if (place == 0 || score(whole) != score(order[place - 1])) rank = static_cast<uint32_t>(merges.size());
    const auto size = [&](int32_t i) { return texts[static_cast<size_t>(i)].size(); };
    rights.clear();
    for (int32_t i = finishes[static_cast<size_t>(whole)]; i >= 0; i = finishes[static_cast<size_t>(i)]) {
      rights.push_back(i);
    }
    auto right = rights.rbegin();
    for (int32_t left = begins[static_cast<size_t>(whole)]; left >= 0; left = begins[static_cast<size_t>(left)]) {
      while (right != rights.rend() && size(*right) < size(whole) - size(left)) ++right;
      if (right == rights.rend()) break;
      if (size(*right) != size(whole) - size(left)) continue;
      merges.push_back(
          {ids[static_cast<size_t>(left)], ids[static_cast<size_t>(*right)], ids[static_cast<size_t>(whole)], rank});
    }
  }
  return merges;
}

std::unique_ptr<BpeTokenizer> MakeScoredTokenizer(ScoredVocab vocab) {
  Settle(vocab);
  const auto& pieces = vocab.pieces;
  const auto text = [&](int32_t id) { return pieces[static_cast<size_t>(id)].text; };
  constexpr const char* kMark = "\u2581";

  json entries = json::object();
  json added = json::array();
  json user_defined = json::array();
  bool has_bytes = false;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const ScoredPiece& piece = pieces[id];
    entries[piece.text] = id;
    has_bytes = has_bytes || piece.type == PieceType::kByte;
    if (piece.type == PieceType::kNormal || piece.type == PieceType::kByte) continue;
    if (piece.type == PieceType::kUserDefined) user_defined.push_back(id);
    added.push_back({{"id", id},
                     {"content", piece.text},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", piece.type != PieceType::kUserDefined}});
  }

  for (json& token : vocab.added) added.push_back(std::move(token));

  json normalizers = json::array();
  if (vocab.remove_extra_whitespaces) {
    normalizers.push_back(Replace({{"Regex", " {2,}"}}, " "));
    normalizers.push_back(Replace({{"Regex", "\\A | \\z"}}, ""));
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
                           {"merges", json::array()},
                           {"hawser",
                            {{"add_dummy_prefix", vocab.add_dummy_prefix},
                             {"remove_extra_whitespaces", vocab.remove_extra_whitespaces},
                             {"escape_whitespaces", vocab.escape_whitespaces},
                             {"user_defined", std::move(user_defined)}}}}}};
  auto tokenizer = std::make_unique<BpeTokenizer>(document.dump(),
                                                  TokenizerOrigin{.kind = vocab.kind, .merges = DeriveMerges(pieces)});
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
