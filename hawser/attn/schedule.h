// attn/schedule.h - a pattern over one layout, compiled into what kernels walk: per query row at most three pieces.
//   anchors  compact slots [0, min(num_anchors, q + 1))
//   pinned   compact slots [pinned_begin[r], pinned_end[r])      sinks and separators older than the band
//   band     keys [band_begin[r], q]
// The pieces of a row are disjoint and their union is exactly {k : Visible(pattern, layout, q, k)}. band_begin,
// pinned_begin and pinned_end are non-decreasing in r, so a tile of rows needs only its first and last row to know
// which key tiles are empty, full or partial; nothing here is T x T, and compiling costs O(keys).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "hawser/attn/pattern.h"

namespace hawser {

struct AttnSchedule {
  int32_t num_keys = 0;
  int32_t num_queries = 0;  // the queries are the last num_queries keys; row r is key number QueryKey(r)

  int32_t num_anchors = 0;            // leading compact slots that every row sees (causally)
  std::vector<int32_t> compact;       // [slots] ascending key numbers: the anchors, then the pinned keys that some row
                                      // sees outside its band (none where the window never closes)
  std::vector<int32_t> band_begin;    // [num_queries] in keys, >= num_anchors; QueryKey(r) + 1 or more: empty band
  std::vector<int32_t> pinned_begin;  // [num_queries] compact slots >= num_anchors; empty vector: no pinned keys
  std::vector<int32_t> pinned_end;    // [num_queries]

  // The same sets by column, for backward. Key k is in the band of rows [band_row_begin(k), band_row_end[k]).
  std::vector<int32_t> band_row_end;      // [num_keys] rows; non-decreasing over keys >= num_anchors
  std::vector<int32_t> pinned_row_begin;  // [slots] rows that see compact slot s as pinned (anchors: as anchors)
  std::vector<int32_t> pinned_row_end;    // [slots]

  // Only where SplitFar found far keys: of what row r sees, the anchors before slot far_anchors[r], the pinned keys
  // before slot far_pinned[r] and the band before key far_band[r] are far. [num_queries] each; far_pinned as
  // pinned_begin.
  std::vector<int32_t> far_anchors, far_pinned, far_band;

  int64_t visible_pairs = 0;  // exact number of visible (query, key) pairs
  bool has_padding = false;   // only then may a row in [pinned_row_begin, pinned_row_end) of an anchor be a padding row

  int32_t first_query() const { return num_keys - num_queries; }
  int32_t QueryKey(int32_t row) const { return first_query() + row; }
  int32_t BandRowBegin(int32_t key) const { return key > first_query() ? key - first_query() : 0; }
  /// Padding rows see nothing: their output is 0 and their lse -infinity.
  bool IsPaddingRow(int32_t row) const { return QueryKey(row) >= num_anchors && band_begin[row] > QueryKey(row); }
  int32_t AnchorCount(int32_t row) const {
    if (IsPaddingRow(row)) return 0;
    return num_anchors < QueryKey(row) + 1 ? num_anchors : QueryKey(row) + 1;
  }
  bool has_far() const { return !far_band.empty(); }
  /// Visible pairs over the causal pairs of the same queries: 1 for full attention.
  double Density() const;
  size_t Bytes() const;
};

/// Compiles for the last `num_queries` keys of `layout` as queries (default: all of them).
/// Errors: kUsage for a pattern or layout that is not valid (window < 1, vectors of the wrong length, a document that
/// begins after its token, document starts that decrease, padding inside a scope or before an anchor: padding may stand
/// before, between and after documents, or before and after the sequence where the scope is the sequence).
AttnSchedule CompileSchedule(const AttnPattern& pattern, const TokenLayout& layout, int32_t num_queries = -1);

/// Marks as far the keys that stand `shift` tokens or more before the query that sees them. `positions`: of all keys.
/// Nothing is marked where there are none. Errors: kUsage where positions do not ascend among the keys of a row.
void SplitFar(int64_t shift, std::span<const int64_t> positions, AttnSchedule* schedule);

/// Key tiles of `key_tile` columns visited by query tiles of `query_tile` rows, split by kind: full where every row
/// sees every column. Band tiles start at multiples of key_tile in keys, pinned tiles at compact slot num_anchors;
/// anchors that fill no whole tile are folded into the start of the softmax and count as none.
struct TileStats {
  int64_t full = 0;
  int64_t partial = 0;
};
TileStats CountTiles(const AttnSchedule& schedule, int32_t query_tile, int32_t key_tile);

}  // namespace hawser
