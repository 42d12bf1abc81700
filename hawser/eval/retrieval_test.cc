#include "hawser/eval/retrieval.h"

#include <gtest/gtest.h>

#include "hawser/device/registry.h"
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

}  // namespace
}  // namespace hawser
