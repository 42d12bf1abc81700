#include "hawser/data/loader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "hawser/base/error.h"

namespace hawser {
namespace {

DocumentSet MakeCorpus(int64_t count) {
  std::vector<Document> documents;
  for (int64_t d = 0; d < count; ++d) {
    Document document{.id = d};
    for (int64_t t = 0; t < 5 + 11 * (d % 7); ++t) document.tokens.push_back(static_cast<int32_t>(d * 100 + t));
    documents.push_back(document);
  }
  return DocumentSet(documents);
}

const PackOptions kOneSource{
    .length = 64,
    .variant = {.pattern = AttnPattern{.scope = Scope::kDocument, .anchors = 1}, .interleaved = true},
    .anchor = {1}};

bool Same(const PackedSequence& a, const PackedSequence& b) {
  return a.ids == b.ids && a.positions == b.positions && a.targets == b.targets && a.weights == b.weights &&
         a.layout.doc_begin == b.layout.doc_begin && a.layout.is_padding == b.layout.is_padding;
}

TEST(LoaderTest, SkippingEqualsNeverHavingStopped) {
  const auto documents = MakeCorpus(20);
  std::vector<PackedSequence> stream(60);
  Loader loader(&documents, kOneSource, 5);
  for (PackedSequence& s : stream) loader.Next(&s);
  EXPECT_GE(loader.epoch(), 3);
  for (int64_t n = 0; n < 60; ++n) {
    Loader resumed(&documents, kOneSource, 5);
    resumed.Skip(n);
    EXPECT_EQ(resumed.sequence(), n);
    PackedSequence s;
    for (int64_t i = n; i < std::min<int64_t>(n + 3, 60); ++i) {
      resumed.Next(&s);
      ASSERT_TRUE(Same(s, stream[i])) << "resumed at " << n << ", sequence " << i;
    }
  }
}

TEST(LoaderTest, AnEpochHoldsEveryTokenOnceAndTheNextOneIsShuffledAnew) {
  const auto documents = MakeCorpus(20);
  Loader loader(&documents, kOneSource, 5);
  std::map<int64_t, std::map<int32_t, int>> tokens;
  std::map<int64_t, std::vector<int64_t>> order;
  PackedSequence s;
  while (true) {
    loader.Next(&s);
    if (loader.epoch() == 2) break;
    for (const Segment& segment : s.segments) {
      if (segment.document < 0) continue;
      if (segment.chunk == 0) order[loader.epoch()].push_back(segment.document);
      for (int32_t i = segment.begin; i < segment.begin + segment.length; ++i) ++tokens[loader.epoch()][s.ids[i]];
    }
  }
  const auto total = static_cast<size_t>(documents.tokens());
  for (int64_t epoch : {0, 1}) {
    EXPECT_EQ(tokens[epoch].size(), total);
    for (const auto& [id, count] : tokens[epoch]) EXPECT_EQ(count, 1) << id;
  }
  EXPECT_NE(order[0], order[1]);
}

TEST(LoaderTest, PiecesOfALongDocumentComeFarApart) {
  std::vector<Document> documents(8);
  for (size_t d = 0; d < documents.size(); ++d) {
    documents[d] = {.id = static_cast<int64_t>(d), .tokens = std::vector<int32_t>(63 * 40, 5)};
  }
  const DocumentSet set(documents);
  Loader loader(&set, {.length = 64, .bos = 1}, 5);
  PackedSequence s;
  int64_t before = -1, neighbours = 0;
  for (int i = 0; i < 320; ++i) {
    loader.Next(&s);
    neighbours += s.segments[0].document == before;
    before = s.segments[0].document;
  }
  EXPECT_EQ(loader.epoch(), 0);
  EXPECT_LT(neighbours, 80);  // 40 of 320 by chance; 312 in packing order
}

TEST(LoaderTest, SeedsGiveOtherOrders) {
  const auto documents = MakeCorpus(20);
  PackedSequence a, b;
  Loader(&documents, kOneSource, 5).Next(&a);
  Loader(&documents, kOneSource, 6).Next(&b);
  EXPECT_NE(a.ids, b.ids);
}

TEST(LoaderTest, DataThatFillNoSequenceAreRefused) {
  PackOptions options = kOneSource;
  options.length = 4096;
  options.keep_partial = false;
  const auto documents = MakeCorpus(3);
  const DocumentSet none;
  PackedSequence s;
  EXPECT_THROW(Loader(&documents, options, 0).Next(&s), Error);
  EXPECT_THROW(Loader(&none, kOneSource, 0).Next(&s), Error);
}

}  // namespace
}  // namespace hawser
