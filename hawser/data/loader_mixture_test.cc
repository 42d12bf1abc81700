#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"
#include "hawser/data/loader.h"
#include "hawser/data/pack_report.h"
#include "hawser/testing/hostile.h"

namespace hawser {
namespace {

constexpr double kWeights[] = {3, 1, 0.5};
constexpr int kDocuments[] = {4, 60, 25};
constexpr int64_t kLongest = 40;
const PackOptions kOptions{
    .length = 32, .variant = {.pattern = AttnPattern{.scope = Scope::kDocument, .anchors = 1}}, .anchor = {1}};

DocumentSet Make() {
  DocumentSet set;
  Rng rng{9};
  for (int source = 0; source < 3; ++source) {
    set.BeginSource(std::string(1, static_cast<char>('a' + source)), kWeights[source]);
    for (int d = 0; d < kDocuments[source]; ++d)
      set.Add("", std::vector<int32_t>(1 + rng.Below(kLongest), static_cast<int32_t>(set.size())));
  }
  return set;
}

size_t SourceOf(const DocumentSet& set, int64_t document) {
  size_t source = 0;
  while (document >= set.mixture()[source].end) ++source;
  return source;
}

TEST(MixtureTest, EverySourceHasItsShareAtAnyMoment) {
  const DocumentSet set = Make();
  Loader loader(&set, kOptions, 5);
  PackedSequence sequence;
  int64_t tokens[3] = {};
  for (int n = 0; n < 500; ++n) {
    loader.Next(&sequence);
    std::set<size_t> sources;
    for (const Segment& segment : sequence.segments) {
      if (segment.document < 0) continue;
      tokens[SourceOf(set, segment.document)] += segment.text_tokens();
      sources.insert(SourceOf(set, segment.document));
    }
    EXPECT_EQ(sources.size(), 1u) << "a sequence is of one source";
    EXPECT_EQ(sequence.layout.is_padding.size(), 0u) << "small sources go on in the same sequence";
    const auto all = static_cast<double>(tokens[0] + tokens[1] + tokens[2]);
    for (int s = 0; s < 3; ++s) {
      EXPECT_NEAR(static_cast<double>(tokens[s]), all * kWeights[s] / 4.5, kOptions.length) << "source " << s;
    }
  }
  EXPECT_GE(loader.epoch(), 2);
}

TEST(MixtureTest, ASourceIsGoneThroughEvenly) {
  const DocumentSet set = Make();
  Loader loader(&set, kOptions, 5), other(&set, kOptions, 6);
  PackedSequence sequence, another;
  std::map<int64_t, int64_t> taken;  // tokens by document
  bool same = true;
  for (int n = 0; n < 2000; ++n) {
    loader.Next(&sequence);
    other.Next(&another);
    same = same && sequence.ids == another.ids;
    for (const Segment& segment : sequence.segments) {
      if (segment.document >= 0) taken[segment.document] += segment.text_tokens();
    }
  }
  EXPECT_FALSE(same);
  for (int64_t d = 0; d < set.size(); ++d) {
    const SourceTokens source = loader.source_tokens()[SourceOf(set, d)];
    const double epochs = static_cast<double>(taken[d]) / static_cast<double>(set.length(d));
    EXPECT_NEAR(epochs, source.epochs, 2.5 + 0.01 * source.epochs) << "document " << d;
  }
}

TEST(MixtureTest, ASourceWithNothingToTrainOnIsNamed) {
  for (const bool short_ones : {true, false}) {
    DocumentSet set;
    set.BeginSource("good", 1);
    set.Add("", std::vector<int32_t>(100, 5));
    set.BeginSource("bad", 1);
    for (int d = 0; d < 20; ++d) {
      const size_t size = short_ones ? 1 : 20;
      set.Add("", std::vector<int32_t>(size, 5), std::vector<float>(size, 0.0f));
    }
    Loader loader(&set, kOptions, 5);
    ExpectError(ErrorKind::kUsage, {"bad"}, [&] {
      PackedSequence sequence;
      for (int n = 0; n < 20; ++n) loader.Next(&sequence);
    });
  }
}

TEST(MixtureTest, LoadersCountAndSkipTheSame) {
  const DocumentSet set = Make();
  Loader straight(&set, kOptions, 3);
  std::vector<PackedSequence> stream(200);
  for (PackedSequence& s : stream) straight.Next(&s);
  EXPECT_GE(straight.epoch(), 2);
  const std::vector<SourceTokens> sources = straight.source_tokens();
  ASSERT_EQ(sources.size(), 3u);
  int64_t text = 0, counted = 0;
  for (const PackedSequence& s : stream) {
    for (const Segment& segment : s.segments) text += segment.text_tokens();
  }
  for (size_t s = 0; s < 3; ++s) {
    counted += sources[s].tokens;
    EXPECT_EQ(sources[s].name, set.mixture()[s].name);
    EXPECT_NEAR(sources[s].share, kWeights[s] / 4.5, 1e-12);
    EXPECT_NEAR(static_cast<double>(sources[s].tokens) / static_cast<double>(text), sources[s].share, 0.02);
    EXPECT_DOUBLE_EQ(sources[s].epochs * static_cast<double>(set.mixture()[s].tokens), sources[s].tokens);
  }
  EXPECT_EQ(counted, text);
  for (const int64_t n : {0, 1, 77, 150}) {
    Loader resumed(&set, kOptions, 3);
    resumed.Skip(n);
    PackedSequence next;
    for (size_t i = static_cast<size_t>(n); i < stream.size(); ++i) {
      resumed.Next(&next);
      ASSERT_EQ(next.ids, stream[i].ids) << "resumed at " << n;
    }
    EXPECT_EQ(resumed.source_tokens()[0].tokens, sources[0].tokens);
  }
}

TEST(MixtureTest, TheReportOfAnEpochHasSharesAndRepetitions) {
  const DocumentSet set = Make();
  const PackReport report = MeasurePacking(set, kOptions, 3);
  ASSERT_EQ(report.mixture.size(), 3u);
  EXPECT_GT(report.mixture[0].epochs, 1);
  EXPECT_EQ(ToJson(report)["mixture"][2]["name"], "c");
  EXPECT_TRUE(report.sources.empty());
  int64_t text = 0;
  for (const SourceTokens& source : report.mixture) text += source.tokens;
  EXPECT_NEAR(static_cast<double>(text), static_cast<double>(set.tokens()), kOptions.length);
  // What the lengths predict is the mean over the sources by their shares.
  double expected = 0;
  for (size_t s = 0; s < 3; ++s) {
    DocumentSet alone;
    for (int64_t d = set.mixture()[s].begin; d < set.mixture()[s].end; ++d) alone.Add("", set.Get(d).tokens);
    expected += report.mixture[s].share * MeasurePacking(alone, kOptions, 3).expected_density;
  }
  EXPECT_NEAR(report.expected_density, expected, 1e-12);
}

TEST(MixtureTest, WhereSourcesAreDividedIsOfTheData) {
  DocumentSet one, two;
  for (DocumentSet* set : {&one, &two}) {
    set->BeginSource("a", 1);
    set->Add("", {1, 2});
    if (set == &one) set->Add("", {3, 4});
    set->BeginSource("b", 1);
    if (set == &two) set->Add("", {3, 4});
    set->Add("", {5, 6});
  }
  EXPECT_NE(one.Hash(), two.Hash());
}

}  // namespace
}  // namespace hawser
