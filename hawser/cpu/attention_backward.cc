// Backward: blocks of keys (compact slots, then the band) against tiles of query rows, on transposed scores, so that P
// and dS come out of the element-wise pass as left operands and no tile is transposed.
//   S = K Qᵀ    dP = V dOᵀ    P = exp2(scale2 S + shift)    dS = P (dP - delta)    delta = sum over D of dO * O
// (a cap and a bias change S, and a cap dP, on the way)
//   dV += P dO    dK += dS Q    dQᵀ += Kᵀ dS
// A block of keys owns its dK and dV. dQ is summed per chunk of blocks (chunks are cut by the schedule alone) and the
// chunks are added in order, so the result does not depend on threads. A pinned key is in two blocks, as slot and in
// the band: both halves are kept in F32 and added at the end.
#include <cmath>
#include <cstring>
#include <limits>

#include "hawser/cpu/attention.h"
#include "hawser/cpu/attention_engine.h"
#include "hawser/cpu/attention_pack.h"
#include "hawser/cpu/subnormals.h"

namespace hawser {
namespace {

constexpr int32_t kKeyBlock = 256;             // keys of a block: every query row is read once per block
constexpr int32_t kKeyGroup = 128;             // keys of a block that are worked on together: their scores stay in L2
constexpr int32_t kQueryTile = 128;            // stacked query rows of a tile
constexpr int32_t kMinJump = 32;               // keys whose rows end this far apart do not share a block
constexpr int64_t kChunkWork = 4'000'000'000;  // products of a chunk, about
constexpr int64_t kMaxChunks = 16;             // of one unit
constexpr int64_t kManyChunks = 4;             // above this they must be worth their sums
constexpr int64_t kWorkPerSum = 4000;          // products per float of a chunk's dQ, at least
constexpr int64_t kPartialBytes = 256 << 20;   // of dQ sums of one unit
constexpr size_t kWaveBytes = 256 << 20;

struct Call {
  const AttentionBackwardArgs& args;
  HeadShape shape;
  int32_t group;
  ScoreForm form;

  Places places() const { return {&args.shape, args.query_place, args.key_place}; }
  int64_t dq_rows() const { return RoundUp(shape.dim, std::max(kColStep, shape.t.m_align)); }
  int64_t dq_tile() const { return dq_rows() * kQueryTile; }
};

struct KeyBlock {
  int64_t begin, end;          // packed columns
  int32_t row_begin, row_end;  // positions that see any of them

  int64_t Products(const Call& call) const {
    return 5 * (end - begin) * (row_end - row_begin) * call.group * call.shape.dim;
  }
};

/// Positions that see a packed column.
std::pair<int32_t, int32_t> RowsOf(const AttnUnit& unit, int64_t column) {
  const AttnSchedule& s = unit.schedule();
  const int32_t key = unit.Key(column);
  if (key < 0) return {0, 0};
  const bool compact = column < unit.slots_pad();
  const int32_t begin = compact ? s.pinned_row_begin[column] : s.BandRowBegin(key);
  const int32_t end = compact ? s.pinned_row_end[column] : s.band_row_end[key];
  return begin < end ? std::pair{begin, end} : std::pair{0, 0};
}

std::vector<KeyBlock> CutKeys(const AttnUnit& unit) {
  const AttnSchedule& s = unit.schedule();
  std::vector<KeyBlock> blocks;
  const auto cut = [&](int64_t begin, int64_t end) {
    int32_t last_end = 0;
    for (int64_t c = begin; c < end; ++c) {
      const auto [row_begin, row_end] = RowsOf(unit, c);
      const bool jump = c > begin && row_begin < row_end && row_end - last_end >= kMinJump;
      if (c == begin || jump || c - blocks.back().begin == kKeyBlock) blocks.push_back({c, c, 0, 0});
      KeyBlock& block = blocks.back();
      block.end = c + 1;
      if (row_begin >= row_end) continue;
      last_end = row_end;
      const bool empty = block.row_begin >= block.row_end;
      block.row_begin = empty ? row_begin : std::min(block.row_begin, row_begin);
      block.row_end = empty ? row_end : std::max(block.row_end, row_end);
    }
  };
  cut(0, s.num_anchors);
  cut(s.num_anchors, static_cast<int64_t>(s.compact.size()));
  cut(unit.slots_pad() + s.num_anchors, unit.slots_pad() + s.num_keys);
  return blocks;
}

/// A run of key blocks, and dQ of the query tiles they reach: [tiles][dq_rows][kQueryTile], transposed. A tile holds
/// something once it is `reached`: it is cleared when it is first needed, in the cache, and left unread otherwise.
struct Chunk {
  size_t block_begin, block_end;
  int64_t tile_begin = 0, tile_end = 0;
  float* dq = nullptr;
  std::vector<uint8_t> reached;
};

struct UnitWork {
  const AttnUnit* unit;
  std::vector<KeyBlock> blocks;
  std::vector<Chunk> chunks;
  int64_t rows;      // stacked query rows
  int64_t rows_pad;  // in whole query tiles

  // Packed, shared by the tasks of the unit.
  void *q_columns, *q_rows, *dout_columns, *dout_rows;
  float *shift, *delta;      // shift: -lse in base 2
  float *weight, *place;     // of the distance, negative; with a bias
  float *slot_dk, *slot_dv;  // [2][slots][n]: what slot and band blocks found of pinned keys
};

/// The query tiles of positions [row_begin, row_end).
std::pair<int64_t, int64_t> TilesOf(const Call& call, int64_t row_begin, int64_t row_end) {
  return {row_begin * call.group / kQueryTile, (row_end * call.group - 1) / kQueryTile + 1};
}

/// Cuts the blocks into at most `count` chunks of like cost.
std::vector<Chunk> CutChunks(const Call& call, const std::vector<KeyBlock>& blocks, int64_t total, int64_t count) {
  std::vector<Chunk> chunks;
  int64_t done = 0;
  for (size_t b = 0; b < blocks.size(); ++b) {
    const KeyBlock& block = blocks[b];
    const int64_t index = std::min(count - 1, total == 0 ? 0 : done * count / total);
    if (index >= static_cast<int64_t>(chunks.size())) chunks.push_back({.block_begin = b, .block_end = b});
    Chunk& chunk = chunks.back();
    chunk.block_end = b + 1;
    done += block.Products(call);
    if (block.row_begin >= block.row_end) continue;
    const auto [first, last] = TilesOf(call, block.row_begin, block.row_end);
    const bool empty = chunk.tile_begin >= chunk.tile_end;
    chunk.tile_begin = empty ? first : std::min(chunk.tile_begin, first);
    chunk.tile_end = empty ? last : std::max(chunk.tile_end, last);
  }
  return chunks;
}

/// As many chunks as there may be while writing and adding their sums stays cheap beside the products.
UnitWork Plan(const Call& call, const AttnUnit& unit) {
  UnitWork work{.unit = &unit, .blocks = CutKeys(unit)};
  work.rows = static_cast<int64_t>(unit.schedule().num_queries) * call.group;
  work.rows_pad = RoundUp(work.rows, kQueryTile);
  int64_t total = 0;
  for (const KeyBlock& block : work.blocks) total += block.Products(call);
  for (int64_t count = std::clamp<int64_t>(total / kChunkWork, 1, kMaxChunks);; --count) {
    work.chunks = CutChunks(call, work.blocks, total, count);
    int64_t sums = 0;
    for (const Chunk& chunk : work.chunks) sums += (chunk.tile_end - chunk.tile_begin) * call.dq_tile();
    const bool worth = count <= kManyChunks || sums <= total / kWorkPerSum;
    if (count == 1 || (worth && sums * 4 <= kPartialBytes)) return work;
  }
}

size_t SharedBytes(const Call& call, const UnitWork& work) {
  const HeadShape& h = call.shape;
  size_t bytes = 2 * Arena::Bytes<char>(h.TransposedSize(work.rows_pad) * h.element) +
                 2 * Arena::Bytes<char>(h.RowPanelSize(work.rows_pad) * h.element) +
                 (call.form.biased() ? 4 : 2) * Arena::Bytes<float>(work.rows_pad) +
                 2 * Arena::Bytes<float>(2 * static_cast<int64_t>(work.unit->schedule().compact.size()) * h.n);
  for (const Chunk& chunk : work.chunks)
    bytes += Arena::Bytes<float>((chunk.tile_end - chunk.tile_begin) * call.dq_tile());
  return bytes;
}

void TakeShared(const Call& call, UnitWork& work, Arena& arena) {
  const HeadShape& h = call.shape;
  work.q_columns = arena.Take<char>(h.TransposedSize(work.rows_pad) * h.element);
  work.dout_columns = arena.Take<char>(h.TransposedSize(work.rows_pad) * h.element);
  work.q_rows = arena.Take<char>(h.RowPanelSize(work.rows_pad) * h.element);
  work.dout_rows = arena.Take<char>(h.RowPanelSize(work.rows_pad) * h.element);
  work.shift = arena.Take<float>(work.rows_pad);
  work.delta = arena.Take<float>(work.rows_pad);
  work.weight = call.form.biased() ? arena.Take<float>(work.rows_pad) : nullptr;
  work.place = call.form.biased() ? arena.Take<float>(work.rows_pad) : nullptr;
  const int64_t slots = static_cast<int64_t>(work.unit->schedule().compact.size());
  work.slot_dk = arena.Take<float>(2 * slots * h.n);
  work.slot_dv = arena.Take<float>(2 * slots * h.n);
  for (Chunk& chunk : work.chunks) {
    chunk.dq = arena.Take<float>((chunk.tile_end - chunk.tile_begin) * call.dq_tile());
    chunk.reached.resize(static_cast<size_t>(chunk.tile_end - chunk.tile_begin));
  }
}

/// Packs 64 stacked query rows: q and dout in both forms, -lse in base 2, delta. Rows that saw nothing (and the padding
/// at the end) get zeros and shift = -infinity, so that their P is 0.
void PackQueries(const Call& call, const UnitWork& work, int64_t panel) {
  thread_local Arena arena;
  const HeadShape& h = call.shape;
  const AttentionBackwardArgs& args = call.args;
  arena.Reset(2 * Arena::Bytes<char>(h.StagedSize(kPanel) * h.element) + 2 * Arena::Bytes<float>(h.n));
  void* q = arena.Take<char>(h.StagedSize(kPanel) * h.element);
  void* dout = arena.Take<char>(h.StagedSize(kPanel) * h.element);
  float* a = arena.Take<float>(h.n);
  float* b = arena.Take<float>(h.n);
  for (int32_t i = 0; i < kPanel; ++i) {
    const int64_t r = panel * kPanel + i;
    const int64_t row = work.unit->sequence->query_begin + r / call.group;
    const int64_t head = static_cast<int64_t>(work.unit->kv_head) * call.group + r % call.group;
    const float lse = r < work.rows ? args.lse[row * args.shape.heads + head] : -std::numeric_limits<float>::infinity();
    if (call.form.biased()) {
      work.weight[r] = r < work.rows ? -call.form.Weight(head) : 0.0f;
      work.place[r] = r < work.rows ? call.places().Query(*work.unit, r / call.group) : 0.0f;
    }
    if (lse == -std::numeric_limits<float>::infinity()) {
      h.StageRow(nullptr, h.t.dtype, q, i);
      h.StageRow(nullptr, h.t.dtype, dout, i);
      work.shift[r] = -std::numeric_limits<float>::infinity();
      work.delta[r] = 0.0f;
      continue;
    }
    for (const ConstMat& m : {args.q, args.dout, args.out}) PrefetchHead(m, row, head, h.dim);
    const void* dout_row = HeadRow(args.dout, row, head, h.dim);
    h.StageRow(HeadRow(args.q, row, head, h.dim), args.q.dtype, q, i);
    h.StageRow(dout_row, args.dout.dtype, dout, i);
    h.t.convert(dout_row, args.dout.dtype, a, DType::kF32, h.dim, 1.0f);
    h.t.convert(HeadRow(args.out, row, head, h.dim), args.out.dtype, b, DType::kF32, h.dim, 1.0f);
    work.shift[r] = lse * -kLog2E;
    work.delta[r] = h.t.dot(a, b, h.dim);
  }
  h.Transposed(q, h.At(work.q_columns, h.TransposedSize(panel * kPanel)));
  h.Transposed(dout, h.At(work.dout_columns, h.TransposedSize(panel * kPanel)));
  h.RowPanels(q, work.q_rows, work.rows_pad, panel * kPanel);
  h.RowPanels(dout, work.dout_rows, work.rows_pad, panel * kPanel);
}

class ChunkWorker {
 public:
  ChunkWorker(const Call& call, UnitWork& work, Chunk& chunk, Arena& arena) : call_(call), work_(work), chunk_(chunk) {
    const HeadShape& h = call.shape;
    const int64_t e = static_cast<int64_t>(h.element);
    arena.Reset(2 * Arena::Bytes<char>(h.StagedSize(kKeyBlock) * e) + Arena::Bytes<char>(h.TransposedSize(kPanel) * e) +
                Arena::Bytes<char>(KtRows() * kLdK * e) + 2 * Arena::Bytes<float>(kKeyBlock * h.n) +
                2 * Arena::Bytes<float>(kKeyGroup * kLdS) + 3 * Arena::Bytes<char>(kKeyGroup * kLdP * e));
    k_ = arena.Take<char>(h.StagedSize(kKeyBlock) * e);
    v_ = arena.Take<char>(h.StagedSize(kKeyBlock) * e);
    k_columns_ = arena.Take<char>(h.TransposedSize(kPanel) * e);
    k_transposed_ = arena.Take<char>(KtRows() * kLdK * e);
    dk_ = arena.Take<float>(kKeyBlock * h.n);
    dv_ = arena.Take<float>(kKeyBlock * h.n);
    s_ = arena.Take<float>(kKeyGroup * kLdS);
    dp_ = arena.Take<float>(kKeyGroup * kLdS);
    p_ = arena.Take<char>(kKeyGroup * kLdP * e);
    ds_ = arena.Take<char>(kKeyGroup * kLdP * e);
    ds_pairs_ = arena.Take<char>(kKeyGroup * kLdP * e);
  }

  void Run() {
    for (size_t b = chunk_.block_begin; b < chunk_.block_end; ++b) {
      const KeyBlock& block = work_.blocks[b];
      const int64_t keys = RoundUp(block.end - block.begin, kPanel);
      PackKeys(block, keys);
      std::fill(dk_, dk_ + keys * call_.shape.n, 0.0f);
      std::fill(dv_, dv_ + keys * call_.shape.n, 0.0f);
      const int64_t begin = static_cast<int64_t>(block.row_begin) * call_.group;
      const int64_t end = static_cast<int64_t>(block.row_end) * call_.group;
      for (int64_t tile = begin / kQueryTile; tile * kQueryTile < end; ++tile) Step(block, tile);
      WriteKeys(block);
    }
  }

 private:
  static constexpr int32_t kLdS = kQueryTile + kColStep;
  static constexpr int32_t kLdP = kQueryTile + 2 * kColStep;
  static constexpr int32_t kLdK = kKeyBlock + 2 * kColStep;

  int64_t KtRows() const { return std::max<int64_t>(call_.shape.k, call_.dq_rows()); }

  /// Left operands of `keys` rows: those of the block, then zeros that no query sees.
  void PackKeys(const KeyBlock& block, int64_t keys) {
    const HeadShape& h = call_.shape;
    const AttentionBackwardArgs& args = call_.args;
    const AttnUnit& unit = *work_.unit;
    for (int64_t i = 0; i < keys; ++i) {
      const int32_t key = block.begin + i < block.end ? unit.Key(block.begin + i) : -1;
      const int64_t row = unit.sequence->key_begin + key;
      const auto [row_begin, row_end] = key < 0 ? std::pair{0, 0} : RowsOf(unit, block.begin + i);
      lo_[i] = static_cast<int64_t>(row_begin) * call_.group;
      hi_[i] = static_cast<int64_t>(row_end) * call_.group;
      place_[i] = key < 0 || !call_.form.biased() ? 0.0f : call_.places().Key(unit, key);
      h.StageRow(key < 0 ? nullptr : HeadRow(args.k, row, unit.kv_head, h.dim), args.k.dtype, k_, i);
      h.StageRow(key < 0 ? nullptr : HeadRow(args.v, row, unit.kv_head, h.dim), args.v.dtype, v_, i);
    }
    // Kᵀ [D, kKeyBlock], from the pair form where there is one.
    for (int32_t c = 0; c < keys; c += kPanel) {
      const void* staged = h.At(k_, static_cast<int64_t>(c) * h.ld);
      if (h.pairs == 1) {
        h.t.transpose(staged, h.ld, kPanel, h.dim, h.At(k_transposed_, c), kLdK);
        continue;
      }
      h.Transposed(staged, k_columns_);
      for (int32_t d = 0; d < h.k; d += 2) {
        bf16* even = static_cast<bf16*>(k_transposed_) + static_cast<int64_t>(d) * kLdK + c;
        h.t.split_pairs(static_cast<const bf16*>(k_columns_) + static_cast<int64_t>(d) * kPanel, even, even + kLdK,
                        kPanel);
      }
    }
  }

  /// The block against one query tile: many keys at once where every query sees every key, else by smaller groups, each
  /// with the queries that see some of it.
  void Step(const KeyBlock& block, int64_t tile) {
    const int64_t base = tile * kQueryTile, index = tile - chunk_.tile_begin;
    if (!chunk_.reached[index]) std::memset(chunk_.dq + index * call_.dq_tile(), 0, call_.dq_tile() * sizeof(float));
    chunk_.reached[index] = 1;
    for (int32_t key = 0, end = static_cast<int32_t>(block.end - block.begin); key < end; key += kKeyGroup) {
      const int32_t keys = std::min(kKeyGroup, end - key);
      const bool full = *std::max_element(lo_ + key, lo_ + key + keys) <= base &&
                        *std::min_element(hi_ + key, hi_ + key + keys) >= base + kQueryTile;
      const int32_t group = full ? keys : call_.shape.t.row_group;
      for (int32_t g = 0; g < keys; g += group) GroupStep(tile, key + g, std::min(group, keys - g), full);
    }
  }

  void GroupStep(int64_t tile, int32_t first, int32_t keys, bool full) {
    const HeadShape& h = call_.shape;
    const int32_t align = std::max(kColStep, h.t.k_align);
    const int64_t base = tile * kQueryTile;
    int64_t begin = base + kQueryTile, end = base;  // stacked query rows that see any of the keys
    for (int32_t r = first; r < first + keys; ++r) {
      if (lo_[r] >= hi_[r]) continue;
      begin = std::min(begin, lo_[r]);
      end = std::max(end, hi_[r]);
    }
    const int64_t c0 = std::max(base, begin / align * align);
    const int64_t c1 = std::min(base + kQueryTile, RoundUp(end, align));
    if (c0 >= c1) return;
    const int32_t cols = static_cast<int32_t>(c1 - c0);
    const int32_t rows = static_cast<int32_t>(RoundUp(keys, std::max({2, h.t.m_align, h.t.k_align})));

    h.Scores(h.At(k_, static_cast<int64_t>(first) * h.ld), work_.q_columns, c0, rows, cols, s_, kLdS);
    h.Scores(h.At(v_, static_cast<int64_t>(first) * h.ld), work_.dout_columns, c0, rows, cols, dp_, kLdS);
    if (!call_.form.plain()) {
      call_.form.Apply(h.t, {.s = s_, .lds = kLdS, .rows = rows, .cols = cols, .dp = dp_, .delta = work_.delta + c0},
                       {.weight = call_.form.biased() ? work_.weight + c0 : nullptr,
                        .row_place = place_ + first,
                        .col_place = call_.form.biased() ? work_.place + c0 : nullptr,
                        .by_row = false});
    }
    for (int32_t r = full ? keys : 0; r < rows; ++r) {
      MaskRow(s_ + r * kLdS, lo_[first + r] - c0, hi_[first + r] - c0, cols);
    }
    h.t.gradient({.s = s_,
                  .dp = dp_,
                  .lds = kLdS,
                  .p = p_,
                  .ds = ds_,
                  .ldp = kLdP,
                  .ds_pairs = ds_pairs_,
                  .ld_pairs = 2 * kLdP,
                  .rows = rows,
                  .cols = cols,
                  .scale2 = call_.form.rest2(),
                  .shift = work_.shift + c0,
                  .delta = work_.delta + c0});
    float* dk = dk_ + static_cast<int64_t>(first) * h.n;
    float* dv = dv_ + static_cast<int64_t>(first) * h.n;
    h.Mix(p_, kLdP, work_.dout_rows, work_.rows_pad, c0, rows, cols, dv, h.n, true);
    h.Mix(ds_, kLdP, work_.q_rows, work_.rows_pad, c0, rows, cols, dk, h.n, true);
    h.t.product({.a = h.At(k_transposed_, first),
                 .lda = kLdK,
                 .b = h.pairs == 1 ? ds_ : ds_pairs_,
                 .ldb = h.pairs * kLdP,
                 .panel = h.pairs * kPanel,
                 .b_first = 0,
                 .c = chunk_.dq + (tile - chunk_.tile_begin) * call_.dq_tile() + (c0 - base),
                 .ldc = kQueryTile,
                 .m = static_cast<int32_t>(RoundUp(h.dim, h.t.m_align)),
                 .n = cols,
                 .k = rows,
                 .accumulate = true});
  }

  /// dK and dV of a block: straight to the output, or kept in F32 where the key is in two blocks.
  void WriteKeys(const KeyBlock& block) {
    const HeadShape& h = call_.shape;
    const AttentionBackwardArgs& args = call_.args;
    const AttnUnit& unit = *work_.unit;
    const std::vector<int32_t>& compact = unit.schedule().compact;
    const int64_t slots = static_cast<int64_t>(compact.size());
    const bool is_compact = block.begin < unit.slots_pad();
    auto next = std::lower_bound(compact.begin(), compact.end(), unit.Key(block.begin));
    for (int64_t c = block.begin; c < block.end; ++c) {
      const float* dk = dk_ + (c - block.begin) * h.n;
      const float* dv = dv_ + (c - block.begin) * h.n;
      const int32_t key = unit.Key(c);
      while (!is_compact && next != compact.end() && *next < key) ++next;
      const bool pinned = !is_compact && next != compact.end() && *next == key;
      if (is_compact || pinned) {
        const int64_t slot = is_compact ? c : slots + (next - compact.begin());
        std::copy(dk, dk + h.n, work_.slot_dk + slot * h.n);
        std::copy(dv, dv + h.n, work_.slot_dv + slot * h.n);
        continue;
      }
      const int64_t row = unit.sequence->key_begin + key;
      h.t.convert(dk, DType::kF32, HeadRow(args.dk, row, unit.kv_head, h.dim), args.dk.dtype, h.dim, args.shape.scale);
      h.t.convert(dv, DType::kF32, HeadRow(args.dv, row, unit.kv_head, h.dim), args.dv.dtype, h.dim, 1.0f);
    }
  }

  const Call& call_;
  UnitWork& work_;
  Chunk& chunk_;
  void *k_, *v_, *k_columns_, *k_transposed_;
  float *dk_, *dv_, *s_, *dp_;
  void *p_, *ds_, *ds_pairs_;
  int64_t lo_[kKeyBlock], hi_[kKeyBlock];  // stacked query rows that see each key
  float place_[kKeyBlock];
};

/// Adds the chunks of one query tile in order and writes its rows of dq.
void WriteQueries(const Call& call, const UnitWork& work, int64_t tile) {
  thread_local Arena arena;
  const HeadShape& h = call.shape;
  const int64_t size = call.dq_tile();
  arena.Reset(Arena::Bytes<float>(size) + Arena::Bytes<float>(kQueryTile * call.dq_rows()));
  float* sum = arena.Take<float>(size);
  float* rows = arena.Take<float>(kQueryTile * call.dq_rows());
  std::memset(sum, 0, size * sizeof(float));
  for (const Chunk& chunk : work.chunks) {
    if (tile < chunk.tile_begin || tile >= chunk.tile_end || !chunk.reached[tile - chunk.tile_begin]) continue;
    const float* part = chunk.dq + (tile - chunk.tile_begin) * size;
    for (int64_t i = 0; i < size; ++i) sum[i] += part[i];
  }
  h.t.transpose(sum, kQueryTile, h.dim, kQueryTile, rows, call.dq_rows());
  for (int64_t i = 0; i < kQueryTile && tile * kQueryTile + i < work.rows; ++i) {
    const int64_t r = tile * kQueryTile + i;
    const int64_t row = work.unit->sequence->query_begin + r / call.group;
    const int64_t head = static_cast<int64_t>(work.unit->kv_head) * call.group + r % call.group;
    PrefetchHead(call.args.dq, row, head, h.dim);
    h.t.convert(rows + i * call.dq_rows(), DType::kF32, HeadRow(call.args.dq, row, head, h.dim), call.args.dq.dtype,
                h.dim, call.args.shape.scale);
  }
}

/// dk and dv of the keys that are slots: slot half plus band half (anchors have none).
void WriteSlots(const Call& call, const UnitWork& work) {
  const HeadShape& h = call.shape;
  const AttentionBackwardArgs& args = call.args;
  const AttnSchedule& s = work.unit->schedule();
  const int64_t slots = static_cast<int64_t>(s.compact.size());
  for (int64_t slot = 0; slot < slots; ++slot) {
    float* dk = work.slot_dk + slot * h.n;
    float* dv = work.slot_dv + slot * h.n;
    for (int64_t i = 0; slot >= s.num_anchors && i < h.n; ++i) {
      dk[i] += dk[i + slots * h.n];
      dv[i] += dv[i + slots * h.n];
    }
    const int64_t row = work.unit->sequence->key_begin + s.compact[slot];
    h.t.convert(dk, DType::kF32, HeadRow(args.dk, row, work.unit->kv_head, h.dim), args.dk.dtype, h.dim,
                args.shape.scale);
    h.t.convert(dv, DType::kF32, HeadRow(args.dv, row, work.unit->kv_head, h.dim), args.dv.dtype, h.dim, 1.0f);
  }
}

Call MakeCall(const AttentionBackwardArgs& args) {
  return {.args = args,
          .shape = HeadShape(GetTileKernels(CurrentIsa(), args.q.dtype), args.shape.head_dim),
          .group = args.shape.heads / args.shape.kv_heads,
          .form = ScoreForm(args.shape, args.shape.scale * kLog2E)};
}

}  // namespace

int64_t AttentionBackwardScratch(const AttentionBackwardArgs& args) {
  const Call call = MakeCall(args);
  return LargestWave(ListUnits(args.sequences, args.shape.kv_heads), kWaveBytes,
                     [&](const AttnUnit& unit) { return SharedBytes(call, Plan(call, unit)); });
}

void TileBackward(const AttentionBackwardArgs& args) {
  const Call call = MakeCall(args);
  const std::vector<AttnUnit> units = ListUnits(args.sequences, args.shape.kv_heads);
  const bool parallel = Work(args.sequences, args.shape.heads, args.shape.head_dim) >= kParallelWork;
  thread_local Arena shared;
  for (size_t begin = 0; begin < units.size();) {
    std::vector<UnitWork> works;
    size_t bytes = 0;
    while (begin + works.size() < units.size()) {
      UnitWork work = Plan(call, units[begin + works.size()]);
      const size_t more = SharedBytes(call, work);
      if (!works.empty() && bytes + more > kWaveBytes) break;
      bytes += more;
      works.push_back(std::move(work));
    }
    shared.Reset(bytes);
    std::vector<std::pair<UnitWork*, int64_t>> panels, chunks, tiles;
    for (UnitWork& work : works) {
      TakeShared(call, work, shared);
      for (int64_t p = 0; p < work.rows_pad / kPanel; ++p) panels.emplace_back(&work, p);
      for (size_t c = 0; c < work.chunks.size(); ++c) chunks.emplace_back(&work, c);
      for (int64_t t = 0; t < work.rows_pad / kQueryTile; ++t) tiles.emplace_back(&work, t);
    }
    ForTasks(parallel, static_cast<int64_t>(panels.size()),
             [&](int64_t i) { PackQueries(call, *panels[i].first, panels[i].second); });
    ForTasks(parallel, static_cast<int64_t>(chunks.size()), [&](int64_t i) {
      thread_local Arena arena;
      UnitWork& work = *chunks[i].first;
      const FlushSubnormals flush(!call.form.plain());
      call.shape.t.begin();
      ChunkWorker(call, work, work.chunks[chunks[i].second], arena).Run();
      call.shape.t.end();
    });
    ForTasks(parallel, static_cast<int64_t>(tiles.size()),
             [&](int64_t i) { WriteQueries(call, *tiles[i].first, tiles[i].second); });
    ForTasks(parallel, static_cast<int64_t>(works.size()), [&](int64_t i) { WriteSlots(call, works[i]); });
    begin += works.size();
  }
}

}  // namespace hawser
