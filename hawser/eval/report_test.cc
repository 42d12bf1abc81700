#include "hawser/eval/report.h"

#include <gtest/gtest.h>

namespace hawser {
namespace {

TEST(TextTableTest, NumbersToTheRightWordsToTheLeft) {
  TextTable table({"name", "n", "share"});
  table.Row({"one", "1,000", "5.0 %"});
  table.Row({"r\xc3\xa9sum\xc3\xa9", "7"});
  EXPECT_EQ(table.ToString(),
            "name        n  share\n"
            "------  -----  -----\n"
            "one     1,000  5.0 %\n"
            "r\xc3\xa9sum\xc3\xa9      7\n");
}

TEST(HumanTest, Numbers) {
  EXPECT_EQ(HumanCount(0), "0");
  EXPECT_EQ(HumanCount(999), "999");
  EXPECT_EQ(HumanCount(-1000), "-1,000");
  EXPECT_EQ(HumanCount(-999), "-999");
  EXPECT_EQ(HumanCount(1234567), "1,234,567");
  EXPECT_EQ(HumanBytes(512), "512 B");
  EXPECT_EQ(HumanBytes(1536), "1.5 KiB");
  EXPECT_EQ(HumanBytes(int64_t{5} << 50), "5.0 PiB");
  EXPECT_EQ(HumanSeconds(0.034), "34 ms");
  EXPECT_EQ(HumanSeconds(61.04), "61.0 s");
  EXPECT_EQ(HumanSeconds(125), "2:05 min");
  EXPECT_EQ(HumanSeconds(3725), "1:02:05 h");
  EXPECT_EQ(HumanNumber(0), "0");
  EXPECT_EQ(HumanNumber(3.14159), "3.142");
  EXPECT_EQ(HumanNumber(31.4159), "31.42");
  EXPECT_EQ(HumanNumber(31415.9), "31416");
  EXPECT_EQ(HumanNumber(3141592.6), "3.142e+06");
  EXPECT_EQ(HumanNumber(-0.0314), "-0.03140");
}

}  // namespace
}  // namespace hawser
