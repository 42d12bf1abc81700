#include "hawser/data/pack_report.h"

#include <gtest/gtest.h>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"

namespace hawser {
namespace {

DocumentSet RandomSet(int32_t count, uint64_t longest) {
  DocumentSet set;
  Rng rng{.seed = 4};
  for (int32_t d = 0; d < count; ++d) set.Add(d % 2 == 0 ? "a" : "b", std::vector<int32_t>(3 + rng.Below(longest), 5));
  return set;
}

PackOptions Options(const char* variant, int32_t length) {
  PackOptions options{.length = length, .variant = ParseVariant(variant), .bos = 1};
  options.anchor.assign(static_cast<size_t>(options.variant.pattern.anchors), 1);
  return options;
}

TEST(PackReport, PairsAreTheFormulasOfTheSegments) {
  const DocumentSet set = RandomSet(300, 150);
  for (const char* variant : {"full", "intra", "intra-reset", "anchor", "multi-bos", "anchor-interleaved"}) {
    const PackOptions options = Options(variant, 256);
    const PackReport report = MeasurePacking(set, options, 3);
    int64_t pairs = 0, sequences = 0;
    Loader loader(&set, options, 3);
    for (PackedSequence s; loader.NextOfEpoch(&s); ++sequences) {
      int64_t used = 0, begin = 0;
      const auto close = [&](int64_t end) {
        if (options.variant.pattern.scope == Scope::kDocument) pairs += (end - begin) * (end - begin + 1) / 2;
        begin = end;
      };
      for (const Segment& segment : s.segments) {
        if (segment.document == Segment::kPadding) continue;
        if (segment.document >= 0 && segment.chunk == 0 && segment.begin > 0) {
          segment.begin == options.variant.pattern.anchors ? void(begin = segment.begin) : close(segment.begin);
        }
        used = segment.begin + segment.length;
      }
      close(used);
      pairs += options.variant.pattern.scope == Scope::kSequence ? used * (used + 1) / 2
                                                                 : used * options.variant.pattern.anchors;
    }
    EXPECT_EQ(report.pairs, pairs) << variant;
    EXPECT_EQ(report.causal_pairs, sequences * 256 * 257 / 2);
    EXPECT_EQ(report.counts.sequences, sequences);
    EXPECT_EQ(report.counts.tokens_in, set.tokens());
    EXPECT_GE(report.tile_density(), report.density() * 0.999) << "tiles hold every pair";
  }
}

TEST(PackReport, TheExpectedDensityIsNearTheMeasuredOne) {
  const DocumentSet set = RandomSet(3000, 400);  // a mean of 200 in contexts of 2048: about one in eight
  for (const char* variant : {"intra", "anchor", "multi-bos", "full"}) {
    const PackReport report = MeasurePacking(set, Options(variant, 2048), 3);
    EXPECT_NEAR(report.expected_density, report.density(), 0.1 * report.density()) << variant;
  }
  const UpsampleOptions upsample{.kind = Upsample::kGlobal, .long_tokens = 300, .short_keep = 0.05};
  const PackReport sampled = MeasurePacking(set, Options("anchor", 2048), 3, upsample);
  EXPECT_NEAR(sampled.expected_density, sampled.density(), 0.1 * sampled.density()) << "of what is drawn";
  EXPECT_LT(MeasurePacking(set, Options("scope=doc window=8", 2048), 3).expected_density, 0) << "not known";
  const PackReport first = MeasurePacking(set, Options("anchor", 2048), 3, {}, 5);
  EXPECT_EQ(first.causal_pairs, int64_t{5} * 2048 * 2049 / 2);
  EXPECT_EQ(first.measured, 5);
  EXPECT_GT(first.counts.sequences, 5) << "more are packed at once, to be drawn from";
  EXPECT_EQ(sampled.measured, sampled.counts.sequences);
}

TEST(PackReport, ALengthWithoutRoomForTextIsRefused) {
  const DocumentSet set = RandomSet(5, 20);
  EXPECT_THROW(MeasurePacking(set, Options("intra", 1), 3), Error);   // BOS takes it
  EXPECT_THROW(MeasurePacking(set, Options("anchor", 1), 3), Error);  // the anchor does
  PackOptions copies = Options("multi-bos", 2);
  copies.anchor = {1, 1};
  EXPECT_THROW(MeasurePacking(set, copies, 3), Error);
}

TEST(PackReport, HistogramHoldsEveryDocument) {
  DocumentSet set;
  for (const size_t n : {0, 1, 3, 4, 7, 8, 4096}) set.Add("", std::vector<int32_t>(n, 5));
  const PackReport report = MeasurePacking(set, Options("anchor", 64), 3);
  ASSERT_EQ(report.histogram.size(), 14u);
  EXPECT_EQ(report.histogram[0].end, 1);
  EXPECT_EQ(report.histogram[3].begin, 4);
  EXPECT_EQ(report.histogram[3].documents, 2);
  EXPECT_EQ(report.histogram[3].tokens, 11);
  EXPECT_EQ(report.histogram[13].begin, 4096);
  EXPECT_EQ(report.counts.short_documents, 2);
  const std::string text = ToText(report);
  EXPECT_NE(text.find("4096 to 8191"), std::string::npos) << text;
  EXPECT_EQ(ToJson(report)["counts"]["tokens_in"], 4119);
}

}  // namespace
}  // namespace hawser
