#include "hawser/tok/byte_level.h"

#include <gtest/gtest.h>

#include <set>
#include <string>
#include <vector>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/testing/hostile.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/utf8.h"

namespace hawser {
namespace {

TEST(ByteLevel, AlphabetIsABijectionOfPrintableCharacters) {
  std::set<std::string> seen;
  for (int b = 0; b < 256; ++b) {
    const std::string byte(1, static_cast<char>(b));
    std::string mapped;
    AppendByteLevel(b < 0x80 ? byte : EscapeInvalidUtf8(byte), mapped);
    EXPECT_TRUE(seen.insert(mapped).second);
    const CodePoint point = CodePointAt(mapped, 0);
    EXPECT_EQ(point.length, mapped.size());
    EXPECT_TRUE(point.value > 0x20 && point.value != 0x7F && (point.value < 0x80 || point.value > 0xA0));
    std::string back;
    EXPECT_TRUE(ByteLevelToBytes(mapped, back));
    EXPECT_EQ(back, byte);
  }
  std::string mapped;
  AppendByteLevel(" \n\u00e9!", mapped);
  EXPECT_EQ(mapped, "\u0120\u010a\u00c3\u00a9!");
  std::string unused;
  EXPECT_FALSE(ByteLevelToBytes("\u0144", unused));
  EXPECT_FALSE(ByteLevelToBytes("a b", unused));
}

TEST(ByteLevelTokenizer, EveryWordIsOneId) {
  for (uint64_t round = 0; round < 30; ++round) {
    Rng rng{.seed = 5, .stream = round};
    std::vector<std::string> words;
    for (int i = 0; i < 60; ++i) {
      std::string word = rng.Below(2) == 0 ? " " : "";
      for (uint64_t n = 1 + rng.Below(7); n > 0; --n) word += "abc"[rng.Below(3)];
      words.push_back(word);
    }
    words.insert(words.end(), {" the", " red", ",", ".", "\n", " 42", "\u00e9t\u00e9"});
    const BpeTokenizer tokenizer(ByteLevelTokenizerJson(words));
    for (const std::string& word : words) {
      const auto ids = tokenizer.Encode(word);
      ASSERT_EQ(ids.size(), 1u) << word;
      ASSERT_EQ(tokenizer.Piece(ids[0]), word);
    }
  }
}

TEST(ByteLevelTokenizer, IdsAndSpecialTokens) {
  const BpeTokenizer tokenizer(ByteLevelTokenizerJson({" a", " ab", " a"}));
  EXPECT_EQ(tokenizer.vocab_size(), 256 + 2 + 2);
  EXPECT_EQ(tokenizer.Kind(), "tokenizer.json byte-level BPE");
  for (int32_t b = 0; b < 256; ++b) EXPECT_EQ(tokenizer.Piece(b), std::string(1, static_cast<char>(b)));
  EXPECT_EQ(tokenizer.Encode(" ab a b"), (std::vector<int32_t>{257, 256, ' ', 'b'}));
  EXPECT_EQ(tokenizer.IdOf("<|bos|>"), 258);
  EXPECT_EQ(tokenizer.IdOf("<|eos|>"), 259);
  EXPECT_EQ(tokenizer.Piece(258), "");
  EXPECT_EQ(tokenizer.Encode("<|bos|>").size(), 7u);
  EXPECT_EQ(tokenizer.Encode("<|bos|> a", true), (std::vector<int32_t>{258, 256}));
  EXPECT_EQ(tokenizer.Encode("\xff\xfe"), (std::vector<int32_t>{0xFF, 0xFE}));
}

TEST(ByteLevelTokenizer, RefusesWordsThatTextIsCutInside) {
  ExpectError(ErrorKind::kUsage, {"it's", "\"it\""}, [] { ByteLevelTokenizerJson({"it's"}); });
  ExpectError(ErrorKind::kUsage, {"cannot be one token"}, [] { ByteLevelTokenizerJson({""}); });
  ExpectError(ErrorKind::kUsage, {"a b"}, [] { ByteLevelTokenizerJson({"a b"}); });
  ExpectError(ErrorKind::kUsage, {"UTF-8"}, [] { ByteLevelTokenizerJson({"\xff"}); });
}

}  // namespace
}  // namespace hawser
