#include "hawser/attn/schedule.h"

#include <gtest/gtest.h>

#include <numeric>

#include "hawser/base/error.h"
#include "hawser/base/rng.h"

namespace hawser {
namespace {

// What one schedule says of (row, key), by the row form and by the column form.
struct Expanded {
  std::vector<uint8_t> rows, columns;
};

Expanded Expand(const AttnSchedule& s) {
  const int64_t keys = s.num_keys;
  Expanded e{std::vector<uint8_t>(s.num_queries * keys), std::vector<uint8_t>(s.num_queries * keys)};
  for (int32_t r = 0; r < s.num_queries; ++r) {
    for (int32_t slot = 0; slot < s.AnchorCount(r); ++slot) ++e.rows[r * keys + s.compact[slot]];
    if (!s.pinned_begin.empty()) {
      for (int32_t slot = s.pinned_begin[r]; slot < s.pinned_end[r]; ++slot) ++e.rows[r * keys + s.compact[slot]];
    }
    for (int32_t k = s.band_begin[r]; k <= s.QueryKey(r); ++k) ++e.rows[r * keys + k];
  }
  for (int32_t k = 0; k < s.num_keys; ++k) {
    for (int32_t r = s.BandRowBegin(k); r < s.band_row_end[k]; ++r) ++e.columns[r * keys + k];
  }
  for (size_t slot = 0; slot < s.compact.size(); ++slot) {
    for (int32_t r = s.pinned_row_begin[slot]; r < s.pinned_row_end[slot]; ++r) {
      if (static_cast<int32_t>(slot) < s.num_anchors && s.has_padding && s.IsPaddingRow(r)) continue;
      ++e.columns[r * keys + s.compact[slot]];
    }
  }
  return e;
}

struct Case {
  AttnPattern pattern;
  TokenLayout layout;
  int32_t num_queries = 0;
};

// Every field of the pattern and of the layout on or off by chance. Padding stands where the contract allows it: before
// and after documents; documents of padding have a begin of their own or that of the document before.
Case RandomCase(uint64_t counter) {
  Rng rng{.seed = 7, .stream = counter};
  const auto chance = [&](int one_in) { return rng.Below(one_in) == 0; };
  Case c;
  AttnPattern& p = c.pattern;
  p.scope = chance(2) ? Scope::kDocument : Scope::kSequence;
  if (!chance(3)) p.window = 1 + static_cast<int32_t>(rng.Below(chance(2) ? 5 : 40));
  if (chance(2)) p.sinks = static_cast<int32_t>(rng.Below(6));
  if (chance(2)) p.anchors = static_cast<int32_t>(rng.Below(chance(4) ? 60 : 4));
  p.separators = chance(2);

  TokenLayout& t = c.layout;
  const int32_t documents = 1 + static_cast<int32_t>(rng.Below(8));
  const bool padding = chance(3);
  if (padding && p.scope == Scope::kSequence && p.anchors == 0) t.is_padding.assign(rng.Below(5), 1);
  t.doc_begin.assign(t.is_padding.size(), 0);
  for (int32_t d = 0; d < documents; ++d) {
    const int32_t begin = static_cast<int32_t>(t.doc_begin.size());
    const int32_t length = 1 + static_cast<int32_t>(rng.Below(chance(3) ? 30 : 6));
    t.doc_begin.insert(t.doc_begin.end(), length, begin);
    t.is_padding.insert(t.is_padding.end(), length, 0);
    const bool last = d + 1 == documents;
    // Anchors must come before any padding.
    const bool may_pad = last || (p.scope == Scope::kDocument && begin + length >= p.anchors);
    if (padding && may_pad && chance(2)) {
      const int32_t pads = 1 + static_cast<int32_t>(rng.Below(6));
      t.doc_begin.insert(t.doc_begin.end(), pads, chance(2) ? begin : begin + length);
      t.is_padding.insert(t.is_padding.end(), pads, 1);
    }
  }
  t.size = static_cast<int32_t>(t.doc_begin.size());
  if (!padding && chance(2)) t.is_padding.clear();
  if (p.scope == Scope::kSequence && chance(2)) t.doc_begin.clear();
  if (!chance(3)) {
    t.is_separator.resize(t.size);
    const int one_in = 1 + static_cast<int>(rng.Below(6));
    for (uint8_t& flag : t.is_separator) flag = chance(one_in);
  }
  if (chance(3)) {
    int64_t index = -1;
    for (int32_t k = 0; k < t.size; ++k)
      t.index.push_back(index += 1 + (chance(5) ? static_cast<int64_t>(rng.Below(20)) : 0));
  }
  c.num_queries = chance(2) ? t.size : static_cast<int32_t>(rng.Below(t.size + 1));
  return c;
}

TEST(Schedule, ExpandsToVisible) {
  int64_t pairs = 0;
  int64_t seen = 0;
  for (uint64_t i = 0; i < 6000; ++i) {
    const Case c = RandomCase(i);
    const AttnSchedule s = CompileSchedule(c.pattern, c.layout, c.num_queries);
    const Expanded e = Expand(s);
    int64_t visible = 0;
    for (int32_t r = 0; r < c.num_queries; ++r) {
      for (int32_t k = 0; k < c.layout.size; ++k, ++pairs) {
        const int want = Visible(c.pattern, c.layout, s.QueryKey(r), k);
        visible += want;
        const int64_t at = int64_t{r} * s.num_keys + k;
        ASSERT_EQ(e.rows[at], want) << "case " << i << " " << ToString(c.pattern) << " q " << s.QueryKey(r) << " k "
                                    << k;
        ASSERT_EQ(e.columns[at], want) << "case " << i << " by column, q " << s.QueryKey(r) << " k " << k;
      }
      ASSERT_EQ(s.IsPaddingRow(r), c.layout.IsPadding(s.QueryKey(r))) << "case " << i << " row " << r;
    }
    ASSERT_EQ(s.visible_pairs, visible) << "case " << i;
    seen += visible;
  }
  EXPECT_GT(pairs, 4'000'000);
  EXPECT_GT(seen, 500'000);
}

TEST(Schedule, IsMonotone) {
  for (uint64_t i = 0; i < 2000; ++i) {
    const Case c = RandomCase(i);
    const AttnSchedule s = CompileSchedule(c.pattern, c.layout, c.num_queries);
    const auto ascending = [](const std::vector<int32_t>& v, size_t from) {
      return std::is_sorted(v.begin() + std::min(from, v.size()), v.end());
    };
    ASSERT_TRUE(ascending(s.band_begin, 0) && ascending(s.pinned_begin, 0) && ascending(s.pinned_end, 0)) << i;
    ASSERT_TRUE(ascending(s.band_row_end, s.num_anchors) && ascending(s.compact, 0)) << i;
    ASSERT_TRUE(ascending(s.pinned_row_begin, s.num_anchors) && ascending(s.pinned_row_end, s.num_anchors)) << i;
    for (int32_t begin : s.band_begin) ASSERT_GE(begin, s.num_anchors);
    for (int32_t begin : s.pinned_begin) ASSERT_GE(begin, s.num_anchors);
    for (size_t slot = 0; slot < s.compact.size(); ++slot) {
      if (static_cast<int32_t>(slot) < s.num_anchors)
        ASSERT_EQ(s.compact[slot], static_cast<int32_t>(slot));
      else
        ASSERT_LT(s.pinned_row_begin[slot], s.pinned_row_end[slot]);
    }
  }
}

}  // namespace
}  // namespace hawser
