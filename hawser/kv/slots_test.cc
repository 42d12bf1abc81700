// Slot tables by themselves: no rows, no device.
#include "hawser/kv/slots.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "hawser/base/rng.h"

namespace hawser {
namespace {

const char* const kForms[] = {"full",
                              "window:5",
                              "sink:3,7",
                              "sink:2,5,positions=absolute",
                              "sep:2,6",
                              "fix:2,6,4",
                              "sep-stream:2,3,4,14",
                              "sep-stream:2,3,4,14,policy=full",
                              "sep-stream:2,3,4,14,policy=full,bounded=off",
                              "sep-stream:2,3,4,14,accumulate=off"};

SlotTable TableOf(const std::string& form) { return SlotTable(MakeKvPolicy(form), AttnPattern::kAll); }

std::vector<SlotInfo> StreamOf(uint64_t seed, int64_t tokens) {
  Rng rng{.seed = seed, .stream = 21};
  std::vector<SlotInfo> stream;
  for (int64_t t = 0; t < tokens; ++t) {
    stream.push_back({.index = t, .token = static_cast<int32_t>(rng.Below(50)), .separator = rng.Below(5) == 0});
  }
  return stream;
}

/// Some of the coming tokens, at most `limit`; `rows`: of the slots, moved as the table says.
int64_t Step(SlotTable* table, std::vector<int64_t>* rows, std::span<const SlotInfo> coming, size_t limit,
             bool commit = true) {
  const auto keep = [&](SlotTable::Kept kept) {
    if (kept == nullptr) return;
    for (size_t i = 0; i < kept->size(); ++i) (*rows)[i] = (*rows)[static_cast<size_t>((*kept)[i])];
    rows->resize(kept->size());
  };
  coming = coming.first(std::min(limit, coming.size()));
  keep(table->TrimBefore(coming.front()));
  const int64_t n = table->Limit(coming);
  table->Begin(coming.first(static_cast<size_t>(n)));
  if (!commit) {
    table->RollBack();
    return 0;
  }
  for (int64_t i = 0; i < n; ++i) rows->push_back(coming[static_cast<size_t>(i)].index);
  keep(table->End());
  return n;
}

TEST(SlotTable, SaysWhichRowsStayWhateverTheChunksAndWhatIsTakenBack) {
  for (const char* form : kForms) {
    for (uint64_t seed = 0; seed < 10; ++seed) {
      const std::vector<SlotInfo> stream = StreamOf(seed, 120);
      SlotTable chunked = TableOf(form), single = TableOf(form);
      std::vector<int64_t> rows, single_rows;
      Rng rng{.seed = seed, .stream = 22};
      while (chunked.seen() < 120) {
        const auto coming = std::span(stream).subspan(static_cast<size_t>(chunked.seen()));
        if (rng.Below(3) == 0) Step(&chunked, &rows, coming, 1 + rng.Below(30), /*commit=*/false);
        Step(&chunked, &rows, coming, 1 + rng.Below(30));
        while (single.seen() < chunked.seen()) {
          Step(&single, &single_rows, std::span(stream).subspan(static_cast<size_t>(single.seen())), 1);
        }
        ASSERT_TRUE(std::ranges::equal(chunked.slots(), single.slots())) << form << " at " << single.seen();
        ASSERT_EQ(rows, single_rows);
        ASSERT_TRUE(std::ranges::equal(rows, chunked.slots(), {}, {}, &SlotInfo::index)) << form;
        ASSERT_EQ(chunked.usage().mean, single.usage().mean) << form;
        ASSERT_EQ(chunked.usage().peak, single.usage().peak) << form;
      }
      EXPECT_EQ(chunked.holds_all(), chunked.policy().form().keeps_all()) << form;
    }
  }
}

TEST(SlotTable, ForksAndTruncatedTablesAreThoseOfWhatTheyHaveSeen) {
  const std::vector<SlotInfo> stream = StreamOf(3, 60);
  for (const char* form : kForms) {
    SlotTable table = TableOf(form);
    std::vector<int64_t> rows;
    while (table.seen() < 40) Step(&table, &rows, std::span(stream).subspan(static_cast<size_t>(table.seen()), 1), 1);
    SlotTable fork = table.Fork(40);
    EXPECT_TRUE(std::ranges::equal(fork.slots(), table.slots())) << form;
    EXPECT_EQ(fork.usage().mean, table.usage().mean);
    Step(&fork, &rows, std::span(stream).subspan(50, 1), 1);
    EXPECT_EQ(table.seen(), 40);
    EXPECT_EQ(fork.seen(), 41);
    if (!table.holds_all()) continue;
    table.Truncate(25);
    EXPECT_EQ(table.seen(), 25);
    EXPECT_TRUE(std::ranges::equal(table.slots(), std::span(stream).first(25)));
    EXPECT_EQ(fork.Fork(25).size(), 25);
  }
}

TEST(SlotTable, DensePromptsAreHeldToTheirEnd) {
  const std::vector<SlotInfo> stream = StreamOf(4, 60);
  SlotTable table = TableOf("sep-stream:2,3,4,14,prefill=dense");
  std::vector<int64_t> rows;
  table.BeginPrefill();
  while (table.seen() < 50) Step(&table, &rows, std::span(stream).subspan(static_cast<size_t>(table.seen()), 10), 10);
  EXPECT_EQ(table.size(), 50);
  const SlotTable::Kept kept = table.EndPrefill();
  ASSERT_NE(kept, nullptr);
  EXPECT_LE(table.size(), 14);
  EXPECT_FALSE(table.inside_prompt());
  SlotTable other = TableOf("sep-stream:2,3,4,14,prefill=dense");
  other.BeginPrefill();
  Step(&other, &rows, std::span(stream).first(20), 20, /*commit=*/false);
  EXPECT_EQ(other.EndPrefill(), nullptr);
  EXPECT_EQ(other.size(), 0);
}

}  // namespace
}  // namespace hawser
