#include "hawser/attn/schedule.h"

#include <algorithm>

#include "hawser/base/error.h"

namespace hawser {
namespace {

void CheckLength(const char* name, size_t length, int32_t size) {
  if (length != 0 && length != static_cast<size_t>(size)) {
    Fail(ErrorKind::kUsage, "token layout: {} has {} entries for {} keys", name, length, size);
  }
}

void Validate(const AttnPattern& pattern, const TokenLayout& layout, int32_t num_queries) {
  if (pattern.window < 1) Fail(ErrorKind::kUsage, "attention pattern: window={}; wanted 1 or more", pattern.window);
  if (pattern.sinks < 0 || pattern.anchors < 0 || pattern.every < 0) {
    Fail(ErrorKind::kUsage, "attention pattern: sinks={} anchors={} every={}; wanted 0 or more", pattern.sinks,
         pattern.anchors, pattern.every);
  }
  if (layout.size < 0 || num_queries < 0 || num_queries > layout.size) {
    Fail(ErrorKind::kUsage, "token layout: {} queries over {} keys", num_queries, layout.size);
  }
  CheckLength("doc_begin", layout.doc_begin.size(), layout.size);
  CheckLength("is_separator", layout.is_separator.size(), layout.size);
  CheckLength("is_padding", layout.is_padding.size(), layout.size);
  CheckLength("index", layout.index.size(), layout.size);
  for (size_t k = 0; k < layout.index.size(); ++k) {
    if (layout.index[k] < 0 || (k > 0 && layout.index[k] <= layout.index[k - 1])) {
      Fail(ErrorKind::kUsage, "token layout: index[{}] is {}; wanted 0 or more, strictly increasing", k,
           layout.index[k]);
    }
  }
  if (layout.doc_begin.empty()) return;
  int32_t begin = 0;
  int32_t previous = -1;  // last key that is not padding
  for (int32_t k = 0; k < layout.size; ++k) {
    if (layout.IsPadding(k)) continue;
    const int32_t next = layout.doc_begin[k];
    if (next > k || next < begin || (next > begin && next <= previous)) {
      Fail(ErrorKind::kUsage, "token layout: key {} says its document begins at key {}; the key before says {}", k,
           next, begin);
    }
    begin = next;
    previous = k;
  }
}

}  // namespace

AttnSchedule CompileSchedule(const AttnPattern& pattern, const TokenLayout& layout, int32_t num_queries) {
  const int32_t keys = layout.size;
  const int32_t rows = num_queries == -1 ? keys : num_queries;
  Validate(pattern, layout, rows);
  const bool by_document = pattern.scope == Scope::kDocument;
  const auto scope_begin = [&](int32_t q) { return by_document ? layout.DocBegin(q) : 0; };

  AttnSchedule s;
  s.num_keys = keys;
  s.num_queries = rows;
  int32_t anchor_end = 0;
  while (anchor_end < keys && layout.Index(anchor_end) < pattern.anchors) ++anchor_end;
  for (int32_t k = 0; k < anchor_end; ++k) {
    if (layout.IsPadding(k)) continue;
    if (k != s.num_anchors) Fail(ErrorKind::kUsage, "token layout: padding before the anchor at key {}", k);
    ++s.num_anchors;
  }

  // Band: from the window, the scope, the anchors or the padding in front, whichever begins last. Padding inside a
  // scope would leave a hole in the band, and is an error.
  const int32_t first = s.first_query();
  s.band_begin.resize(rows);
  s.band_row_end.resize(keys);
  int32_t window_begin = 0;
  int32_t after_padding = 0;  // key after the last padding key so far
  int32_t last_real = -1;     // last key so far that is not padding
  int32_t done = 0;           // keys whose band_row_end is known
  for (int32_t q = 0; q < keys; ++q) {
    int32_t begin = q + 1;
    if (layout.IsPadding(q)) {
      s.has_padding = true;
      after_padding = q + 1;
    } else {
      const int32_t scope = scope_begin(q);
      if (last_real >= std::max(scope, s.num_anchors) && last_real < after_padding) {
        Fail(ErrorKind::kUsage, "token layout: padding between keys {} and {} that may see each other", last_real, q);
      }
      last_real = q;
      if (q < first) continue;
      while (layout.Index(q) - layout.Index(window_begin) >= pattern.window) ++window_begin;
      begin = std::max({window_begin, scope, s.num_anchors, after_padding});
    }
    if (q < first) continue;
    s.band_begin[q - first] = begin;
    for (; done < std::min(begin, keys); ++done) s.band_row_end[done] = q - first;
  }
  for (; done < keys; ++done) s.band_row_end[done] = rows;

  // Compact slots: the anchors, then the pinned keys that leave some row's band before their scope ends.
  for (int32_t k = 0; k < s.num_anchors; ++k) {
    s.compact.push_back(k);
    s.pinned_row_begin.push_back(s.BandRowBegin(k));
    s.pinned_row_end.push_back(rows);
  }
  if (pattern.sinks > 0 || pattern.every > 0 || pattern.separators) {
    int32_t row_end = 0;  // first row after the scope of key k
    for (int32_t k = s.num_anchors; k < keys; ++k) {
      if (layout.IsPadding(k)) continue;
      const int32_t scope = scope_begin(k);
      if (!pattern.Pins(PlaceInScope(pattern, layout, scope, k), layout.IsSeparator(k))) continue;
      row_end = std::max(row_end, s.BandRowBegin(k));
      while (row_end < rows && !layout.IsPadding(first + row_end) && scope_begin(first + row_end) <= k) ++row_end;
      if (s.band_row_end[k] >= row_end) continue;
      s.compact.push_back(k);
      s.pinned_row_begin.push_back(s.band_row_end[k]);
      s.pinned_row_end.push_back(row_end);
    }
  }
  for (auto* array : {&s.compact, &s.pinned_row_begin, &s.pinned_row_end}) array->shrink_to_fit();
  const int32_t slots = static_cast<int32_t>(s.compact.size());
  if (slots > s.num_anchors) {
    s.pinned_begin.resize(rows);
    s.pinned_end.resize(rows);
    int32_t begin = s.num_anchors;
    int32_t end = s.num_anchors;
    for (int32_t r = 0; r < rows; ++r) {
      while (end < slots && s.pinned_row_begin[end] <= r) ++end;
      while (begin < slots && s.pinned_row_end[begin] <= r) ++begin;
      s.pinned_begin[r] = begin;
      s.pinned_end[r] = end;
      s.visible_pairs += end - begin;
    }
  }
  for (int32_t r = 0; r < rows; ++r) {
    s.visible_pairs += s.AnchorCount(r) + std::max(s.QueryKey(r) + 1 - s.band_begin[r], 0);
  }
  return s;
}

void SplitFar(int64_t shift, std::span<const int64_t> positions, AttnSchedule* schedule) {
  AttnSchedule& s = *schedule;
  HAWSER_CHECK(shift > 0 && positions.size() == static_cast<size_t>(s.num_keys));
  const auto rows = static_cast<size_t>(s.num_queries);
  s.far_anchors.assign(rows, 0);
  s.far_band = s.band_begin;
  s.far_pinned = s.pinned_begin;
  // The first of slots, or keys, [begin, end) that is nearer to the query than the shift.
  bool any = false;
  const auto first_near = [&](int32_t begin, int32_t end, int64_t query, auto key_of) {
    int32_t low = begin;
    while (low < end) {
      const int32_t middle = low + (end - low) / 2;
      if (query - positions[static_cast<size_t>(key_of(middle))] >= shift) {
        low = middle + 1;
      } else {
        end = middle;
      }
    }
    any = any || low > begin;
    return low;
  };
  const auto itself = [](int32_t key) { return key; };
  const auto slot = [&](int32_t i) { return s.compact[static_cast<size_t>(i)]; };
  int32_t ascending_from = 0;  // first key from which on positions ascend to the last one looked at
  int32_t looked = 0;
  for (int32_t r = 0; r < s.num_queries; ++r) {
    if (s.IsPaddingRow(r)) continue;
    const int32_t key = s.QueryKey(r), begin = s.band_begin[r];
    for (; looked < key; ++looked) {
      if (positions[static_cast<size_t>(looked)] >= positions[static_cast<size_t>(looked) + 1])
        ascending_from = looked + 1;
    }
    if (begin < ascending_from && begin < key) {
      Fail(ErrorKind::kUsage, "attention: key {} stands at position {}, behind one at {} that is seen with it",
           ascending_from, positions[static_cast<size_t>(ascending_from)],
           positions[static_cast<size_t>(ascending_from) - 1]);
    }
    const int64_t query = positions[static_cast<size_t>(key)];
    s.far_anchors[r] = first_near(0, s.AnchorCount(r), query, slot);
    if (!s.pinned_begin.empty()) s.far_pinned[r] = first_near(s.pinned_begin[r], s.pinned_end[r], query, slot);
    s.far_band[r] = first_near(begin, key + 1, query, itself);
  }
  if (any) return;
  for (auto* array : {&s.far_anchors, &s.far_pinned, &s.far_band}) array->clear();
}

double AttnSchedule::Density() const {
  const double pairs = 0.5 * num_queries * (static_cast<double>(first_query()) + 1.0 + num_keys);
  return pairs > 0 ? static_cast<double>(visible_pairs) / pairs : 0.0;
}

size_t AttnSchedule::Bytes() const {
  return sizeof(*this) + sizeof(int32_t) * (compact.capacity() + band_begin.capacity() + pinned_begin.capacity() +
                                            pinned_end.capacity() + far_anchors.capacity() + far_pinned.capacity() +
                                            far_band.capacity() + band_row_end.capacity() +
                                            pinned_row_begin.capacity() + pinned_row_end.capacity());
}

TileStats CountTiles(const AttnSchedule& s, int32_t query_tile, int32_t key_tile) {
  if (query_tile < 1 || key_tile < 1) {
    Fail(ErrorKind::kUsage, "attention tiles: {} x {}; wanted sizes of 1 or more", query_tile, key_tile);
  }
  TileStats stats;
  // One piece over columns [base, end): row r sees [begin(r), stop(r)), both non-decreasing.
  const auto count = [&](int32_t base, int32_t end, auto begin, auto stop) {
    for (int64_t r0 = 0; r0 < s.num_queries; r0 += query_tile) {
      const int64_t r1 = std::min<int64_t>(r0 + query_tile, s.num_queries);
      int64_t visited = 0;
      int64_t next = 0;  // first tile not yet counted
      int64_t all_begin = 0;
      int64_t all_end = end - base;  // columns that every row sees
      for (int64_t r = r0; r < r1; ++r) {
        const int64_t b = begin(r) - base;
        const int64_t e = stop(r) - base;
        all_begin = std::max(all_begin, b);
        all_end = std::min(all_end, e);
        if (b >= e) continue;
        const int64_t last = (e - 1) / key_tile;
        visited += std::max<int64_t>(last + 1 - std::max(next, b / key_tile), 0);
        next = std::max(next, last + 1);
      }
      const int64_t full_begin = (all_begin + key_tile - 1) / key_tile;
      const int64_t full_end = (all_end + (all_end == end - base ? key_tile - 1 : 0)) / key_tile;
      const int64_t full = all_begin < all_end ? std::max<int64_t>(full_end - full_begin, 0) : 0;
      stats.full += full;
      stats.partial += visited - full;
    }
  };
  count(
      0, s.num_keys, [&](int64_t r) { return s.band_begin[r]; }, [&](int64_t r) { return s.QueryKey(r) + 1; });
  if (!s.pinned_begin.empty()) {
    count(
        s.num_anchors, static_cast<int32_t>(s.compact.size()), [&](int64_t r) { return s.pinned_begin[r]; },
        [&](int64_t r) { return s.pinned_end[r]; });
  }
  const int32_t whole = s.num_anchors / key_tile * key_tile;
  if (whole > 0) {
    count(
        0, whole, [](int64_t) { return 0; }, [&](int64_t r) { return std::min(s.AnchorCount(r), whole); });
  }
  return stats;
}

}  // namespace hawser
