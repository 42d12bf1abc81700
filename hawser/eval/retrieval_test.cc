#include "hawser/eval/retrieval.h"

#include <gtest/gtest.h>

#include "hawser/device/registry.h"
#include "hawser/infer/generation.h"
#include "hawser/model/kv_shape.h"
#include "hawser/testing/byte_tokenizer.h"
#include "hawser/testing/hostile.h"
#include "hawser/testing/tiny_model.h"
#include "hawser/tok/bpe_tokenizer.h"
#include "hawser/tok/byte_level.h"

namespace hawser {
namespace {

TEST(Retrieval, AsksEveryQuestionAndReportsTheCache) {
  const BpeTokenizer tokenizer(ByteLevelTokenizerJson(SyntheticWords()));
  const ModelSpec spec = TinySpec({.vocab = tokenizer.vocab_size(), .context = 256});
  const ParamStore params = TinyModel(spec, 5);
  const auto backend = MakeBackend("cpu");
  std::vector<RetrievalDocument> documents;
  int64_t asked = 0;
  for (uint64_t number = 0; number < 3; ++number) {
    documents.push_back(TokenizeSynthetic(MakeSyntheticDocument(1, number, 255), tokenizer));
    asked += static_cast<int64_t>(documents.back().questions.size());
  }
  const RetrievalReport r = MeasureRetrieval(backend.get(), params, tokenizer, documents, "sep:3,16,full-layers=0");
  int64_t questions = 0;
  for (const RetrievalBucket& bucket : r.buckets) {
    questions += bucket.questions;
    EXPECT_LE(bucket.correct, bucket.questions);
    EXPECT_LT(bucket.begin, bucket.end);
  }
  EXPECT_EQ(questions, asked);
  EXPECT_EQ(r.kv["policy"], "sep:3,16,full-layers=0");
  EXPECT_EQ(r.kv["layers"].size(), 2u);
  EXPECT_GT(r.kv["layers"][0]["final"], r.kv["layers"][1]["final"]);
  EXPECT_GT(r.kv["separator_density"], 0.05);
  EXPECT_NE(r.kv_text.find("layers 1: sep:3,16"), std::string::npos) << r.kv_text;
  ExpectError(ErrorKind::kUsage, {"prefill=dense", "no prompt"},
              [&] { MeasureRetrieval(backend.get(), params, tokenizer, documents, "sep:3,16,prefill=dense"); });
}

TEST(Retrieval, AnswersAreSpansOfAnyTokenizer) {
  const testing::ByteTokenizer bytes;
  const BpeTokenizer words(ByteLevelTokenizerJson(SyntheticWords()));
  for (uint64_t number = 0; number < 20; ++number) {
    const RetrievalDocument cut = MakeRetrievalDocument(4, number, 600, bytes);
    ASSERT_LE(cut.ids.size(), 600u);
    EXPECT_GT(cut.ids.size(), 400u) << "as long as fits";
    const std::string text = bytes.Decode(cut.ids);
    for (const RetrievalQuestion& q : cut.questions) {
      const std::string answer = text.substr(static_cast<size_t>(q.row) + 1, static_cast<size_t>(q.tokens));
      EXPECT_EQ(text.substr(static_cast<size_t>(q.row + 1 - q.distance), answer.size()), answer);
      EXPECT_EQ(answer.front(), ' ');
      EXPECT_EQ(answer.find(' ', 1), answer.npos);
      EXPECT_EQ(text.substr(static_cast<size_t>(q.row + 1 + q.tokens), 2), " .");
    }
    // Where a word is a token nothing depends on the cuts.
    const SyntheticDocument whole = MakeSyntheticDocument(4, number, 599);
    const RetrievalDocument same = MakeRetrievalDocument(4, number, 600, words);
    std::vector<int32_t> ids = words.prefix();
    ASSERT_EQ(ids.size(), 1u) << "BOS, by the rule of the tokenizer";
    for (const int32_t id : words.Encode(" " + whole.text)) ids.push_back(id);
    EXPECT_EQ(same.ids, ids);
    ASSERT_EQ(same.questions.size(), whole.queries.size());
    for (size_t i = 0; i < whole.queries.size(); ++i) {
      EXPECT_EQ(same.questions[i].row, whole.queries[i].answer);
      EXPECT_EQ(same.questions[i].tokens, 1);
      EXPECT_EQ(same.questions[i].distance, whole.queries[i].answer - whole.queries[i].fact);
    }
  }
}

TEST(Retrieval, AnAnswerIsRightWhereAllItsTokensAre) {
  const testing::ByteTokenizer tokenizer;
  const ModelSpec spec = TinySpec({.vocab = 256, .context = 1024});
  const ParamStore params = TinyModel(spec, 5);
  const auto backend = MakeBackend("cpu");
  Decoder decoder(backend.get(), &params);
  // What greedy decoding writes is right by definition, here over more tokens than one run of logits has.
  KvCache cache = NewKvCache(backend.get(), spec, ParseKvForm("full"), {}, DType::kF32, 1024);
  Generation generation(&decoder, &cache);
  RetrievalDocument document{.ids = {7, 8, 9}};
  const GenerateOptions options{.max_new = 700, .sampler = {.temperature = 0}};
  const GenerateResult greedy = Generate(generation, document.ids, tokenizer, options);
  document.ids.insert(document.ids.end(), greedy.ids.begin(), greedy.ids.end());
  ASSERT_EQ(document.ids.size(), 703u);
  for (int32_t row = 10; row < 690; row += 5) document.questions.push_back({.row = row, .tokens = 4, .distance = 20});
  const auto correct = [&] {
    const RetrievalReport r = MeasureRetrieval(backend.get(), params, tokenizer, {document}, "full");
    EXPECT_EQ(r.buckets.size(), 1u);
    EXPECT_EQ(r.buckets[0].questions, 136);
    return r.buckets[0].correct;
  };
  EXPECT_EQ(correct(), 136);
  document.ids[688] ^= 1;  // the third of the four tokens behind row 685, the last question
  EXPECT_EQ(correct(), 135);
}

}  // namespace
}  // namespace hawser
