#include "hawser/attn/schedule.h"

#include <gtest/gtest.h>

#include <algorithm>
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
  if (chance(3)) p.every = 1 + static_cast<int32_t>(rng.Below(7));

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

TEST(Schedule, E9_ExpandsToVisible) {
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

// The last rows of all queries are what a schedule of those queries alone says.
TEST(Schedule, FewerQueriesAreTheLastRows) {
  for (uint64_t i = 0; i < 500; ++i) {
    const Case c = RandomCase(i);
    const Expanded all = Expand(CompileSchedule(c.pattern, c.layout));
    const Expanded some = Expand(CompileSchedule(c.pattern, c.layout, c.num_queries));
    const int64_t skipped = int64_t{c.layout.size - c.num_queries} * c.layout.size;
    ASSERT_TRUE(std::equal(some.rows.begin(), some.rows.end(), all.rows.begin() + skipped)) << i;
  }
}

// Visible pairs of packed documents in closed form, over random segmentations and the extreme ones.
TEST(Schedule, T18_VisiblePairsInClosedForm) {
  Rng rng{.seed = 11};
  std::vector<std::vector<int32_t>> segmentations = {{1},     {63},    {64},     {1, 1, 1},
                                                     {62, 1}, {1, 62}, {64, 64}, {128, 1, 63}};
  for (int i = 0; i < 200; ++i) {
    std::vector<int32_t>& lengths = segmentations.emplace_back();
    for (uint64_t d = 0, n = 1 + rng.Below(12); d < n; ++d) lengths.push_back(1 + static_cast<int32_t>(rng.Below(100)));
  }
  for (const std::vector<int32_t>& lengths : segmentations) {
    const int64_t content = std::accumulate(lengths.begin(), lengths.end(), int64_t{0});
    int64_t triangles = 0;
    for (int64_t n : lengths) triangles += n * (n + 1) / 2;
    const auto pairs = [&](const char* pattern, int32_t prefix) {
      return CompileSchedule(ParsePattern(pattern), MakeLayout(prefix, lengths)).visible_pairs;
    };
    EXPECT_EQ(pairs("full", 0), content * (content + 1) / 2);
    EXPECT_EQ(pairs("intra", 0), triangles);
    EXPECT_EQ(pairs("anchor", 1), content + 1 + triangles);
    EXPECT_EQ(pairs("scope=doc anchors=3", 3), 6 + 3 * content + triangles);
    EXPECT_EQ(CompileSchedule(ParsePattern("full"), MakeLayout(1, lengths)).Density(), 1.0);
  }
  EXPECT_EQ(CompileSchedule({}, MakeLayout(0, {})).visible_pairs, 0);
  EXPECT_EQ(CompileSchedule(ParsePattern("anchor"), MakeLayout(1, {4095})).Density(), 1.0);  // one document: full
  EXPECT_EQ(CompileSchedule({}, MakeLayout(0, {131072})).visible_pairs, int64_t{131072} * 131073 / 2);
}

// Sets of the papers written out: SepLLM (arXiv:2412.12094 section 3), StreamingLLM, and where they meet.
TEST(Schedule, EqualitiesBetweenMethods) {
  for (uint64_t i = 0; i < 300; ++i) {
    Rng rng{.seed = 23, .stream = i};
    const int32_t size = 1 + static_cast<int32_t>(rng.Below(70));
    const int32_t n = 1 + static_cast<int32_t>(rng.Below(20));
    const int32_t a = static_cast<int32_t>(rng.Below(6));
    TokenLayout flags = MakeLayout(0, {size});
    for (int32_t k = 0; k < size; ++k) flags.is_separator.push_back(rng.Below(5) == 0);
    TokenLayout all = MakeLayout(0, {size});
    all.is_separator.assign(size, 1);
    TokenLayout none = MakeLayout(0, {size});
    none.is_separator.assign(size, 0);
    const auto rows = [](AttnPattern p, const TokenLayout& t) { return Expand(CompileSchedule(p, t)).rows; };
    const std::vector<uint8_t> full = rows({}, none);

    std::vector<uint8_t> sep(int64_t{size} * size), stream(sep.size()), slide(sep.size());
    for (int32_t q = 0; q < size; ++q) {
      for (int32_t k = 0; k <= q; ++k) {
        slide[q * size + k] = k > q - n;
        stream[q * size + k] = k > q - n || k < a;
        sep[q * size + k] = k > q - n || k < a || flags.is_separator[k] != 0;
      }
    }
    const AttnPattern sepllm{.window = n, .sinks = a, .separators = true};
    EXPECT_EQ(rows(sepllm, flags), sep);
    EXPECT_EQ(rows(sepllm, none), stream);
    EXPECT_EQ(rows({.window = n, .sinks = a}, flags), stream);
    EXPECT_EQ(rows({.window = n, .separators = true}, none), slide);
    EXPECT_EQ(rows(sepllm, all), full);
    EXPECT_EQ(rows({.window = 1, .separators = true}, all), full);
    EXPECT_EQ(rows({.window = size, .sinks = a, .separators = true}, flags), full);
    EXPECT_EQ(rows({.window = n, .sinks = size}, none), full);
    EXPECT_EQ(rows({.window = n, .anchors = a}, none), stream);  // sinks of the sequence are anchors
    EXPECT_EQ(rows({.scope = Scope::kDocument, .window = n, .sinks = a, .separators = true}, flags), sep);
    // Nothing is gathered where the window never closes.
    EXPECT_EQ(CompileSchedule({.window = size, .sinks = a, .separators = true}, flags).compact.size(), 0u);
  }
}

// A wider window, more sinks, anchors or separators, or a wider scope never hide a pair.
TEST(Schedule, MoreFieldsSeeMore) {
  for (uint64_t i = 0; i < 500; ++i) {
    Case c = RandomCase(i);
    if (!c.layout.is_padding.empty()) continue;  // a wider scope over padding is not a valid schedule
    const std::vector<uint8_t> before = Expand(CompileSchedule(c.pattern, c.layout)).rows;
    const auto grows = [&](AttnPattern wider) {
      const std::vector<uint8_t> after = Expand(CompileSchedule(wider, c.layout)).rows;
      for (size_t at = 0; at < after.size(); ++at) {
        if (before[at] > after[at]) return false;
      }
      return true;
    };
    AttnPattern p = c.pattern;
    if (p.window != AttnPattern::kAll) ++p.window;
    EXPECT_TRUE(grows(p)) << i;
    p = c.pattern;
    ++p.sinks;
    EXPECT_TRUE(p.every > 0 || grows(p)) << i;  // every d-th token is counted from the last sink
    p = c.pattern;
    ++p.anchors;
    EXPECT_TRUE(grows(p)) << i;
    p = c.pattern;
    p.separators = true;
    EXPECT_TRUE(grows(p)) << i;
    // Sinks and every d-th token are those of the scope: only without them is the sequence's set a superset of the
    // documents'.
    if (c.pattern.sinks == 0 && c.pattern.every == 0) {
      p = c.pattern;
      p.scope = Scope::kSequence;
      EXPECT_TRUE(grows(p)) << i;
    }
  }
}

// Tiles counted from the expanded pieces, cell by cell.
TEST(Schedule, CountTilesMatchesBruteForce) {
  for (uint64_t i = 0; i < 1500; ++i) {
    const Case c = RandomCase(i);
    const AttnSchedule s = CompileSchedule(c.pattern, c.layout, c.num_queries);
    Rng rng{.seed = 31, .stream = i};
    const int32_t bq = 1 + static_cast<int32_t>(rng.Below(20));
    const int32_t bk = 1 + static_cast<int32_t>(rng.Below(20));
    int64_t full = 0, partial = 0;
    const auto count = [&](int32_t columns, auto sees) {
      for (int32_t r0 = 0; r0 < s.num_queries; r0 += bq) {
        for (int32_t c0 = 0; c0 < columns; c0 += bk) {
          bool any = false, every = true;
          for (int32_t r = r0; r < std::min(r0 + bq, s.num_queries); ++r) {
            for (int32_t column = c0; column < std::min(c0 + bk, columns); ++column) {
              any |= sees(r, column);
              every &= sees(r, column);
            }
          }
          full += any && every;
          partial += any && !every;
        }
      }
    };
    count(s.num_keys, [&](int32_t r, int32_t k) { return k >= s.band_begin[r] && k <= s.QueryKey(r); });
    count(static_cast<int32_t>(s.compact.size()) - s.num_anchors, [&](int32_t r, int32_t slot) {
      return slot + s.num_anchors >= s.pinned_begin[r] && slot + s.num_anchors < s.pinned_end[r];
    });
    count(s.num_anchors / bk * bk, [&](int32_t r, int32_t slot) { return slot < s.AnchorCount(r); });
    const TileStats stats = CountTiles(s, bq, bk);
    ASSERT_EQ(stats.full, full) << i;
    ASSERT_EQ(stats.partial, partial) << i;
  }
  const TileStats dense = CountTiles(CompileSchedule({}, MakeLayout(0, {256})), 64, 64);
  EXPECT_EQ(dense.full, 6);
  EXPECT_EQ(dense.partial, 4);
}

TEST(Schedule, MemoryIsFarFromTimesT) {
  TokenLayout layout = MakeLayout(1, std::vector<int32_t>(32, 1023));
  layout.is_separator.assign(layout.size, 0);
  for (int32_t k = 0; k < layout.size; k += 7) layout.is_separator[k] = 1;
  EXPECT_LT(CompileSchedule(ParsePattern("scope=doc anchors=1 sinks=3 window=256 sep"), layout).Bytes(), 1u << 20);
  EXPECT_LT(CompileSchedule(ParsePattern("sinks=3 window=256 sep"), layout).Bytes(), 1u << 20);
}

TEST(Schedule, Errors) {
  const auto fails = [](const AttnPattern& pattern, const TokenLayout& layout, int32_t queries = -1) {
    try {
      CompileSchedule(pattern, layout, queries);
    } catch (const Error& error) {
      return error.kind() == ErrorKind::kUsage;
    }
    return false;
  };
  const TokenLayout good = MakeLayout(0, {3, 3});
  const AttnPattern intra = ParsePattern("intra");
  EXPECT_FALSE(fails(intra, good));
  EXPECT_TRUE(fails({.window = 0}, good));
  EXPECT_TRUE(fails({.window = -5}, good));
  EXPECT_TRUE(fails({.sinks = -1}, good));
  EXPECT_TRUE(fails({.anchors = -1}, good));
  EXPECT_TRUE(fails({}, good, 7));
  EXPECT_TRUE(fails({}, good, -2));
  const auto with = [&](auto change) {
    TokenLayout layout = good;
    change(layout);
    return layout;
  };
  EXPECT_TRUE(fails({}, with([](TokenLayout& t) { t.size = -1; })));
  EXPECT_TRUE(fails({}, with([](TokenLayout& t) { t.doc_begin.pop_back(); })));
  EXPECT_TRUE(fails({}, with([](TokenLayout& t) { t.is_separator.assign(5, 0); })));
  EXPECT_TRUE(fails({}, with([](TokenLayout& t) { t.is_padding.assign(7, 0); })));
  EXPECT_TRUE(fails({}, with([](TokenLayout& t) { t.index.assign(1, 0); })));
  EXPECT_TRUE(fails({}, with([](TokenLayout& t) { t.index = {0, 1, 2, 2, 3, 4}; })));
  EXPECT_TRUE(fails({}, with([](TokenLayout& t) { t.index = {-1, 0, 1, 2, 3, 4}; })));
  EXPECT_TRUE(fails(intra, with([](TokenLayout& t) { t.doc_begin = {0, 0, 3, 3, 3, 3}; })));   // after its token
  EXPECT_TRUE(fails(intra, with([](TokenLayout& t) { t.doc_begin = {0, 0, 0, 3, 3, 0}; })));   // decreases
  EXPECT_TRUE(fails(intra, with([](TokenLayout& t) { t.doc_begin = {0, 0, 0, 0, 2, 2}; })));   // documents overlap
  EXPECT_TRUE(fails(intra, with([](TokenLayout& t) { t.doc_begin = {-1, 0, 0, 3, 3, 3}; })));  // before the first key
  const auto padded = [&](std::vector<uint8_t> flags) { return with([&](TokenLayout& t) { t.is_padding = flags; }); };
  EXPECT_TRUE(fails({}, padded({0, 0, 1, 0, 0, 0})));
  EXPECT_FALSE(fails(intra, padded({0, 0, 1, 0, 0, 0})));
  EXPECT_TRUE(fails(intra, padded({0, 1, 0, 0, 0, 0})));
  EXPECT_FALSE(fails({}, padded({1, 1, 0, 0, 1, 1})));
  EXPECT_FALSE(fails({}, padded({1, 1, 1, 1, 1, 1})));
  EXPECT_TRUE(fails({.anchors = 3}, padded({1, 1, 0, 0, 0, 0})));
  EXPECT_FALSE(fails({.anchors = 2}, padded({1, 1, 0, 0, 0, 0})));
  EXPECT_FALSE(fails({.anchors = 2}, padded({0, 0, 1, 0, 0, 0})));  // anchors are seen across the padding
  EXPECT_TRUE(fails({.anchors = 1}, padded({0, 0, 1, 0, 0, 0})));
}

/// Of each (row, key): 0 not seen, 1 near, 2 far; -1 where it is in both parts, or twice in one.
std::vector<int8_t> Parts(const AttnSchedule& s) {
  std::vector<int8_t> parts(static_cast<size_t>(s.num_queries) * static_cast<size_t>(s.num_keys));
  for (int32_t r = 0; r < s.num_queries; ++r) {
    const auto add = [&](int32_t key, bool far) {
      int8_t& part = parts[static_cast<size_t>(r) * static_cast<size_t>(s.num_keys) + static_cast<size_t>(key)];
      part = part != 0 ? -1 : far ? 2 : 1;
    };
    for (int32_t slot = 0; slot < s.AnchorCount(r); ++slot) {
      add(s.compact[slot], s.has_far() && slot < s.far_anchors[r]);
    }
    for (int32_t slot = s.pinned_begin.empty() ? 0 : s.pinned_begin[r];
         slot < (s.pinned_end.empty() ? 0 : s.pinned_end[r]); ++slot) {
      add(s.compact[slot], s.has_far() && slot < s.far_pinned[r]);
    }
    for (int32_t k = s.band_begin[r]; k <= s.QueryKey(r); ++k) add(k, s.has_far() && k < s.far_band[r]);
  }
  return parts;
}

TEST(Schedule, FarKeysAreThoseFromTheShiftOn) {
  for (uint64_t i = 0; i < 600; ++i) {
    const Case c = RandomCase(i);
    Rng rng{.seed = 17, .stream = i};
    const int64_t shift = 1 + static_cast<int64_t>(rng.Below(40));
    // By document from the anchors on, or through, where documents may see each other; with or without gaps.
    const bool restart = c.pattern.scope == Scope::kDocument && rng.Below(2) == 0;
    std::vector<int64_t> positions;
    for (int32_t k = 0; k < c.layout.size; ++k) {
      const int32_t begin = restart ? c.layout.DocBegin(k) : 0;
      positions.push_back(c.layout.Index(k) < c.pattern.anchors || begin == 0
                              ? c.layout.Index(k)
                              : c.pattern.anchors + c.layout.Index(k) - c.layout.Index(begin));
    }
    AttnSchedule s = CompileSchedule(c.pattern, c.layout, c.num_queries);
    SplitFar(shift, positions, &s);
    const std::vector<int8_t> parts = Parts(s);
    for (int32_t r = 0; r < s.num_queries; ++r) {
      for (int32_t k = 0; k < s.num_keys; ++k) {
        const bool far = positions[s.QueryKey(r)] - positions[k] >= shift;
        const int8_t want = !Visible(c.pattern, c.layout, s.QueryKey(r), k) ? 0 : far ? 2 : 1;
        ASSERT_EQ(parts[static_cast<size_t>(r) * s.num_keys + k], want) << ToString(c.pattern) << " " << r << " " << k;
      }
    }
    EXPECT_EQ(s.has_far(), std::ranges::count(parts, 2) > 0);
  }
}

TEST(Schedule, FarKeysNeedPositionsThatAscend) {
  AttnSchedule s = CompileSchedule({}, {.size = 4});
  EXPECT_THROW(SplitFar(2, std::vector<int64_t>{0, 1, 1, 2}, &s), Error);
  s = CompileSchedule({.window = 2}, {.size = 4}, 1);  // sees two of them only
  SplitFar(1, std::vector<int64_t>{7, 0, 1, 2}, &s);
  EXPECT_TRUE(s.has_far());
}

}  // namespace
}  // namespace hawser
