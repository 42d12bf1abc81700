#include "hawser/data/synthetic.h"

#include <gtest/gtest.h>

#include <set>
#include <sstream>

namespace hawser {
namespace {

std::vector<std::string> Split(const std::string& text) {
  std::istringstream in(text);
  std::vector<std::string> words;
  for (std::string word; in >> word;) words.push_back(word);
  return words;
}

TEST(SyntheticTest, EveryQueryRepeatsItsFact) {
  int64_t queries = 0;
  for (uint64_t number = 0; number < 50; ++number) {
    const int32_t length = 20 + static_cast<int32_t>(number) * 40;
    const SyntheticDocument document = MakeSyntheticDocument(3, number, length);
    const std::vector<std::string> words = Split(document.text);
    ASSERT_EQ(static_cast<int32_t>(words.size()), document.words);
    EXPECT_LE(document.words, length);
    EXPECT_GT(document.words, length - 17);
    for (const SyntheticQuery& query : document.queries) {
      ASSERT_LT(query.fact, query.answer);
      EXPECT_EQ(words[query.fact], words[query.answer]);
      EXPECT_EQ(words[query.fact - 1], words[query.answer - 1]);  // the kind
      EXPECT_EQ(words[query.answer - 2], "ask");
      for (int32_t i = query.fact + 1; i < query.answer; ++i) EXPECT_NE(words[i], words[query.answer]);
      ++queries;
    }
  }
  EXPECT_GT(queries, 1000);  // of 50 documents
}

TEST(SyntheticTest, ANeedleStandsAtItsDepth) {
  for (const double depth : {0.0, 0.3, 1.0}) {
    for (const int32_t length : {32, 200, 2000}) {
      const SyntheticDocument document = MakeNeedleDocument(3, 7, length, depth);
      const std::vector<std::string> words = Split(document.text);
      ASSERT_EQ(static_cast<int32_t>(words.size()), document.words);
      EXPECT_LE(document.words, length);
      EXPECT_GT(document.words, length - 17);
      ASSERT_EQ(document.queries.size(), 1u);
      const auto [fact, answer] = document.queries[0];
      EXPECT_EQ(words[fact], words[answer]);
      EXPECT_EQ(answer, document.words - 2);
      EXPECT_NEAR(fact, depth * length, 24);
    }
  }
}

TEST(SyntheticTest, DependsOnSeedAndNumberAlone) {
  EXPECT_EQ(MakeSyntheticDocument(1, 2, 300).text, MakeSyntheticDocument(1, 2, 300).text);
  EXPECT_NE(MakeSyntheticDocument(1, 2, 300).text, MakeSyntheticDocument(1, 3, 300).text);
  EXPECT_NE(MakeSyntheticDocument(1, 2, 300).text, MakeSyntheticDocument(2, 2, 300).text);
}

TEST(SyntheticTest, KindsAreStatedOnceAndWordsAreKnown) {
  std::set<std::string> known;
  for (const std::string& piece : SyntheticWords()) EXPECT_TRUE(known.insert(piece).second) << piece;
  const std::vector<std::string> words = Split(MakeSyntheticDocument(9, 0, 4000).text);
  std::set<std::string> stated;
  for (size_t i = 0; i < words.size(); ++i) {
    EXPECT_TRUE(known.contains(" " + words[i])) << words[i];
    if (words[i] == "note") {
      EXPECT_TRUE(stated.insert(words[i + 1]).second) << words[i + 1];
    }
  }
}

}  // namespace
}  // namespace hawser
