// pos/segments.h - bilevel positions (BiPE, arXiv:2401.16421 section 3): a text is cut in segments, each ended by a
// separator that belongs to it. A token has a place in its segment, which picks a learned row that is added to its
// embedding, and its segment a number, which is what rotary embedding sees of a position:
//   x[t] = E[id[t]] + P[place[t]];  q[t], k[t] are rotated by segment[t]
//   place(0) = segment(0) = 0; behind a separator place = 0 and segment + 1, else place + 1 and the same segment
// as the training code of SepLLM has it (there USE_BiPE, training only, counted over a packed sequence without regard
// to documents, as here). A segment with more places than the table has rows gives the last row to the rest of them,
// where the reference fails.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

namespace hawser {

struct SegmentSpec {
  int32_t places = 0;                    // rows of P; 0: positions are plain ones
  std::vector<int32_t> separators = {};  // token ids, ascending

  bool operator==(const SegmentSpec&) const = default;
};

/// Where the next token of a stream stands.
struct SegmentCounter {
  int64_t segment = 0;
  int64_t place = 0;

  int32_t Row(const SegmentSpec& spec) const { return static_cast<int32_t>(std::min<int64_t>(place, spec.places - 1)); }
  /// Goes past `token`.
  void Pass(const SegmentSpec& spec, int32_t token) {
    const bool ends = std::binary_search(spec.separators.begin(), spec.separators.end(), token);
    segment += ends ? 1 : 0;
    place = ends ? 0 : place + 1;
  }
};

}  // namespace hawser
