// Forward: tiles of query rows (positions x the G heads that share a kv head) against blocks of packed columns.
// Per block and group of rows: scores, cap and bias, bounds, online softmax, mix. Score and probability blocks of a
// group stay in L1, the block of packed keys and values in L2.
#include <cmath>
#include <limits>

#include "hawser/cpu/attention.h"
#include "hawser/cpu/attention_engine.h"
#include "hawser/cpu/attention_pack.h"
#include "hawser/cpu/subnormals.h"

namespace hawser {
namespace {

constexpr int32_t kBlock = kMaxScoreCols;  // packed columns per step
constexpr int32_t kTileRows = 192;         // query rows of a tile, about
constexpr int32_t kMinJump = 32;           // a band that jumps this far between two positions starts a new tile
constexpr size_t kWaveBytes = 64 << 20;    // packed keys and values held at a time

struct QueryTile {
  int32_t begin, end;  // positions (schedule rows)
};

/// Tiles of at most `positions` rows, cut where the band jumps (a new document): rows of one document would only mask
/// the columns of the other.
std::vector<QueryTile> CutTiles(const AttnSchedule& s, int32_t positions) {
  std::vector<QueryTile> tiles;
  for (int32_t r = 0; r < s.num_queries; ++r) {
    const bool jump = r > 0 && s.band_begin[r] - s.band_begin[r - 1] >= kMinJump;
    if (r == 0 || jump || r - tiles.back().begin == positions) tiles.push_back({r, r});
    tiles.back().end = r + 1;
  }
  return tiles;
}

/// The packed columns that a position sees, one range of each kind; where there are far keys, those of each kind after
/// the near ones of all.
struct Range {
  int32_t begin, end;
};
enum Piece { kAnchors, kPinned, kBand, kNumPieces };
constexpr int32_t kMostPieces = 2 * kNumPieces;

void RangesOf(const AttnSchedule& s, int32_t slots_pad, int32_t row, bool far, Range* ranges) {
  std::fill(ranges, ranges + kMostPieces, Range{0, 0});
  if (s.IsPaddingRow(row)) return;
  ranges[kAnchors] = {0, s.AnchorCount(row)};
  if (!s.pinned_begin.empty()) ranges[kPinned] = {s.pinned_begin[row], s.pinned_end[row]};
  ranges[kBand] = {slots_pad + s.band_begin[row], slots_pad + s.QueryKey(row) + 1};
  if (!far) return;
  const auto split = [&](Piece piece, int32_t end) {
    ranges[kNumPieces + piece] = {ranges[piece].begin, end};
    ranges[piece].begin = end;
  };
  split(kAnchors, s.far_anchors[row]);
  if (!s.pinned_begin.empty()) split(kPinned, s.far_pinned[row]);
  split(kBand, slots_pad + s.far_band[row]);
}

struct Packed {
  void* k;       // transposed panels
  void* v;       // row panels
  float* place;  // of every column; null without a bias
};

/// State of a call that all tasks share.
struct Call {
  const AttentionArgs& args;
  HeadShape shape;
  int32_t group;      // G: query heads per kv head
  int32_t positions;  // per tile
  ScoreForm form;

  Places places() const { return {&args.shape, args.query_place, args.key_place}; }
};

class TileWorker {
 public:
  TileWorker(const Call& call, Arena& arena) : call_(call) {
    const HeadShape& h = call.shape;
    const int64_t rows = RoundUp(static_cast<int64_t>(call.positions) * call.group, 64);
    const int64_t far_rows = call.args.q_far.empty() ? 0 : rows;
    arena.Reset(Arena::Bytes<char>(rows * h.ld * h.element) + Arena::Bytes<char>(far_rows * h.ld * h.element) +
                Arena::Bytes<float>(rows * h.n) + 4 * Arena::Bytes<float>(rows) +
                Arena::Bytes<float>(kMaxGroup * kLdS) + Arena::Bytes<char>(kMaxGroup * kLdS * h.element) +
                Arena::Bytes<Range>(call.positions * kMostPieces) + Arena::Bytes<bool>(rows));
    q_ = arena.Take<char>(rows * h.ld * h.element);
    q_far_ = arena.Take<char>(far_rows * h.ld * h.element);
    out_ = arena.Take<float>(rows * h.n);
    max_ = arena.Take<float>(rows);
    sum_ = arena.Take<float>(rows);
    weight_ = arena.Take<float>(rows);
    place_ = arena.Take<float>(rows);
    s_ = arena.Take<float>(kMaxGroup * kLdS);
    p_ = arena.Take<char>(kMaxGroup * kLdS * h.element);
    ranges_ = arena.Take<Range>(call.positions * kMostPieces);
    seen_ = arena.Take<bool>(rows);
  }

  void Run(const AttnUnit& unit, const Packed& packed, QueryTile tile) {
    const HeadShape& h = call_.shape;
    const AttnSchedule& s = unit.schedule();
    const int32_t group = call_.group, rows = (tile.end - tile.begin) * group;
    const bool far = !call_.args.q_far.empty() && s.has_far();
    Stage(unit, tile, rows, call_.args.q, q_);
    if (far) Stage(unit, tile, rows, call_.args.q_far, q_far_);
    for (int32_t p = tile.begin; p < tile.end; ++p) {
      RangesOf(s, static_cast<int32_t>(unit.slots_pad()), p, far, ranges_ + (p - tile.begin) * kMostPieces);
    }
    for (int32_t r = 0; call_.form.biased() && r < rows; ++r) {
      weight_[r] = call_.form.Weight(unit.kv_head * group + r % group);
      place_[r] = call_.places().Query(unit, tile.begin + r / group);
    }
    std::fill(max_, max_ + rows, -std::numeric_limits<float>::infinity());
    std::fill(sum_, sum_ + rows, 0.0f);
    std::fill(seen_, seen_ + rows / h.t.row_group + 1, false);
    for (int piece = 0; piece < (far ? kMostPieces : kNumPieces); ++piece) {
      Range all{std::numeric_limits<int32_t>::max(), 0};
      for (int32_t r = 0; r < rows; r += group) Extend(RangeAt(r, piece), all);
      const int32_t step = std::max(kColStep, h.t.k_align);
      for (int32_t c = all.begin / step * step; c < all.end; c += kBlock) {
        for (int32_t g = 0; g < rows; g += h.t.row_group) {
          Step(unit, packed, piece, {c, std::min(c + kBlock, all.end)}, g, std::min(rows - g, h.t.row_group));
        }
      }
    }
    Finish(unit, tile, rows);
  }

 private:
  static constexpr int32_t kMaxGroup = 64;
  static constexpr int32_t kLdS = kBlock + kColStep;  // not a power of two: rows fall into different cache sets

  /// The queries of a tile as a left operand.
  void Stage(const AttnUnit& unit, QueryTile tile, int32_t rows, ConstMat q, void* to) const {
    const HeadShape& h = call_.shape;
    for (int32_t r = 0; r < RoundUp(rows, h.t.m_align); ++r) {
      const int64_t row = unit.sequence->query_begin + tile.begin + r / call_.group;
      const int64_t head = static_cast<int64_t>(unit.kv_head) * call_.group + r % call_.group;
      PrefetchHead(q, row, head, h.dim);
      h.StageRow(r < rows ? HeadRow(q, row, head, h.dim) : nullptr, q.dtype, to, r);
    }
  }
  Range RangeAt(int32_t row, int piece) const { return ranges_[row / call_.group * kMostPieces + piece]; }
  static void Extend(Range r, Range& all) {
    if (r.begin >= r.end) return;
    all.begin = std::min(all.begin, r.begin);
    all.end = std::max(all.end, r.end);
  }

  /// Rows [first, first + count) against the part of packed columns `block` that they see.
  void Step(const AttnUnit& unit, const Packed& packed, int piece, Range block, int32_t first, int32_t count) {
    const HeadShape& h = call_.shape;
    Range all{std::numeric_limits<int32_t>::max(), 0};
    bool full = true;
    const int32_t begin_position = first / call_.group, end_position = (first + count - 1) / call_.group + 1;
    for (int32_t p = begin_position; p < end_position; ++p) Extend(ranges_[p * kMostPieces + piece], all);
    const int32_t step = std::max(kColStep, h.t.k_align);
    const int32_t c0 = std::max(block.begin, all.begin) / step * step;
    const int32_t end = std::min(block.end, all.end);
    if (c0 >= end) return;
    const int32_t cols = static_cast<int32_t>(RoundUp(end - c0, step)), c1 = c0 + cols;
    for (int32_t p = begin_position; p < end_position && full; ++p) {
      const Range r = ranges_[p * kMostPieces + piece];
      full = r.begin <= c0 && r.end >= c1;
    }
    const void* q = piece < kNumPieces ? q_ : q_far_;
    h.Scores(h.At(q, static_cast<int64_t>(first) * h.ld), packed.k, c0, count, cols, s_, kLdS);
    if (!call_.form.plain()) {
      call_.form.Apply(h.t, {.s = s_, .lds = kLdS, .rows = count, .cols = cols},
                       {.weight = weight_ + first,
                        .row_place = place_ + first,
                        .col_place = call_.form.biased() ? packed.place + c0 : nullptr,
                        .by_row = true});
    }
    if (!full) {
      for (int32_t r = 0; r < count; ++r) {
        const Range seen = RangeAt(first + r, piece);
        MaskRow(s_ + r * kLdS, seen.begin - c0, seen.end - c0, cols);
      }
    }
    bool& seen = seen_[first / h.t.row_group];
    float* out = out_ + static_cast<int64_t>(first) * h.n;
    h.t.softmax({.s = s_,
                 .lds = kLdS,
                 .p = p_,
                 .ldp = kLdS,
                 .rows = count,
                 .cols = cols,
                 .scale2 = call_.form.rest2(),
                 .max = max_ + first,
                 .sum = sum_ + first,
                 .out = out,
                 .ldo = h.n,
                 .out_cols = h.n,
                 .first = !seen});
    h.Mix(p_, kLdS, packed.v, unit.columns(), c0, count, cols, out, h.n, seen);
    seen = true;
  }

  void Finish(const AttnUnit& unit, QueryTile tile, int32_t rows) {
    const HeadShape& h = call_.shape;
    const AttentionArgs& args = call_.args;
    for (int32_t r = 0; r < rows; ++r) {
      const int64_t row = unit.sequence->query_begin + tile.begin + r / call_.group;
      const int64_t head = static_cast<int64_t>(unit.kv_head) * call_.group + r % call_.group;
      PrefetchHead(args.out, row, head, h.dim);
      void* to = HeadRow(args.out, row, head, h.dim);
      // Not by the sum: a NaN among the inputs must come out as one.
      const bool sees = !unit.schedule().IsPaddingRow(tile.begin + r / call_.group);
      if (sees) {
        h.t.convert(out_ + static_cast<int64_t>(r) * h.n, DType::kF32, to, args.out.dtype, h.dim, 1.0f / sum_[r]);
      } else {
        std::fill_n(static_cast<char*>(to), h.dim * SizeOf(args.out.dtype), 0);
      }
      if (args.lse == nullptr) continue;
      args.lse[row * args.shape.heads + head] =
          sees ? static_cast<float>((max_[r] + std::log2(static_cast<double>(sum_[r]))) * std::log(2.0))
               : -std::numeric_limits<float>::infinity();
    }
  }

  const Call& call_;
  void* q_;
  void* q_far_;
  float* out_;
  float* max_;
  float* sum_;
  float* weight_;  // of the distance, and
  float* place_;   // place, by row; with a bias
  float* s_;
  void* p_;
  Range* ranges_;
  bool* seen_;  // by row group: out holds something
};

/// Packs one panel of 64 columns of a unit.
void PackPanel(const Call& call, const AttnUnit& unit, const Packed& packed, int64_t panel) {
  thread_local Arena arena;
  const HeadShape& h = call.shape;
  arena.Reset(Arena::Bytes<char>(h.StagedSize(kPanel) * h.element) + Arena::Bytes<float>(h.ld));
  void* staged = arena.Take<char>(h.StagedSize(kPanel) * h.element);
  float* aside = arena.Take<float>(h.ld);
  const auto stage = [&](const StoredHead& from) {
    for (int32_t i = 0; i < kPanel; ++i) {
      const int32_t key = unit.Key(panel * kPanel + i);
      if (key < 0) {
        h.StageRow(nullptr, h.t.dtype, staged, i);
        continue;
      }
      const int64_t row = unit.sequence->key_begin + key;
      from.Prefetch(row);
      if (from.aside()) {
        from.Read(h.t, row, 1, aside, h.ld);
        h.StageRow(aside, DType::kF32, staged, i);
      } else {
        h.StageRow(from.Row(row), from.dtype(), staged, i);
      }
    }
  };
  stage({call.args.k, unit.kv_head, h.dim, call.args.rotation});
  h.Transposed(staged, h.At(packed.k, h.TransposedSize(panel * kPanel)));
  stage({call.args.v, unit.kv_head, h.dim});
  h.RowPanels(staged, packed.v, unit.columns(), panel * kPanel);
  for (int64_t c = panel * kPanel; call.form.biased() && c < (panel + 1) * kPanel; ++c) {
    const int32_t key = unit.Key(c);
    packed.place[c] = key < 0 ? 0.0f : call.places().Key(unit, key);
  }
}

/// Of all keys and values that a unit sees.
size_t PackedBytes(const HeadShape& h, const AttnUnit& unit, bool biased) {
  return Arena::Bytes<char>(h.TransposedSize(unit.columns()) * h.element) +
         Arena::Bytes<char>(h.RowPanelSize(unit.columns()) * h.element) +
         (biased ? Arena::Bytes<float>(unit.columns()) : 0);
}

}  // namespace

int64_t AttentionForwardScratch(const AttentionBackwardArgs& args) {
  const HeadShape h(GetTileKernels(CurrentIsa(), args.q.dtype), args.shape.head_dim);
  return LargestWave(ListUnits(args.sequences, args.shape.kv_heads), kWaveBytes,
                     [&](const AttnUnit& unit) { return PackedBytes(h, unit, args.shape.slopes != nullptr); });
}

void TileForward(const AttentionArgs& args) {
  const int32_t group = args.shape.heads / args.shape.kv_heads;
  const Call call{.args = args,
                  .shape = HeadShape(GetTileKernels(CurrentIsa(), args.q.dtype), args.shape.head_dim),
                  .group = group,
                  .positions = std::max(1, kTileRows / group),
                  .form = ScoreForm(args.shape, args.shape.scale * kLog2E)};
  const HeadShape& h = call.shape;
  const bool biased = call.form.biased();
  const std::vector<AttnUnit> units = ListUnits(args.sequences, args.shape.kv_heads);
  const bool parallel = Work(args.sequences, args.shape.heads, args.shape.head_dim) >= kParallelWork;
  thread_local Arena shared;
  for (size_t begin = 0; begin < units.size();) {
    // A wave: as many units as fit in kWaveBytes, one at least.
    size_t end = begin, bytes = 0;
    for (; end < units.size() && (end == begin || bytes + PackedBytes(h, units[end], biased) <= kWaveBytes); ++end) {
      bytes += PackedBytes(h, units[end], biased);
    }
    shared.Reset(bytes);
    struct Task {
      const AttnUnit* unit;
      const Packed* packed;
      QueryTile tile;
    };
    std::vector<Packed> packed(end - begin);
    std::vector<Task> tasks;
    std::vector<std::pair<size_t, int64_t>> panels;
    for (size_t u = begin; u < end; ++u) {
      packed[u - begin].k = shared.Take<char>(h.TransposedSize(units[u].columns()) * h.element);
      packed[u - begin].v = shared.Take<char>(h.RowPanelSize(units[u].columns()) * h.element);
      packed[u - begin].place = biased ? shared.Take<float>(units[u].columns()) : nullptr;
      for (int64_t p = 0; p < units[u].columns() / kPanel; ++p) panels.emplace_back(u, p);
      // Later tiles see more: they start first.
      const std::vector<QueryTile> tiles = CutTiles(units[u].schedule(), call.positions);
      for (auto tile = tiles.rbegin(); tile != tiles.rend(); ++tile) {
        tasks.push_back({&units[u], &packed[u - begin], *tile});
      }
    }
    ForTasks(parallel, static_cast<int64_t>(panels.size()), [&](int64_t i) {
      const auto [u, p] = panels[i];
      PackPanel(call, units[u], packed[u - begin], p);
    });
    ForTasks(parallel, static_cast<int64_t>(tasks.size()), [&](int64_t i) {
      thread_local Arena arena;
      const FlushSubnormals flush(!call.form.plain());
      h.t.begin();
      TileWorker(call, arena).Run(*tasks[i].unit, *tasks[i].packed, tasks[i].tile);
      h.t.end();
    });
    begin = end;
  }
}

}  // namespace hawser
