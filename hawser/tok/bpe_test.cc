#include "hawser/tok/bpe.h"

#include <gtest/gtest.h>

#include <vector>

#include "hawser/base/rng.h"

namespace hawser {
namespace {

/// Scans all pairs for the lowest rank, the first of equals, until none is left.
std::vector<int32_t> NaiveApply(const std::vector<Merge>& merges, std::vector<int32_t> ids) {
  for (;;) {
    const Merge* best = nullptr;
    size_t where = 0;
    for (size_t i = 0; i + 1 < ids.size(); ++i) {
      const Merge* found = nullptr;
      for (const Merge& merge : merges) {
        if (merge.left == ids[i] && merge.right == ids[i + 1]) found = &merge;
      }
      if (found != nullptr && (best == nullptr || found->rank < best->rank)) {
        best = found;
        where = i;
      }
    }
    if (best == nullptr) return ids;
    ids[where] = best->result;
    ids.erase(ids.begin() + static_cast<ptrdiff_t>(where) + 1);
  }
}

TEST(MergeTable, EqualsTheNaiveScan) {
  MergeTable::Scratch scratch;
  for (uint64_t round = 0; round < 300; ++round) {
    Rng rng{.seed = 1, .stream = round};
    const uint64_t symbols = 2 + rng.Below(8);
    std::vector<Merge> merges(rng.Below(40));
    for (Merge& merge : merges) {
      // Any result, even one that stands for something else: the table knows ids only. Ranks repeat.
      merge = {static_cast<int32_t>(rng.Below(symbols)), static_cast<int32_t>(rng.Below(symbols)),
               static_cast<int32_t>(rng.Below(symbols)), static_cast<uint32_t>(rng.Below(10))};
    }
    const MergeTable table(merges);
    std::vector<int32_t> ids(rng.Below(60));
    for (int32_t& id : ids) id = static_cast<int32_t>(rng.Below(symbols));
    const auto expected = NaiveApply(merges, ids);
    table.Apply(ids, scratch);
    ASSERT_EQ(ids, expected) << "round " << round;
  }
}

TEST(MergeTable, LongRowsFoldInHalves) {
  std::vector<Merge> merges;
  for (int32_t i = 0; i < 20; ++i) merges.push_back({i, i, i + 1, static_cast<uint32_t>(i)});
  std::vector<int32_t> ids((1 << 20) + 5, 0);
  MergeTable::Scratch scratch;
  MergeTable(merges).Apply(ids, scratch);
  EXPECT_EQ(ids, (std::vector<int32_t>{20, 2, 0}));
}

TEST(MergeTable, TheLastMentionOfAPairCounts) {
  const MergeTable table({{1, 2, 3, 0}, {1, 2, 4, 7}});
  ASSERT_NE(table.Find(1, 2), nullptr);
  EXPECT_EQ(table.Find(1, 2)->result, 4);
  EXPECT_EQ(table.Find(1, 2)->rank, 7u);
  EXPECT_EQ(table.Find(2, 1), nullptr);
  EXPECT_EQ(MergeTable().Find(0, 0), nullptr);
}

}  // namespace
}  // namespace hawser
