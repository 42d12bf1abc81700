#include "hawser/data/upsample.h"

#include <gtest/gtest.h>

#include <map>
#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/data/loader.h"

namespace hawser {
namespace {

// "web" has many short documents and few long ones, "books" only long ones, "notes" only short ones.
DocumentSet Corpus() {
  DocumentSet set;
  Rng rng{.seed = 2};
  for (int d = 0; d < 400; ++d) {
    set.Add("web", std::vector<int32_t>(d % 40 == 0 ? 200 + rng.Below(50) : 5 + rng.Below(60), 7));
    if (d % 20 == 0) set.Add("books", std::vector<int32_t>(300 + rng.Below(300), 8));
    if (d % 10 == 0) set.Add("notes", std::vector<int32_t>(10 + rng.Below(10), 9));
  }
  return set;
}

constexpr UpsampleOptions Options(Upsample kind) { return {.kind = kind, .long_tokens = 200, .short_keep = 0.1}; }

TEST(Upsample, NoneTakesEveryDocumentOnce) {
  const DocumentSet set = Corpus();
  std::vector<uint32_t> all(static_cast<size_t>(set.size()));
  std::iota(all.begin(), all.end(), 0u);
  EXPECT_EQ(DrawDocuments(set, {}, 1, 0), all);
}

TEST(Upsample, GlobalKeepsLongDocumentsAndATenthOfTheShortOnes) {
  const DocumentSet set = Corpus();
  std::vector<DrawCounts> counts;
  const auto drawn = DrawDocuments(set, Options(Upsample::kGlobal), 1, 0, &counts);
  std::map<uint32_t, int> times;
  for (const uint32_t d : drawn) ++times[d];
  int64_t shorts = 0, kept = 0, epochs = 0;
  for (uint64_t epoch = 0; epoch < 20; ++epoch, ++epochs) {
    std::vector<bool> in(static_cast<size_t>(set.size()));
    for (const uint32_t d : DrawDocuments(set, Options(Upsample::kGlobal), 1, epoch)) in[d] = true;
    for (int64_t d = 0; d < set.size(); ++d) {
      if (set.length(d) >= 200) {
        EXPECT_TRUE(in[static_cast<size_t>(d)]);
      } else {
        ++shorts;
        kept += in[static_cast<size_t>(d)];
      }
    }
  }
  EXPECT_NEAR(static_cast<double>(kept), 0.1 * static_cast<double>(shorts),
              4 * std::sqrt(0.09 * static_cast<double>(shorts)));
  for (const auto& [document, n] : times) EXPECT_EQ(n, 1) << document;
  for (const DrawCounts& c : counts) {
    EXPECT_EQ(c.tokens, c.drawn + c.left_short);
    EXPECT_EQ(c.repeated + c.left_budget, 0);
  }
  EXPECT_NE(drawn, DrawDocuments(set, Options(Upsample::kGlobal), 1, 1)) << "drawn anew every epoch";
  EXPECT_EQ(drawn, DrawDocuments(set, Options(Upsample::kGlobal), 1, 0));
}

TEST(Upsample, PerSourceKeepsTheMixtureOfTokens) {
  const DocumentSet set = Corpus();
  std::vector<DrawCounts> counts;
  const auto drawn = DrawDocuments(set, Options(Upsample::kPerSource), 1, 0, &counts);
  int64_t total = 0, longest = 0;
  std::vector<int64_t> tokens(3);
  for (const uint32_t d : drawn) {
    total += set.length(d);
    tokens[set.source(d)] += set.length(d);
    longest = std::max(longest, set.length(d));
  }
  for (size_t s = 0; s < 3; ++s) {
    const DrawCounts& c = counts[s];
    EXPECT_EQ(c.drawn, tokens[s]);
    EXPECT_EQ(c.tokens + c.repeated, c.drawn + c.left_short + c.left_budget) << set.sources()[s];
    const double share = static_cast<double>(c.tokens) / static_cast<double>(set.tokens());
    EXPECT_NEAR(static_cast<double>(c.drawn), share * static_cast<double>(total), 3.0 * static_cast<double>(longest));
  }
  EXPECT_GT(counts[0].repeated, 0) << "long documents of the web are repeated";
  EXPECT_GT(counts[1].left_budget, 0) << "books are cut back to their share";
}

TEST(Upsample, ASourceThatKeepsNothingTakesFromAllItsDocuments) {
  const DocumentSet set = Corpus();
  UpsampleOptions options = Options(Upsample::kPerSource);
  options.short_keep = 0;
  std::vector<DrawCounts> counts;
  DrawDocuments(set, options, 1, 0, &counts);
  EXPECT_GT(counts[2].drawn, 0);
  EXPECT_EQ(counts[2].left_short, 0);
  EXPECT_EQ(counts[2].tokens + counts[2].repeated, counts[2].drawn + counts[2].left_budget);
}

TEST(Upsample, NothingKeptIsAnError) {
  DocumentSet set;
  set.Add("a", {1, 2, 3});
  UpsampleOptions options = Options(Upsample::kGlobal);
  options.short_keep = 0;
  EXPECT_THROW(DrawDocuments(set, options, 1, 0), Error);
}

TEST(Upsample, NoEpochIsEmptyWhereAChanceIsLeft) {
  DocumentSet set;
  set.Add("a", {1, 2, 3});
  set.Add("b", {4, 5});
  for (const Upsample kind : {Upsample::kGlobal, Upsample::kPerSource}) {
    UpsampleOptions options = Options(kind);
    options.short_keep = 0.01;
    std::vector<DrawCounts> counts;
    for (uint64_t epoch = 0; epoch < 50; ++epoch) {
      EXPECT_FALSE(DrawDocuments(set, options, 1, epoch, &counts).empty()) << epoch;
    }
  }
}

TEST(Upsample, TheLoaderPacksWhatIsDrawnAndResumes) {
  const DocumentSet set = Corpus();
  const PackOptions options{.length = 256, .bos = 1, .overflow = Overflow::kBestFit, .lookahead = 20};
  Loader loader(&set, options, 5, Options(Upsample::kPerSource));
  std::vector<PackedSequence> stream(150);
  for (PackedSequence& s : stream) loader.Next(&s);
  EXPECT_GE(loader.epoch(), 2);
  for (const int64_t n : {1, 40, 149}) {
    Loader resumed(&set, options, 5, Options(Upsample::kPerSource));
    resumed.Skip(n);
    PackedSequence s;
    resumed.Next(&s);
    EXPECT_EQ(s.ids, stream[static_cast<size_t>(n)].ids);
  }
  const PackCounts total = loader.total_counts();
  EXPECT_GE(total.sequences, 150);
  EXPECT_GT(total.tokens_in, loader.counts().tokens_in);
}

}  // namespace
}  // namespace hawser
