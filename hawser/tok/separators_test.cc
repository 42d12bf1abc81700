#include "hawser/tok/separators.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "hawser/base/file.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/test_data.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/byte_level.h"

namespace hawser {
namespace {

int64_t Count(const std::vector<uint8_t>& flags) { return std::ranges::count(flags, uint8_t{1}); }

TEST(Separators, FormsAddUp) {
  const BpeTokenizer tokenizer(ByteLevelTokenizerJson({" red", ".", " ,", "-"}));
  const auto text = SeparatorFlags(tokenizer);
  EXPECT_EQ(SeparatorFlags(tokenizer, "text"), text);
  EXPECT_EQ(SeparatorFlags(tokenizer, ""), text);
  EXPECT_EQ(Count(SeparatorFlags(tokenizer, "3+5+5")), 2);
  EXPECT_EQ(SeparatorFlags(tokenizer, "3+5")[3], 1);
  EXPECT_EQ(Count(SeparatorFlags(tokenizer, "text+" + std::to_string(tokenizer.IdOf("-")))), Count(text) + 1);
}

TEST(Separators, MistakesAreNamed) {
  const BpeTokenizer tokenizer(ByteLevelTokenizerJson({" red", ".", " ,", "-"}));
  const std::string vocab = std::to_string(tokenizer.vocab_size());
  const auto expect = [&](const std::string& form, std::initializer_list<std::string_view> words) {
    ExpectError(ErrorKind::kUsage, words, [&] { SeparatorFlags(tokenizer, form); });
  };
  expect(vocab, {"id " + vocab, "outside the vocabulary of " + vocab});
  expect("3+-1", {"id -1"});
  expect("3+99999999999", {"99999999999"});
  expect("txt", {"unknown 'txt'", "did you mean 'text'", "llama3-17"});
  expect("neox-21", {"did you mean 'neox-20'"});
  expect("3+", {"unknown ''"});
  expect("llama3-18", {"llama3-18 is made for another vocabulary"});
  // A word of this vocabulary stands where the list has a full stop.
  expect("neox-9", {"neox-9 is made for another vocabulary", "its id"});
}

TEST(Separators, WarnsOfTooFewAndTooMany) {
  EXPECT_NE(SeparatorWarning({0, 0, 0}).find("match none of 3"), std::string::npos);
  EXPECT_EQ(SeparatorWarning({0, 1, 0}), "");
  EXPECT_EQ(SeparatorWarning({0, 1, 1, 0}, "1+2"), "");
  EXPECT_NE(SeparatorWarning({0, 1, 1, 1}, "1+2+3").find("'1+2+3' match 3 of 4 tokens (75 %"), std::string::npos);
}

TEST(Separators, FitTheModel) {
  const BpeTokenizer tokenizer(ByteLevelTokenizerJson({" red", ".", " ,", "-"}));
  EXPECT_TRUE(ModelSeparators(nullptr, "text", 7).empty());
  EXPECT_EQ(ModelSeparators(&tokenizer, "text", 1000).size(), 1000u);
  EXPECT_EQ(ModelSeparators(&tokenizer, "text", 20).size(), 20u);
  ExpectError(ErrorKind::kUsage, {"id 30", "model's vocabulary of 20"}, [&] { ModelSeparators(&tokenizer, "30", 20); });
}

// Figures of the GPT-NeoX vocabulary over books of PG-19: 9 ids 0.159, 20 ids 0.160, the text rule 0.177.
TEST(Separators, PresetsOfGptNeox) {
  HAWSER_NEEDS_DATA("tokenizers/gpt-neox-20b.tokenizer.json", "pg19/test/10146.txt");
  const std::filesystem::path root = TestData(), file = root / "tokenizers/gpt-neox-20b.tokenizer.json";
  const std::filesystem::path book = root / "pg19/test/10146.txt";
  const auto tokenizer = LoadTokenizer(file);
  const auto ids = tokenizer->Encode(ReadFile(book).substr(0, 300000));
  const auto density = [&](std::string_view form) {
    const auto flags = SeparatorFlags(*tokenizer, form);
    return static_cast<double>(std::ranges::count_if(ids, [&](int32_t id) { return flags[id] != 0; })) /
           static_cast<double>(ids.size());
  };
  EXPECT_EQ(Count(SeparatorFlags(*tokenizer, "neox-9")), 9);
  EXPECT_EQ(Count(SeparatorFlags(*tokenizer, "sepllm-neox-20")), 20);
  EXPECT_NEAR(density("neox-9"), 0.159, 0.03);
  EXPECT_GE(density("neox-20"), density("neox-9"));
  EXPECT_GT(density("text"), density("neox-20"));
  EXPECT_NEAR(density("text"), 0.177, 0.03);
  // Every listed id is one that the rule finds too.
  const auto rule = SeparatorFlags(*tokenizer), listed = SeparatorFlags(*tokenizer, "neox-20");
  for (size_t id = 0; id < rule.size(); ++id) EXPECT_LE(listed[id], rule[id]) << id;
  ExpectError(ErrorKind::kUsage, {"llama3-17 is made for another vocabulary"},
              [&] { SeparatorFlags(*tokenizer, "llama3-17"); });
}

/// Every piece separates.
class FullStops : public testing::ByteTokenizer {
 public:
  FullStops() : ByteTokenizer(130000) {}
  std::string Piece(int32_t) const override { return "."; }
};

TEST(Separators, PresetsHaveAsManyIdsAsTheirNamesSay) {
  for (const std::string name : {"neox-9", "neox-20", "llama3-9", "llama3-17", "llama3-18", "falcon-13"}) {
    EXPECT_EQ(Count(SeparatorFlags(FullStops(), name)), std::stoi(name.substr(name.find('-') + 1))) << name;
  }
}

}  // namespace
}  // namespace hawser
