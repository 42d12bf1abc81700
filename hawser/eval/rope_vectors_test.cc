#include "hawser/eval/rope_vectors.h"

#include <gtest/gtest.h>

#include <cmath>

#include "hawser/base/error.h"

namespace hawser {
namespace {

TEST(RopeSelfTest, HitsTheKnownFigures) {
  const RopeSelfTestReport report =
      RunRopeSelfTest({.pairs = 2000, .pipelines = {"f64", "exact", "f16-qk", "bf16-qk", "bf16-table", "all-bf16"}});
  ASSERT_EQ(report.rows.size(), 6u);
  for (const RopeSelfTestRow& row : report.rows) {
    for (const RopeSelfTestCell& cell : row.cells) {
      EXPECT_GT(cell.expected, 0) << row.name;
      EXPECT_LT(std::abs(cell.deviation()), 0.1) << row.name << " " << cell.shift;
    }
  }
  EXPECT_LT(report.worst(), 0.1);
}

// f64 < f32 tables < f16 < bf16 after an f32 rotation < bf16 throughout, at every place.
TEST(RopeSelfTest, T27_FewerBitsDriftMore) {
  const RopeSelfTestReport report =
      RunRopeSelfTest({.pairs = 300, .pipelines = {"f64", "exact", "f16-qk", "bf16-qk", "all-bf16"}});
  for (size_t range = 0; range < 4; ++range) {
    for (size_t i = 1; i < report.rows.size(); ++i) {
      EXPECT_LT(report.rows[i - 1].cells[range].shift, report.rows[i].cells[range].shift) << report.rows[i].name;
    }
  }
}

TEST(RopeSelfTest, Bf16FrequenciesAreShiftInvariantAndWrong) {
  const RopeSelfTestReport report = RunRopeSelfTest({.pairs = 500, .pipelines = {"bf16-inv-freq"}});
  for (const RopeSelfTestCell& cell : report.rows.at(0).cells) {
    EXPECT_NEAR(cell.shift, 3.3e-3, 0.4e-3);
    EXPECT_NEAR(cell.error, 1.3e-1, 0.3e-1);
  }
}

TEST(RopeSelfTest, HalfPrecisionPositionsOverflow) {
  const RopeSelfTestReport report = RunRopeSelfTest({.pairs = 50, .pipelines = {"f16-positions"}});
  EXPECT_TRUE(std::isnan(report.rows.at(0).cells[2].shift));
  EXPECT_EQ(report.rows[0].cells[2].deviation(), 0);
  EXPECT_TRUE(ToJson(report)["rows"][2]["shift_rms"].dump() == "null");
}

TEST(RopeSelfTest, AnOverflowWhereNoneIsKnownIsNoAgreement) {
  const double nan = std::nan(""), inf = HUGE_VAL;
  for (const auto& [shift, expected] : {std::pair(nan, 1e-3), std::pair(inf, 1e-3), std::pair(1e-3, inf)}) {
    const RopeSelfTestCell cell{.shift = shift, .expected = expected, .half_digit = 5e-5};
    EXPECT_EQ(cell.deviation(), inf) << shift << " " << expected;
    RopeSelfTestReport report;
    report.rows.push_back({.cells = {cell, {.shift = 1e-3, .expected = 1e-3}, {}, {}}});
    EXPECT_EQ(report.worst(), inf);
  }
}

TEST(RopeSelfTest, MeasuresPipelinesWithoutAName) {
  const RopeSelfTestReport report =
      RunRopeSelfTest({.pairs = 50, .pipelines = {"inv_freq=bf16+qk=f32", "f32-qk", "bf16-qk"}});
  ASSERT_EQ(report.rows.size(), 3u);
  EXPECT_EQ(report.rows[0].name, "inv_freq=bf16+qk=f32");
  EXPECT_GT(report.rows[0].cells[0].shift, 0);
  EXPECT_EQ(report.rows[0].cells[0].expected, 0);
  EXPECT_GT(report.rows[2].cells[0].expected, 0);
}

TEST(RopeSelfTest, RefusesWhatItCannotRun) {
  EXPECT_THROW(RunRopeSelfTest({.pairs = 0}), Error);
  EXPECT_THROW(RunRopeSelfTest({.pairs = 1, .pipelines = {"bf61-qk"}}), Error);
}

}  // namespace
}  // namespace hawser
