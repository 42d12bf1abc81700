// Decode: one query row per sequence against everything resident. Keys and values are read once, as stored, for all
// the heads that share them; long rows are cut in pieces of a fixed size whose softmax states are merged in order, so
// the result does not depend on threads. Where there are pieces enough, one thread takes all heads of a piece, block by
// block: what lies together in memory is then read together. Keys that are read in part go by runs of neighbours, cut
// where a block is full, so that a block is scored and mixed whatever runs it is made of.
#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/cpu/attention_engine.h"
#include "hawser/cpu/attention_pack.h"
#include "hawser/cpu/subnormals.h"

namespace hawser {
namespace {

constexpr int32_t kPiece = 2048;             // slots of a piece
constexpr int32_t kBlock = 128;              // slots scored at a time: their values are still near when they are mixed
static_assert(KvRows::kPage % kBlock == 0);  // so that pages cut no block
constexpr int64_t kParallelBytes = 1 << 18;  // of keys and values: below, threads cost more than they bring

size_t Cuts(int64_t slots) { return static_cast<size_t>((slots + kPiece - 1) / kPiece); }

/// The softmax state of one piece: out [G, ld] not yet divided by sum.
struct State {
  float* out;
  float* max;
  float* sum;
};

/// Slots [begin, end) of some heads of one row; states of head h from state + (h - head) * stride on. In parts: runs
/// [begin, end) of one head instead.
struct Task {
  int64_t row;
  int32_t head, heads;  // kv heads
  int32_t begin, end;
  size_t state, stride;
  bool in_parts = false;
};

/// Appends the ranges, cut so that no run goes across the end of a block. `pieces` gets the number of runs at the end
/// of each piece.
void CutRuns(std::span<const KvRange> ranges, std::vector<KvRange>* runs, std::vector<int32_t>* pieces) {
  pieces->clear();
  int64_t total = 0;
  for (KvRange rest : ranges) {
    while (rest.begin < rest.end) {
      const auto room = static_cast<int32_t>(kBlock - total % kBlock);
      const int32_t n = std::min(room, rest.end - rest.begin);
      runs->push_back({rest.begin, rest.begin + n});
      rest.begin += n;
      total += n;
      if (total % kPiece == 0) pieces->push_back(static_cast<int32_t>(runs->size()));
    }
  }
  if (total % kPiece != 0) pieces->push_back(static_cast<int32_t>(runs->size()));
}

class Worker {
 public:
  Worker(const DecodeArgs& args, const TileKernels& t, int64_t ld, int32_t heads, Arena& arena)
      : args_(args), t_(t), group_(args.shape.heads / args.shape.kv_heads), ld_(ld), form_(args.shape, 1.0f) {
    const int64_t far_heads = args.q_far.empty() ? 0 : heads;
    arena.Reset(Arena::Bytes<float>(heads * group_ * ld) + Arena::Bytes<float>(far_heads * group_ * ld) +
                Arena::Bytes<float>(group_ * kBlock) + Arena::Bytes<float>(kBlock * ld) +
                Arena::Bytes<float>(heads * group_) + Arena::Bytes<float>(group_) + Arena::Bytes<float>(kBlock));
    q_ = arena.Take<float>(heads * group_ * ld);
    q_far_ = arena.Take<float>(far_heads * group_ * ld);
    s_ = arena.Take<float>(group_ * kBlock);
    aside_ = arena.Take<float>(kBlock * ld);
    weight_ = arena.Take<float>(heads * group_);
    query_place_ = arena.Take<float>(group_);
    place_ = arena.Take<float>(kBlock);
  }

  void Run(const Task& task, std::span<const KvRange> runs, const std::vector<State>& states) {
    const DecodeArgs::Row& row = args_.rows[task.row];
    if (task.in_parts || row.far < task.end) Stage(task, args_.q, q_);
    if (!task.in_parts && row.far > task.begin) Stage(task, args_.q_far, q_far_);
    for (int32_t i = 0; form_.biased() && i < task.heads * group_; ++i) {
      weight_[i] = form_.Weight(int64_t{task.head} * group_ + i);
    }
    for (int32_t h = 0; h < task.heads; ++h) {
      const State& state = states[task.state + h * task.stride];
      std::fill(state.out, state.out + group_ * ld_, 0.0f);
      std::fill(state.max, state.max + group_, -std::numeric_limits<float>::infinity());
      std::fill(state.sum, state.sum + group_, 0.0f);
    }
    std::fill(query_place_, query_place_ + group_, 0.0f);
    if (task.in_parts) return RunParts(task, *row.parts, runs, states[task.state]);
    const StoredHead keys{row.k, 0, args_.shape.head_dim, row.rotation}, values{row.v, 0, args_.shape.head_dim};
    for (int32_t b = task.begin, n = 0; b < task.end; b += n) {
      const int32_t part_end = b < row.far ? std::min(row.far, task.end) : task.end;
      n = static_cast<int32_t>(row.k.Together(b, std::min(kBlock, part_end - b)));
      float* queries = b < row.far ? q_far_ : q_;
      for (int32_t h = 0; h < task.heads; ++h) {
        const bool anew = h == 0 || args_.shape.bf16_bias != 0.0f;  // else they are the same for all heads
        if (form_.biased() && anew) FillPlaces(row, task.head + h, b, n);
        const KvRange run{b, b + n};
        const StoredHead k = keys.Of(task.head + h), v = values.Of(task.head + h);
        const int32_t behind = b + n < task.end ? b + n : -1;
        Block(k, v, h, queries + h * group_ * ld_, {&run, 1}, b == task.begin, states[task.state + h * task.stride],
              [&](const StoredHead& from, size_t) { return behind < 0 ? nullptr : from.Row(behind); });
      }
    }
  }

 private:
  /// What lies anywhere no hardware foresees, and runs are short: values are asked for while the keys of the same block
  /// are scored, and the keys of the next block while those values are mixed.
  void RunParts(const Task& task, const KvParts& parts, std::span<const KvRange> runs, const State& state) {
    const StoredHead keys{parts.k, 0, args_.shape.head_dim}, values{parts.v, 0, args_.shape.head_dim};
    const auto block = [&](int32_t first) {
      int32_t last = first;
      for (int32_t n = 0; last < task.end && n < kBlock; ++last) {
        n += runs[static_cast<size_t>(last)].end - runs[static_cast<size_t>(last)].begin;
      }
      return runs.subspan(static_cast<size_t>(first), static_cast<size_t>(last - first));
    };
    for (const KvRange& run : block(task.begin)) PrefetchRows(parts.k, run);
    for (int32_t first = task.begin, last = first; first < task.end; first = last) {
      const std::span<const KvRange> now = block(first);
      last = first + static_cast<int32_t>(now.size());
      const std::span<const KvRange> soon = block(last);
      Block(keys, values, 0, q_, now, first == task.begin, state, [&](const StoredHead& from, size_t i) {
        if (&from == &keys) return values.Row(now[i].begin);  // as many rows, asked for beside those of the keys
        // One run beside each of this block's, and what is left beside its last.
        const size_t end = i + 1 == now.size() ? soon.size() : std::min(i + 1, soon.size());
        for (size_t j = std::min(i, end); j < end; ++j) PrefetchRows(parts.k, soon[j]);
        return static_cast<const void*>(nullptr);
      });
    }
  }
  static void PrefetchRows(const ConstMat& rows, const KvRange& run) {
    const auto bytes = rows.cols * static_cast<int64_t>(SizeOf(rows.dtype));
    for (int64_t r = run.begin; r < run.end; ++r) {
      const char* row = static_cast<const char*>(rows.Rows(r, 1).data);
      for (int64_t at = 0; at < bytes; at += 64) __builtin_prefetch(row + at, 0, 2);
    }
  }
  void Stage(const Task& task, ConstMat q, float* to) const {
    for (int32_t i = 0; i < task.heads * group_; ++i) {
      const void* from = HeadRow(q, task.row, int64_t{task.head} * group_ + i, args_.shape.head_dim);
      t_.convert(from, q.dtype, to + i * ld_, DType::kF32, args_.shape.head_dim, args_.shape.scale * kLog2E);
    }
  }
  /// Places of slots [begin, begin + n), from the query on.
  void FillPlaces(const DecodeArgs::Row& row, int32_t head, int32_t begin, int32_t n) const {
    const int64_t query = row.key_place == nullptr ? row.k.rows() - 1 : row.query_place;
    for (int64_t i = 0; i < n; ++i) {
      const int64_t place = row.key_place == nullptr ? begin + i : row.key_place[begin + i];
      place_[i] = BiasedPlace(args_.shape, head, place, query);
    }
    std::fill(place_ + n, place_ + RoundUp(n, kColStep), 0.0f);
  }
  /// Rows of runs, kBlock of them at most, which queries `q` of head `h` of the task read, into its state.
  /// next_of(keys or values, i): the rows that are asked for beside those of run i; null: none.
  template <class NextOf>
  void Block(const StoredHead& keys, const StoredHead& values, int32_t h, float* q, std::span<const KvRange> runs,
             bool first, const State& state, const NextOf& next_of) const {
    int32_t n = 0;
    for (size_t i = 0; i < runs.size(); ++i) {
      t_.decode_scores(Tile(keys, q, runs[i], next_of(keys, i), n));
      n += runs[i].end - runs[i].begin;
    }
    const int32_t cols = static_cast<int32_t>(RoundUp(n, kColStep));
    if (!form_.plain()) {
      form_.Apply(t_, {.s = s_, .lds = kBlock, .rows = group_, .cols = cols},
                  {.weight = weight_ + h * group_, .row_place = query_place_, .col_place = place_, .by_row = true});
    }
    for (int32_t i = 0; i < group_; ++i) {
      std::fill(s_ + i * kBlock + n, s_ + i * kBlock + cols, -std::numeric_limits<float>::infinity());
    }
    t_.softmax({.s = s_,
                .lds = kBlock,
                .p = s_,
                .ldp = kBlock,
                .rows = group_,
                .cols = cols,
                .scale2 = 1.0f,
                .max = state.max,
                .sum = state.sum,
                .out = state.out,
                .ldo = ld_,
                .out_cols = static_cast<int32_t>(ld_),
                .first = first});
    n = 0;
    for (size_t i = 0; i < runs.size(); ++i) {
      t_.decode_mix(Tile(values, state.out, runs[i], next_of(values, i), n));
      n += runs[i].end - runs[i].begin;
    }
  }
  /// Rows of a run, whose scores begin in column `at`.
  DecodeTile Tile(const StoredHead& from, float* x, const KvRange& run, const void* next, int32_t at) const {
    const int32_t n = run.end - run.begin;
    const bool aside = from.rotation.half > 0;
    if (aside) from.Read(t_, run.begin, n, aside_, ld_);
    return {.x = x,
            .ldx = ld_,
            .count = group_,
            .rows = aside ? aside_ : from.Row(run.begin),
            .dtype = aside ? DType::kF32 : from.dtype(),
            .ld = aside ? ld_ : from.ld(),
            .n = n,
            .dim = args_.shape.head_dim,
            .s = s_ + at,
            .lds = kBlock,
            .next = aside ? nullptr : next};
  }

  const DecodeArgs& args_;
  const TileKernels& t_;
  int32_t group_;
  int64_t ld_;
  float* q_;      // [heads * group, ld]
  float* q_far_;  // likewise, where some row has far slots
  float* s_;
  ScoreForm form_;
  float* weight_;       // [heads * group] of the distance
  float* query_place_;  // [group] 0
  float* place_;        // [kBlock]
  float* aside_;        // [kBlock, ld] of keys that are rotated on their way
};

/// Adds the pieces of one (row, kv head) in order and writes its rows of out.
void Merge(const DecodeArgs& args, const TileKernels& t, int64_t row, int32_t kv_head, int64_t ld,
           std::span<const State> pieces) {
  const int32_t group = args.shape.heads / args.shape.kv_heads;
  for (int32_t i = 0; i < group; ++i) {
    float max = pieces[0].max[i];
    for (const State& piece : pieces) max = std::max(max, piece.max[i]);
    float* out = pieces[0].out + i * ld;
    float sum = 0.0f;
    for (const State& piece : pieces) {
      const float weight = std::exp2(piece.max[i] - max);
      sum += weight * piece.sum[i];
      const float* from = piece.out + i * ld;
      const bool is_first = from == out;
      for (int32_t d = 0; d < args.shape.head_dim; ++d) out[d] = weight * from[d] + (is_first ? 0.0f : out[d]);
    }
    void* to = HeadRow(args.out, row, static_cast<int64_t>(kv_head) * group + i, args.shape.head_dim);
    t.convert(out, DType::kF32, to, args.out.dtype, args.shape.head_dim, 1.0f / sum);
  }
}

}  // namespace

void TileDecode(const DecodeArgs& args) {
  const TileKernels& t = GetTileKernels(CurrentIsa(), DType::kF32);
  const int32_t group = args.shape.heads / args.shape.kv_heads;
  const int64_t ld = RoundUp(args.shape.head_dim, kColStep);

  thread_local std::vector<Task> tasks;
  thread_local std::vector<State> states;
  thread_local std::vector<KvRange> runs;
  thread_local std::vector<int32_t> ends;  // of pieces of a head, in runs
  thread_local std::vector<size_t> made;   // states of each (row, kv head)
  thread_local Arena arena;
  tasks.clear(), states.clear(), runs.clear(), made.clear();
  int64_t bytes = 0, pieces = 0;
  for (const DecodeArgs::Row& row : args.rows) {
    bytes += int64_t{2} * row.k.rows() * args.shape.kv_heads * HeadBytes(row.k.m.dtype, args.shape.head_dim);
    pieces += static_cast<int64_t>(Cuts(row.k.rows())) * args.shape.kv_heads;
    if (row.parts == nullptr) continue;
    for (const KvRange& range : row.parts->ranges) {
      bytes += int64_t{2} * (range.end - range.begin) * HeadBytes(row.parts->k.dtype, args.shape.head_dim);
    }
  }
  // The bits of a head do not depend on which heads share its task.
  const auto heads = static_cast<int32_t>(std::clamp<int64_t>(pieces / (4 * NumThreads()), 1, args.shape.kv_heads));
  size_t total = 0;
  for (size_t r = 0; r < args.rows.size(); ++r) {
    const KvParts* parts = args.rows[r].parts;
    const auto slots = static_cast<int32_t>(args.rows[r].k.rows());
    const size_t cuts = Cuts(slots);
    for (int32_t g = 0; parts != nullptr && g < args.shape.kv_heads; ++g) {  // its pieces, then those of the slots
      auto begin = static_cast<int32_t>(runs.size());
      CutRuns(parts->ranges.subspan(static_cast<size_t>(parts->first[g]),
                                    static_cast<size_t>(parts->first[g + 1] - parts->first[g])),
              &runs, &ends);
      for (const int32_t end : ends) {
        tasks.push_back({static_cast<int64_t>(r), g, 1, std::exchange(begin, end), end, total++, 0, true});
      }
      for (size_t cut = 0; cut < cuts; ++cut) {
        const int32_t from = static_cast<int32_t>(cut) * kPiece;
        tasks.push_back({static_cast<int64_t>(r), g, 1, from, std::min(slots, from + kPiece), total++, 0});
      }
      made.push_back(ends.size() + cuts);
    }
    if (parts != nullptr) continue;
    for (int32_t g = 0; g < args.shape.kv_heads; g += heads) {
      for (size_t cut = 0; cut < cuts; ++cut) {
        const int32_t begin = static_cast<int32_t>(cut) * kPiece;
        tasks.push_back({static_cast<int64_t>(r), g, std::min(heads, args.shape.kv_heads - g), begin,
                         std::min(slots, begin + kPiece), total + static_cast<size_t>(g) * cuts + cut, cuts});
      }
    }
    total += cuts * static_cast<size_t>(args.shape.kv_heads);
    made.insert(made.end(), static_cast<size_t>(args.shape.kv_heads), cuts);
  }
  const int64_t state_size = RoundUp(group * (ld + 2), 16);
  arena.Reset(Arena::Bytes<float>(state_size * static_cast<int64_t>(total)));
  float* memory = arena.Take<float>(state_size * static_cast<int64_t>(total));
  for (size_t p = 0; p < total; ++p) {
    float* base = memory + static_cast<int64_t>(p) * state_size;
    states.push_back({base, base + group * ld, base + group * ld + group});
  }
  const std::vector<Task>& all = tasks;  // a thread_local is another one on another thread
  const std::vector<State>& all_states = states;
  const std::vector<KvRange>& all_runs = runs;
  const auto run = [&](int64_t p) {
    thread_local Arena scratch;
    const FlushSubnormals flush(!ScoreForm(args.shape, 1.0f).plain());
    Worker(args, t, ld, heads, scratch).Run(all[p], all_runs, all_states);
  };
  const int64_t count = static_cast<int64_t>(tasks.size());
  if (bytes < kParallelBytes) {
    for (int64_t p = 0; p < count; ++p) run(p);
  } else {
    ParallelFor(count, run);
  }
  size_t at = 0;
  for (size_t i = 0; i < made.size(); at += made[i++]) {
    const auto row = static_cast<int64_t>(i) / args.shape.kv_heads;
    Merge(args, t, row, static_cast<int32_t>(static_cast<int64_t>(i) % args.shape.kv_heads), ld,
          std::span(states).subspan(at, made[i]));
  }
}

}  // namespace hawser
