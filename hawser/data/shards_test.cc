#include "hawser/data/shards.h"

#include <gtest/gtest.h>

#include <cstring>

#include "hawser/base/error.h"
#include "hawser/base/file.h"
#include "hawser/base/rng.h"
#include "hawser/data/corpus.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/test_folder.h"

namespace hawser {
namespace {

namespace fs = std::filesystem;
using testing::ByteTokenizer;
using Ids = std::vector<int32_t>;

class ShardsTest : public ::testing::Test {
 protected:
  void SetUp() override { folder_ = FreshPath("shards"); }
  void TearDown() override { fs::remove_all(folder_); }
  fs::path folder_;
};

TEST_F(ShardsTest, WhatIsWrittenIsReadInBothWidths) {
  for (const int32_t vocab : {256, 1 << 16, (1 << 16) + 1}) {
    const ByteTokenizer tokenizer(vocab);
    ShardWriter writer(folder_ / std::to_string(vocab), tokenizer, 40);
    std::vector<Ids> texts;
    std::vector<std::string> sources;
    Rng rng{.seed = 1};
    for (int d = 0; d < 30; ++d) {
      Ids text(rng.Below(15));
      for (int32_t& id : text) id = static_cast<int32_t>(rng.Below(static_cast<uint64_t>(vocab)));
      if (!text.empty()) text[0] = vocab - 1;
      sources.push_back(d % 3 == 0 ? "web" : "bücher");
      writer.Add(sources.back(), text);
      texts.push_back(text);
    }
    writer.Finish();
    EXPECT_GT(writer.files().size(), 2u);
    EXPECT_EQ(writer.documents(), 30);
    // The same documents through the loader of files, one after the other and as a folder.
    const DocumentSet set = LoadDocuments(ListDataFiles({folder_ / std::to_string(vocab)}), tokenizer);
    ASSERT_EQ(set.size(), 30);
    EXPECT_EQ(set.tokens(), writer.tokens());
    EXPECT_EQ(set.tokens_in_memory(), 0);
    for (int d = 0; d < 30; ++d) {
      EXPECT_EQ(set.Get(d).tokens, texts[d]);
      EXPECT_EQ(set.length(d), static_cast<int64_t>(texts[d].size()));
      EXPECT_EQ(set.sources()[set.source(d)], sources[d]);
    }
    int at = 0;
    TokenizeFiles(writer.files(), tokenizer, [&](const TokenisedDocument& document) {
      EXPECT_EQ(document.ids, texts[at]);
      EXPECT_TRUE(document.weights.empty());
      EXPECT_EQ(document.source, sources[at++]);
    });
    EXPECT_EQ(at, 30);
    EXPECT_NE(set.Hash(), LoadDocuments({writer.files()[0]}, tokenizer).Hash());
  }
}

TEST_F(ShardsTest, LossWeightsComeBack) {
  const ByteTokenizer tokenizer(256);
  ShardWriter writer(folder_, tokenizer, 7);
  writer.Add("a", {1, 2, 3, 4});
  writer.Add("a", {5, 6, 7}, {0, 0.25f, 2});  // the first file ends here
  writer.Add("a", {8, 9, 1, 2, 3, 4, 5});     // the second has no weights
  writer.Add("a", {3}, {0});
  writer.Add("a", {4});
  writer.Finish();
  ASSERT_EQ(writer.files().size(), 3u);
  const DocumentSet set = LoadDocuments(writer.files(), tokenizer);
  EXPECT_EQ(set.Get(0).weights, (std::vector<float>{1, 1, 1, 1}));
  EXPECT_EQ(set.Get(1).weights, (std::vector<float>{0, 0.25f, 2}));
  EXPECT_TRUE(set.Get(2).weights.empty());
  EXPECT_EQ(set.Get(3).weights, (std::vector<float>{0}));
  EXPECT_EQ(set.Get(4).weights, (std::vector<float>{1}));
  std::vector<std::vector<float>> seen;
  TokenizeFiles(writer.files(), tokenizer, [&](const TokenisedDocument& d) { seen.push_back(d.weights); });
  EXPECT_EQ(seen[1], set.Get(1).weights);

  std::string bytes = ReadFile(writer.files()[0]);
  const float bad = -1;
  std::memcpy(bytes.data() + 64 + 16 + 4 * 5, &bad, 4);  // seven ids of two bytes, rounded up; the sixth weight
  WriteBytes(writer.files()[0], bytes);
  EXPECT_THROW(TokenShard{writer.files()[0]}, Error) << "its checksum";
  bytes.replace(12, 4, 4, '\0');  // of a writer that knows none
  WriteBytes(writer.files()[0], bytes);
  ExpectError(ErrorKind::kFormat, {"document 1", "token 1"}, [&] { TokenShard(writer.files()[0]).Weights(1); });
}

TEST_F(ShardsTest, AnotherTokenizerIsRefused) {
  ShardWriter writer(folder_, ByteTokenizer(256), 100);
  writer.Add("web", {1, 2, 3});
  writer.Finish();
  EXPECT_NO_THROW(LoadDocuments(writer.files(), ByteTokenizer(256)));
  EXPECT_THROW(LoadDocuments(writer.files(), ByteTokenizer(255)), Error);
  EXPECT_THROW(LoadDocuments(writer.files(), ByteTokenizer(300)), Error) << "another fingerprint";
}

TEST_F(ShardsTest, EveryTruncationAndEveryFlippedByteIsNoticed) {
  ShardWriter writer(folder_, ByteTokenizer(200), 100);
  for (int d = 0; d < 5; ++d) writer.Add(d % 2 == 0 ? "a" : "b", Ids(static_cast<size_t>(d * 3), d));
  writer.Add("b", {1, 2}, {0, 1});
  writer.Finish();
  const fs::path good = writer.files()[0], bad = folder_ / "bad.tokens";
  const std::string whole = ReadFile(good);
  const auto read = [&](const std::string& bytes) {
    WriteBytes(bad, bytes);
    try {
      const TokenShard shard(bad);
      int64_t tokens = 0;
      for (int64_t d = 0; d < shard.size(); ++d) {
        tokens += static_cast<int64_t>(shard.Read(d).size());
        EXPECT_EQ(shard.Weights(d).size(), shard.Read(d).size());
        EXPECT_LT(shard.source(d), static_cast<int32_t>(shard.sources().size()));
      }
      EXPECT_EQ(tokens, shard.tokens());
      return true;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kFormat);
      EXPECT_NE(std::string(error.what()).find("bad.tokens"), std::string::npos);
      return false;
    }
  };
  EXPECT_TRUE(read(whole));
  for (size_t n = 0; n < whole.size(); ++n) EXPECT_FALSE(read(whole.substr(0, n)));
  EXPECT_FALSE(read(whole + "x"));
  EXPECT_TRUE(read(std::string(whole).replace(12, 4, 4, '\0'))) << "as files were before: without that checksum";
  for (size_t at = 0; at < whole.size(); ++at) {
    for (const int flip : {0x01, 0x80, 0xff}) {
      std::string bytes = whole;
      bytes[at] = static_cast<char>(bytes[at] ^ flip);
      EXPECT_FALSE(read(bytes)) << at << " " << flip;
    }
  }
}

}  // namespace
}  // namespace hawser
