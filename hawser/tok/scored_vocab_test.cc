#include "hawser/tok/scored_vocab.h"

#include <gtest/gtest.h>

#include <cstring>
#include <limits>
#include <string>
#include <unordered_map>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/testing/hostile.h"
#include "hawser/tok/tokenizer.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

struct RawPiece {
  std::string text;
  float score = 0;
};

template <class T>
void Put(std::string& out, T value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

/// A llama2.c tokenizer.bin with `pieces` from id 259 on.
std::string Llama2cFile(const std::vector<RawPiece>& pieces) {
  std::vector<RawPiece> all = {{"<unk>", 0}, {"\n<s>\n", 0}, {"\n</s>\n", 0}};
  for (int b = 0; b < 256; ++b) all.push_back({fmt::format("<0x{:02X}>", b), 0});
  all.insert(all.end(), pieces.begin(), pieces.end());
  size_t longest = 0;
  for (const RawPiece& piece : all) longest = std::max(longest, piece.text.size());
  std::string file;
  Put(file, static_cast<int32_t>(longest));
  for (const RawPiece& piece : all) {
    Put(file, piece.score);
    Put(file, static_cast<int32_t>(piece.text.size()));
    file += piece.text;
  }
  return file;
}

void PutVarint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}
void PutField(std::string& out, int field, std::string_view bytes) {
  PutVarint(out, static_cast<uint64_t>(field) << 3 | 2);
  PutVarint(out, bytes.size());
  out += bytes;
}
void PutField(std::string& out, int field, int64_t number) {
  PutVarint(out, static_cast<uint64_t>(field) << 3);
  PutVarint(out, static_cast<uint64_t>(number));
}

struct ModelFields {
  int64_t model_type = 2;
  bool bytes = true;
  bool dummy_prefix = true;
  bool extra_whitespaces = false;  // the flag that removes them
  bool escape = true;
  std::string charsmap;
  std::vector<std::string> user_defined;
};

/// The same vocabulary as a SentencePiece model; user-defined pieces come last.
std::string SentencePieceFile(const std::vector<RawPiece>& pieces, const ModelFields& fields) {
  std::string file;
  const auto put_piece = [&](std::string_view text, float score, int64_t type) {
    std::string piece;
    PutField(piece, 1, text);
    PutVarint(piece, 2 << 3 | 5);
    Put(piece, score);
    if (type != 1) PutField(piece, 3, type);
    PutField(file, 1, piece);
  };
  put_piece("<unk>", 0, 2);
  put_piece("<s>", 0, 3);
  put_piece("</s>", 0, 3);
  for (int b = 0; b < 256 && fields.bytes; ++b) put_piece(fmt::format("<0x{:02X}>", b), 0, 6);
  for (const RawPiece& piece : pieces) {
    std::string text;
    for (const char c : piece.text) fields.escape&& c == ' ' ? text += "\u2581" : text += c;
    put_piece(text, piece.score, 1);
  }
  for (const std::string& text : fields.user_defined) put_piece(text, 0, 4);
  std::string trainer;
  PutField(trainer, 3, fields.model_type);
  PutField(trainer, 4, int64_t{32000});  // a field nobody needs
  PutField(trainer, 40, int64_t{0});
  PutField(trainer, 41, int64_t{1});
  PutField(trainer, 42, int64_t{2});
  PutField(file, 2, trainer);
  std::string normalizer;
  PutField(normalizer, 1, "identity");
  PutField(normalizer, 2, fields.charsmap);
  PutField(normalizer, 3, int64_t{fields.dummy_prefix});
  PutField(normalizer, 4, int64_t{fields.extra_whitespaces});
  PutField(normalizer, 5, int64_t{fields.escape});
  PutField(file, 3, normalizer);
  return file;
}

/// Single characters and random joins of earlier pieces. kTies: about half of the scores are equal. kWords: blanks only
/// in front, as in trained vocabularies, so that the encoder may go word by word.
enum class Style { kPlain, kTies, kWords };
std::vector<RawPiece> RandomPieces(Rng& rng, int joins, Style style) {
  std::vector<RawPiece> pieces;
  for (const char* text : {" ", "a", "b", "é", "c"}) pieces.push_back({text, 0});
  std::unordered_map<std::string, int> seen;
  for (const RawPiece& piece : pieces) seen[piece.text] = 1;
  float score = 0;
  for (int i = 0; i < joins; ++i) {
    const std::string left = pieces[rng.Below(pieces.size())].text;
    const std::string text = left + pieces[rng.Below(pieces.size())].text;
    const size_t last_blank = text.rfind(' ');
    const bool leads = last_blank == std::string::npos || text.find_first_not_of(' ') > last_blank;
    if (style == Style::kWords && !leads) continue;
    if (style != Style::kTies || rng.Below(2) == 0) score -= 1;
    if (text.size() <= 24 && ++seen[text] == 1) pieces.push_back({text, score});
  }
  // The best score is not always that of the shortest: SentencePiece allows any.
  for (size_t i = 5; i < pieces.size(); ++i) {
    std::swap(pieces[i].score, pieces[5 + rng.Below(pieces.size() - 5)].score);
  }
  return pieces;
}

std::string RandomText(Rng& rng, size_t length) {
  static const char* kParts[] = {" ", "a", "b", "é", "c", "a", "b", "ab", " a", "  ", "x", "🦙", "\n"};
  std::string text;
  while (text.size() < length) text += kParts[rng.Below(std::size(kParts))];
  return text;
}

/// The encoder of llama2.c, literally: one id for each character or its bytes, then over and over the best-scoring
/// join of two neighbours, the first of equals.
std::vector<int32_t> NaiveEncode(const std::vector<RawPiece>& pieces, const std::string& text) {
  std::unordered_map<std::string, int32_t> ids;
  for (size_t i = 0; i < pieces.size(); ++i) ids.emplace(pieces[i].text, static_cast<int32_t>(259 + i));
  std::vector<int32_t> out;
  if (text.empty()) return out;
  out.push_back(ids.at(" "));
  for (size_t at = 0; at < text.size();) {
    const size_t length = std::max<size_t>(1, CodePointAt(text, at).length);
    const auto found = ids.find(text.substr(at, length));
    if (found != ids.end()) {
      out.push_back(found->second);
    } else {
      for (size_t i = at; i < at + length; ++i) out.push_back(static_cast<unsigned char>(text[i]) + 3);
    }
    at += length;
  }
  for (;;) {
    float best = -std::numeric_limits<float>::infinity();
    size_t where = out.size();
    int32_t joined = -1;
    for (size_t i = 0; i + 1 < out.size(); ++i) {
      if (out[i] < 259 || out[i + 1] < 259) continue;
      const auto text_of = [&](int32_t id) { return pieces[static_cast<size_t>(id - 259)].text; };
      const auto found = ids.find(text_of(out[i]) + text_of(out[i + 1]));
      if (found == ids.end() || pieces[static_cast<size_t>(found->second - 259)].score <= best) continue;
      best = pieces[static_cast<size_t>(found->second - 259)].score;
      where = i;
      joined = found->second;
    }
    if (where == out.size()) return out;
    out[where] = joined;
    out.erase(out.begin() + static_cast<ptrdiff_t>(where) + 1);
  }
}

std::unique_ptr<BpeTokenizer> FromLlama2c(const std::vector<RawPiece>& pieces) {
  return MakeScoredTokenizer(ParseLlama2cTokenizer(Llama2cFile(pieces)));
}

TEST(ScoredVocab, EncodesAsTheNaiveLoopDoes) {
  for (uint64_t round = 0; round < 60; ++round) {
    Rng rng{.seed = 11, .stream = round};
    const auto pieces = RandomPieces(rng, 5 + static_cast<int>(rng.Below(60)), static_cast<Style>(round % 3));
    const auto tokenizer = FromLlama2c(pieces);
    ASSERT_EQ(tokenizer->vocab_size(), static_cast<int32_t>(259 + pieces.size()));
    for (int i = 0; i < 20; ++i) {
      const std::string text = RandomText(rng, rng.Below(120));
      ASSERT_EQ(tokenizer->Encode(text), NaiveEncode(pieces, text)) << "round " << round << ": " << text;
    }
  }
}

TEST(ScoredVocab, SavedItEncodesTheSame) {
  const auto folder = FreshFolder("scored_saved");
  for (uint64_t round = 0; round < 20; ++round) {
    Rng rng{.seed = 12, .stream = round};
    const Style style = round % 2 == 0 ? Style::kPlain : Style::kWords;
    const auto tokenizer = FromLlama2c(RandomPieces(rng, 5 + static_cast<int>(rng.Below(60)), style));
    tokenizer->Save(folder);
    const auto loaded = LoadTokenizer(folder);
    EXPECT_EQ(loaded->vocab_size(), tokenizer->vocab_size());
    EXPECT_EQ(loaded->bos(), 1);
    EXPECT_EQ(loaded->eos(), 2);
    for (int i = 0; i < 50; ++i) {
      const std::string text = RandomText(rng, rng.Below(200));
      const auto ids = tokenizer->Encode(text);
      ASSERT_EQ(loaded->Encode(text), ids) << "round " << round << ": " << text;
      ASSERT_EQ(loaded->Decode(ids), text);
    }
  }
}

TEST(ScoredVocab, RowsOfEqualScoresGrowFromTheLeftBeforeAndAfterSaving) {
  std::vector<RawPiece> pieces = {{" ", 0}, {"a", 0}};
  for (size_t n = 2; n <= 16; ++n) pieces.push_back({std::string(n, ' '), -1e9f});
  const auto tokenizer = FromLlama2c(pieces);
  const auto folder = FreshFolder("scored_rows");
  tokenizer->Save(folder);
  const auto loaded = LoadTokenizer(folder);
  for (size_t n = 0; n < 120; ++n) {
    const std::string text = "a" + std::string(n, ' ') + "a";
    const auto naive = NaiveEncode(pieces, text);
    ASSERT_EQ(tokenizer->Encode(text), naive) << n;
    ASSERT_EQ(loaded->Encode(text), naive) << n;
  }
}

TEST(ScoredVocab, SentencePieceAndLlama2cReadTheSameVocabularyAlike) {
  Rng rng{.seed = 13};
  const auto pieces = RandomPieces(rng, 60, Style::kPlain);
  const auto a = FromLlama2c(pieces);
  const auto b = MakeScoredTokenizer(ParseSentencePiece(SentencePieceFile(pieces, {})));
  EXPECT_EQ(a->Kind(), "llama2.c BPE");
  EXPECT_EQ(b->Kind(), "SentencePiece BPE");
  ASSERT_EQ(a->vocab_size(), b->vocab_size());
  for (int32_t id = 0; id < a->vocab_size(); ++id) {
    ASSERT_EQ(a->Display(id), b->Display(id));
    ASSERT_EQ(a->Piece(id), b->Piece(id));
  }
  for (int i = 0; i < 50; ++i) {
    const std::string text = RandomText(rng, 100);
    ASSERT_EQ(a->Encode(text), b->Encode(text));
  }
}

TEST(ScoredVocab, PiecesAreBytesAndControlsAreNothing) {
  const auto tokenizer = FromLlama2c({{" ", 0}, {" the", -1}, {"é", -2}});
  for (const int32_t id : {0, 1, 2}) EXPECT_EQ(tokenizer->Piece(id), "");
  EXPECT_EQ(tokenizer->Display(1), "<s>");
  for (int b = 0; b < 256; ++b) EXPECT_EQ(tokenizer->Piece(3 + b), std::string(1, static_cast<char>(b)));
  EXPECT_EQ(tokenizer->Piece(260), " the");
  EXPECT_EQ(tokenizer->Display(260), "\u2581the");
  EXPECT_TRUE(tokenizer->adds_dummy_prefix());
  EXPECT_EQ(tokenizer->Decode({1, 260, 261, 2}), "the\u00e9");
  EXPECT_EQ(tokenizer->Decode({260, 261}, false), " the\u00e9");
  ExpectError(ErrorKind::kUsage, {"262", "vocabulary"}, [&] { tokenizer->Piece(262); });
  ExpectError(ErrorKind::kUsage, {"-1"}, [&] { tokenizer->Decode({-1}); });
}

TEST(ScoredVocab, AnyBytesComeBack) {
  Rng rng{.seed = 14};
  const auto tokenizer = FromLlama2c(RandomPieces(rng, 40, Style::kWords));
  for (int i = 0; i < 300; ++i) {
    std::string bytes;
    for (uint64_t n = rng.Below(40); n > 0; --n) bytes += static_cast<char>(rng.Bits());
    if (i % 3 == 0) bytes += "\U0010ffa0\U0010ff41";  // where escaped bytes live
    ASSERT_EQ(tokenizer->Decode(tokenizer->Encode(bytes)), bytes);
  }
  EXPECT_EQ(tokenizer->Encode("\xff"), (std::vector<int32_t>{259, 3 + 0xFF}));
}

TEST(ScoredVocab, SentencePieceFlags) {
  const std::vector<RawPiece> pieces = {{" ", 0}, {"a", 0}, {"b", 0}, {" a", -1}, {"ab", -2}};
  const auto encode = [&](const ModelFields& fields, const std::string& text) {
    const auto tokenizer = MakeScoredTokenizer(ParseSentencePiece(SentencePieceFile(pieces, fields)));
    std::string names;
    for (const int32_t id : tokenizer->Encode(text)) names += "|" + tokenizer->Display(id);
    return names;
  };
  EXPECT_EQ(encode({}, "a  ab"), "|\u2581a|\u2581|\u2581a|b");
  EXPECT_EQ(encode({.dummy_prefix = false}, "ab a"), "|ab|\u2581a");
  EXPECT_EQ(encode({.extra_whitespaces = true}, "  a   b "), "|\u2581a|\u2581|b");
  EXPECT_EQ(encode({.extra_whitespaces = true}, "   "), "");
  EXPECT_EQ(encode({.escape = false}, "a a"), "| a| a");
  EXPECT_EQ(encode({.bytes = false}, "aéüb"), "|\u2581a|<unk>|b");
  EXPECT_EQ(encode({}, "\u00fc"), "|\u2581|<0xC3>|<0xBC>");
  EXPECT_EQ(encode({.user_defined = {"<x>", "bab"}}, "b<x>ababa"), "|\u2581|b|<x>|a|bab|a");
  EXPECT_EQ(encode({.user_defined = {"\u2581b", "a b"}}, "b ba a b"), "|\u2581b|\u2581b|a|\u2581a|\u2581b");
  EXPECT_EQ(encode({.extra_whitespaces = true, .user_defined = {"a  b"}}, "a  b  b"),
            "|\u2581a|\u2581|\u2581|b|\u2581|b");
  EXPECT_EQ(encode({}, "<s>").find("<s>"), std::string::npos);
}

TEST(ScoredVocab, PiecesInsidePiecesCostWhatTheirBytesDo) {
  std::vector<RawPiece> pieces = {{" ", 0}};
  for (size_t n = 1; n <= 1500; ++n) pieces.push_back({std::string(n, 'a'), -static_cast<float>(n)});
  const auto tokenizer = FromLlama2c(pieces);  // a million merges
  EXPECT_EQ(tokenizer->Encode("aaaa"), NaiveEncode(pieces, "aaaa"));
  ExpectError(ErrorKind::kUnsupported, {"merges", "bytes"}, [&] { tokenizer->Save(FreshFolder("scored_rows_long")); });
}

TEST(ScoredVocab, RefusesWhatItCannotDo) {
  const std::vector<RawPiece> pieces = {{" ", 0}, {"a", 0}};
  const auto parse = [&](const ModelFields& fields) { ParseSentencePiece(SentencePieceFile(pieces, fields)); };
  ExpectError(ErrorKind::kUnsupported, {"unigram", "BPE"}, [&] { parse({.model_type = 1}); });
  ExpectError(ErrorKind::kUnsupported, {"precompiled_charsmap"}, [&] { parse({.charsmap = "xyz"}); });
  ExpectError(ErrorKind::kFormat, {"no pieces"}, [] { ParseSentencePiece(""); });
  ExpectError(ErrorKind::kFormat, {"258", "259"}, [&] {
    std::string file = Llama2cFile({});
    ParseLlama2cTokenizer(file.substr(0, file.size() - 14));
  });
  ExpectError(ErrorKind::kFormat, {"score"}, [] { FromLlama2c({{"a", std::numeric_limits<float>::quiet_NaN()}}); });
  ExpectError(ErrorKind::kFormat, {"UTF-8"}, [] { FromLlama2c({{"\xff", 0}}); });
  ExpectError(ErrorKind::kFormat, {"5000 bytes"}, [] { FromLlama2c({{std::string(5000, 'a'), 0}}); });
}

TEST(ScoredVocab, RepeatedAndEmptyPiecesNeverComeOut) {
  const auto tokenizer = FromLlama2c({{" ", 0}, {"a", 0}, {"", 0}, {"a", 0}, {"[PAD9]", 0}});
  EXPECT_EQ(tokenizer->vocab_size(), 264);
  EXPECT_EQ(tokenizer->Display(261), "[PAD261]");
  EXPECT_EQ(tokenizer->Piece(262), "");
  EXPECT_EQ(tokenizer->Encode("a"), (std::vector<int32_t>{259, 260}));
}

void UseFully(const ScoredVocab& vocab) {
  const auto tokenizer = MakeScoredTokenizer(vocab);
  tokenizer->Decode(tokenizer->Encode("ab a é b\n <s>", true));
}

TEST(ScoredVocab, HostileLlama2cFilesEndWell) {
  Rng rng{.seed = 15};
  const std::string file = Llama2cFile(RandomPieces(rng, 30, Style::kPlain));
  const std::string first = Llama2cFile({});
  for (size_t size = 0; size < file.size(); ++size) {
    const bool loaded = EndsWell([&] { ParseLlama2cTokenizer(file.substr(0, size)); });
    EXPECT_TRUE(!loaded || size >= first.size()) << size;
  }
  for (int i = 0; i < 500; ++i) {
    std::string flipped = file;
    for (uint64_t n = 1 + rng.Below(3); n > 0; --n)
      flipped[rng.Below(file.size())] ^= static_cast<char>(1 << rng.Below(8));
    EndsWell([&] { UseFully(ParseLlama2cTokenizer(flipped)); });
  }
}

TEST(ScoredVocab, HostileSentencePieceFilesEndWell) {
  Rng rng{.seed = 16};
  const std::string file = SentencePieceFile(RandomPieces(rng, 30, Style::kPlain), {.user_defined = {"<x>"}});
  const size_t trainer = file.rfind("\x18\x02\x20");  // model_type, then the field nobody needs
  ASSERT_NE(trainer, std::string::npos);
  for (size_t size = 0; size < file.size(); ++size) {
    const bool loaded = EndsWell([&] { ParseSentencePiece(file.substr(0, size)); });
    EXPECT_TRUE(!loaded || size > trainer) << size;
  }
  for (int i = 0; i < 500; ++i) {
    std::string flipped = file;
    for (uint64_t n = 1 + rng.Below(3); n > 0; --n)
      flipped[rng.Below(file.size())] ^= static_cast<char>(1 << rng.Below(8));
    EndsWell([&] { UseFully(ParseSentencePiece(flipped)); });
  }
}

}  // namespace
}  // namespace hawser
