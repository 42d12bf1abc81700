#include "hawser/tok/unigram.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/testing/hostile.h"
#include "hawser/tok/bpe_tokenizer.h"

namespace hawser {
namespace {

using nlohmann::json;
using Ids = std::vector<int32_t>;

/// The greatest sum over all ways to cut `text`, by trying them.
double BestSum(const std::map<std::string, double>& scores, double unknown, const std::string& text) {
  if (text.empty()) return 0;
  double best = -INFINITY;
  for (size_t length = 1; length <= text.size(); ++length) {
    const auto found = scores.find(text.substr(0, length));
    if (found != scores.end()) best = std::max(best, found->second + BestSum(scores, unknown, text.substr(length)));
  }
  if (!scores.contains(text.substr(0, 1))) best = std::max(best, unknown + BestSum(scores, unknown, text.substr(1)));
  return best;
}

TEST(UnigramModel, CutsHaveTheGreatestProduct) {
  Rng rng{.seed = 3};
  for (int trial = 0; trial < 200; ++trial) {
    std::map<std::string, double> scores;
    std::vector<UnigramModel::Piece> pieces;
    for (int p = 0; p < 12; ++p) {
      std::string piece;
      for (uint64_t n = 1 + rng.Below(4); n > 0; --n) piece += static_cast<char>('a' + rng.Below(3));
      const double score = -1.0 - static_cast<double>(rng.Below(800)) / 100;
      scores[piece] = score;
      pieces.push_back({piece, score, p});
    }
    std::string text;
    for (uint64_t n = rng.Below(12); n > 0; --n) text += static_cast<char>('a' + rng.Below(4));  // d is in no piece
    const double unknown = -19;
    double sum = 0;
    std::string joined;
    bool after_unknown = false;
    UnigramModel(pieces, unknown).Cut(text, [&](std::string_view piece, int32_t id) {
      EXPECT_FALSE(after_unknown && id < 0) << "runs of what is unknown are one";
      after_unknown = id < 0;
      joined += piece;
      sum += id < 0 ? unknown * static_cast<double>(piece.size()) : scores.at(std::string(piece));
      if (id >= 0) {
        EXPECT_EQ(pieces[static_cast<size_t>(id)].text, piece);
      }
    });
    EXPECT_EQ(joined, text);
    EXPECT_NEAR(sum, BestSum(scores, unknown, text), 1e-9) << text;
  }
}

using Vocab = std::vector<std::pair<json, json>>;

json Document(const Vocab& pieces, json more = json::object()) {
  json vocab = json::array();
  for (const auto& [text, score] : pieces) vocab.push_back(json::array({text, score}));
  json model = {{"type", "Unigram"}, {"unk_id", 0}, {"vocab", vocab}, {"byte_fallback", false}};
  model.update(more);
  return {{"model", model},
          {"pre_tokenizer", {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}}},
          {"decoder", {{"type", "Metaspace"}, {"replacement", "\u2581"}, {"prepend_scheme", "always"}}},
          {"added_tokens", json::array()}};
}

TEST(UnigramTokenizer, ReadsWritesAndFallsBack) {
  Vocab vocab = {{"<unk>", 0}, {"</s>", 0},      {"\u2581", -3},  {"a", -4},     {"b", -4},
                 {"ab", -4.5}, {"\u2581ab", -5}, {"\u2581a", -6}, {"bab", -20.0}};
  const BpeTokenizer plain(Document(vocab).dump());
  EXPECT_EQ(plain.Kind(), "tokenizer.json Unigram");
  EXPECT_EQ(plain.Encode("ab aab"), (Ids{6, 7, 5}));
  EXPECT_EQ(plain.Encode("\u00e9\u00e8b"), (Ids{2, 0, 4})) << "one unknown for a run";
  EXPECT_EQ(plain.Decode({6, 7, 5}), "ab aab");
  EXPECT_EQ(BpeTokenizer(plain.JsonText()).Encode("ab aab"), (Ids{6, 7, 5}));
  for (int b = 0; b < 256; ++b) vocab.emplace_back(fmt::format("<0x{:02X}>", b), 0);
  const BpeTokenizer bytes(Document(vocab, {{"byte_fallback", true}}).dump());
  EXPECT_EQ(bytes.Encode("\u00e9b"), (Ids{2, 9 + 0xc3, 9 + 0xa9, 4}));
  EXPECT_EQ(bytes.Encode("\xff"
                         "b"),
            (Ids{2, 9 + 0xff, 4}))
      << "what is no UTF-8";
}

TEST(UnigramTokenizer, WhatIsNoneIsNamed) {
  const Vocab vocab = {{"<unk>", 0}, {"a", -1}};
  const auto refused = [](ErrorKind kind, const char* word, const json& document) {
    ExpectError(kind, {word}, [&] { BpeTokenizer(document.dump()); });
  };
  refused(ErrorKind::kUnsupported, "unk_id", Document(vocab, {{"unk_id", nullptr}}));
  refused(ErrorKind::kFormat, "unk_id", Document(vocab, {{"unk_id", 2}}));
  refused(ErrorKind::kFormat, "model.vocab", Document(vocab, {{"vocab", json::object()}}));
  refused(ErrorKind::kFormat, "model.vocab", Document({}));
  refused(ErrorKind::kFormat, "piece 1", Document({{"<unk>", 0}, {"a", "x"}}));
  refused(ErrorKind::kFormat, "piece 1", Document({{"<unk>", 0}, {1, 0}}));
  refused(ErrorKind::kUnsupported, "1025 bytes", Document({{"<unk>", 0}, {std::string(1025, 'a'), 0}}));
}

}  // namespace
}  // namespace hawser
