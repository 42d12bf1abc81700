#include "hawser/cpu/self_adjust.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/cpu/attention_pack.h"

namespace hawser {
namespace {

constexpr int32_t kBlock = 128;    // rows that are dequantised or rotated at a time
constexpr int32_t kTaskRows = 16;  // rows, or keys, of a task

/// Rows [begin, end) of a matrix.
struct Run {
  int32_t begin, end;
  int32_t size() const { return end - begin; }
};

int32_t Count(const std::vector<Run>& runs) {
  int32_t sum = 0;
  for (const Run& run : runs) sum += run.size();
  return sum;
}

/// The keys that a row sees, in ascending order but for the band, which comes last.
void KeysOf(const AttnSchedule& s, int32_t row, std::vector<Run>* runs) {
  runs->clear();
  if (s.IsPaddingRow(row)) return;
  const auto add = [&](int32_t key) {
    if (!runs->empty() && runs->back().end == key) {
      ++runs->back().end;
    } else {
      runs->push_back({key, key + 1});
    }
  };
  for (int32_t slot = 0; slot < s.AnchorCount(row); ++slot) add(s.compact[slot]);
  for (int32_t slot = s.pinned_begin.empty() ? 0 : s.pinned_begin[row];
       slot < (s.pinned_end.empty() ? 0 : s.pinned_end[row]); ++slot) {
    add(s.compact[slot]);
  }
  if (s.band_begin[row] <= s.QueryKey(row)) runs->push_back({s.band_begin[row], s.QueryKey(row) + 1});
}

/// What the weights of one row, and their gradients, hang on.
struct RowState {
  float lse = -std::numeric_limits<float>::infinity();
  float lo = 0, range = 1;           // hi - lo
  int32_t lo_at = -1, hi_at = -1;    // columns, later keys, of the extreme scores; -1: where 0 is more extreme
  float mean = 0, dlo = 0, dhi = 0;  // sum of P w dout v; gradients of lo and hi
};

RowState StateOf(const SoftmaxSpec& softmax, const float* z, int32_t n) {
  RowState state;
  float most = -std::numeric_limits<float>::infinity(), least = std::numeric_limits<float>::infinity();
  int32_t most_at = -1, least_at = -1;
  for (int32_t i = 0; i < n; ++i) {
    if (z[i] > most) most = z[i], most_at = i;
    if (z[i] < least) least = z[i], least_at = i;
  }
  double sum = 0;
  for (int32_t i = 0; i < n; ++i) sum += std::exp(z[i] - most);
  state.lse = static_cast<float>(most + std::log(sum));
  if (least < 0) state.lo = least, state.lo_at = least_at;
  float hi = softmax.denominator_bias;
  if (most > 0) hi += most, state.hi_at = most_at;
  state.range = hi - state.lo;
  return state;
}

/// w of a key over its P, and the derivative of that by z.
struct Factor {
  float value, slope;
};
Factor FactorOf(const SoftmaxSpec& softmax, const RowState& state, float z) {
  if (softmax.kind == SoftmaxKind::kSelfAdjustProduct) return {z, 1.0f};
  return {(z - state.lo + softmax.numerator_bias) / state.range, 1.0f / state.range};
}

/// Gradient of one score, given g = <dout, v>. key: for the extremes.
float ScoreGradient(const SoftmaxSpec& softmax, const RowState& state, float z, float g, int32_t key) {
  const Factor factor = FactorOf(softmax, state, z);
  const float p = std::exp(z - state.lse);
  float dz = p * (g * factor.value - state.mean) + g * p * factor.slope;
  if (key == state.lo_at) dz += state.dlo;
  if (key == state.hi_at) dz += state.dhi;
  return dz;
}

/// Products of a few vectors with runs of rows, as stored.
class RunProducts {
 public:
  RunProducts(const TileKernels& t, int64_t ld, float* aside) : t_(t), ld_(ld), aside_(aside) {}

  /// s[i, column] = <x[i], row> over the rows of all runs.
  void Scores(const StoredHead& from, const std::vector<Run>& runs, float* x, int32_t count, float* s,
              int64_t lds) const {
    Each(from, runs, x, count, s, lds, t_.decode_scores);
  }
  /// x[i] += sum over columns of s[i, column] * row.
  void Mix(const StoredHead& from, const std::vector<Run>& runs, float* x, int32_t count, float* s, int64_t lds) const {
    Each(from, runs, x, count, s, lds, t_.decode_mix);
  }

 private:
  void Each(const StoredHead& from, const std::vector<Run>& runs, float* x, int32_t count, float* s, int64_t lds,
            void (*product)(const DecodeTile&)) const {
    const bool aside = from.rotation.half > 0;
    for (const Run& run : runs) {
      for (int32_t begin = run.begin, n = 0; begin < run.end; begin += n) {
        n = static_cast<int32_t>(from.rows.Together(begin, std::min(kBlock, run.end - begin)));
        if (aside) from.Read(t_, begin, n, aside_, ld_);
        product({.x = x,
                 .ldx = ld_,
                 .count = count,
                 .rows = aside ? aside_ : from.Row(begin),
                 .dtype = aside ? DType::kF32 : from.dtype(),
                 .ld = aside ? ld_ : from.ld(),
                 .n = n,
                 .dim = from.dim,
                 .s = s,
                 .lds = lds,
                 .next = aside || begin + n >= run.end ? nullptr : from.Row(begin + n)});
        s += n;
      }
    }
  }

  const TileKernels& t_;
  int64_t ld_;
  float* aside_;
};

/// What one task works in.
struct Room {
  /// vectors: of D channels; columns: of scores; scores: rows of them.
  Room(Arena& arena, int64_t ld, int32_t vectors, int32_t scores, int64_t columns)
      : ld(ld), lds(RoundUp(columns, kColStep)) {
    arena.Reset(Arena::Bytes<float>(vectors * ld) + Arena::Bytes<float>(scores * lds) +
                Arena::Bytes<float>(kBlock * ld));
    x = arena.Take<float>(vectors * ld);
    s = arena.Take<float>(scores * lds);
    aside = arena.Take<float>(kBlock * ld);
  }
  float* X(int32_t i) const { return x + i * ld; }
  float* S(int32_t i) const { return s + i * lds; }

  int64_t ld, lds;
  float *x, *s, *aside;
};

/// The numbers of a call that forward, backward and decode share.
struct Heads {
  explicit Heads(const AttnShape& shape)
      : group(shape.heads / shape.kv_heads), dim(shape.head_dim), scale(shape.scale), softmax(shape.softmax) {}

  const TileKernels& t = GetTileKernels(CurrentIsa(), DType::kF32);
  int32_t group, dim;
  float scale;
  const SoftmaxSpec& softmax;

  int64_t ld() const { return RoundUp(dim, kColStep); }
  void Load(ConstMat m, int64_t row, int64_t head, float factor, float* to) const {
    t.convert(HeadRow(m, row, head, dim), m.dtype, to, DType::kF32, dim, factor);
  }
  void Save(const float* from, Mat m, int64_t row, int64_t head, float factor) const {
    t.convert(from, DType::kF32, HeadRow(m, row, head, dim), m.dtype, dim, factor);
  }
};

/// One row of q and out: the heads that share a kv head. lse: [group], or null.
void AttendRow(const Heads& h, ConstMat q, Mat out, int64_t row, int64_t kv_head, const StoredHead& k,
               const StoredHead& v, const std::vector<Run>& runs, float* lse) {
  thread_local Arena arena;
  const int32_t n = Count(runs);
  const Room room(arena, h.ld(), 2 * h.group, h.group, n);
  const RunProducts products(h.t, room.ld, room.aside);
  for (int32_t i = 0; i < h.group; ++i) h.Load(q, row, kv_head * h.group + i, h.scale, room.X(i));
  std::fill(room.X(h.group), room.X(2 * h.group), 0.0f);
  products.Scores(k, runs, room.x, h.group, room.s, room.lds);
  for (int32_t i = 0; i < h.group; ++i) {
    const RowState state = StateOf(h.softmax, room.S(i), n);
    for (int32_t c = 0; c < n; ++c) {
      const float z = room.S(i)[c];
      room.S(i)[c] = std::exp(z - state.lse) * FactorOf(h.softmax, state, z).value;
    }
    if (lse != nullptr) lse[i] = state.lse;
  }
  products.Mix(v, runs, room.X(h.group), h.group, room.s, room.lds);
  for (int32_t i = 0; i < h.group; ++i) h.Save(room.X(h.group + i), out, row, kv_head * h.group + i, 1.0f);
}

/// body(unit, first, last) over pieces of kTaskRows of `size_of(unit)`.
template <class Size, class Body>
void ForPieces(std::span<const AttnUnit> units, bool parallel, const Size& size_of, const Body& body) {
  struct Task {
    const AttnUnit* unit;
    int32_t begin, end;
  };
  std::vector<Task> tasks;
  for (const AttnUnit& unit : units) {
    for (int32_t begin = 0; begin < size_of(unit); begin += kTaskRows) {
      tasks.push_back({&unit, begin, std::min(begin + kTaskRows, size_of(unit))});
    }
  }
  ForTasks(parallel, static_cast<int64_t>(tasks.size()),
           [&](int64_t i) { body(*tasks[i].unit, tasks[i].begin, tasks[i].end); });
}

/// The head of a unit's keys or values, whose row 0 is the sequence's.
StoredHead HeadOf(const KvRows& rows, const AttnUnit& unit, int32_t dim, KeyRotation rotation = {}) {
  const int64_t first = unit.sequence->key_begin;
  if (rotation.half > 0) rotation.cos += first * rotation.half, rotation.sin += first * rotation.half;
  if (rows.pages != nullptr) return {rows, unit.kv_head, dim, rotation};  // from row 0 on
  return {rows.m.Rows(first, unit.schedule().num_keys), unit.kv_head, dim, rotation};
}

}  // namespace

void SelfAdjustForward(const AttentionArgs& args) {
  const Heads h(args.shape);
  const std::vector<AttnUnit> units = ListUnits(args.sequences, args.shape.kv_heads);
  const bool parallel = Work(args.sequences, args.shape.heads, args.shape.head_dim) >= kParallelWork;
  ForPieces(
      units, parallel, [](const AttnUnit& unit) { return unit.schedule().num_queries; },
      [&](const AttnUnit& unit, int32_t begin, int32_t end) {
        const StoredHead k = HeadOf(args.k, unit, args.shape.head_dim, args.rotation),
                         v = HeadOf(args.v, unit, args.shape.head_dim);
        std::vector<Run> runs;
        for (int32_t r = begin; r < end; ++r) {
          const int64_t row = unit.sequence->query_begin + r;
          KeysOf(unit.schedule(), r, &runs);
          float* lse = args.lse == nullptr ? nullptr : args.lse + row * args.shape.heads + unit.kv_head * h.group;
          if (!runs.empty()) {
            AttendRow(h, args.q, args.out, row, unit.kv_head, k, v, runs, lse);
            continue;
          }
          std::memset(HeadRow(args.out, row, int64_t{unit.kv_head} * h.group, h.dim), 0,
                      static_cast<size_t>(h.group * HeadBytes(args.out.dtype, h.dim)));
          if (lse != nullptr) std::fill_n(lse, h.group, -std::numeric_limits<float>::infinity());
        }
      });
}

void SelfAdjustDecode(const DecodeArgs& args) {
  const Heads h(args.shape);
  const auto rows = static_cast<int64_t>(args.rows.size());
  int64_t slots = 0;
  for (const DecodeArgs::Row& row : args.rows) slots += row.k.rows();
  ForTasks(slots * args.shape.heads * args.shape.head_dim >= kParallelWork, rows * args.shape.kv_heads, [&](int64_t i) {
    thread_local std::vector<Run> runs;
    const int64_t r = i / args.shape.kv_heads, g = i % args.shape.kv_heads;
    const DecodeArgs::Row& row = args.rows[static_cast<size_t>(r)];
    runs.assign(1, {0, static_cast<int32_t>(row.k.rows())});
    AttendRow(h, args.q, args.out, r, g, {row.k, g, h.dim, row.rotation}, {row.v, g, h.dim}, runs, nullptr);
  });
}

namespace {

/// dq of one row and kv head, and the states of its heads, [group], for the keys' turn.
void RowBackward(const Heads& h, const AttentionBackwardArgs& args, const AttnUnit& unit, int32_t r,
                 const std::vector<Run>& runs, RowState* states) {
  thread_local Arena arena;
  const int32_t n = Count(runs);
  const int64_t row = unit.sequence->query_begin + r;
  const Room room(arena, h.ld(), 3 * h.group, 2 * h.group, n);
  const RunProducts products(h.t, room.ld, room.aside);
  const StoredHead k = HeadOf(args.k, unit, h.dim), v = HeadOf(args.v, unit, h.dim);
  for (int32_t i = 0; i < h.group; ++i) {
    const int64_t head = int64_t{unit.kv_head} * h.group + i;
    h.Load(args.q, row, head, h.scale, room.X(i));
    h.Load(args.dout, row, head, 1.0f, room.X(h.group + i));
  }
  std::fill(room.X(2 * h.group), room.X(3 * h.group), 0.0f);
  products.Scores(k, runs, room.X(0), h.group, room.S(0), room.lds);
  products.Scores(v, runs, room.X(h.group), h.group, room.S(h.group), room.lds);
  for (int32_t i = 0; i < h.group; ++i) {
    RowState& state = states[i];
    const float *z = room.S(i), *g = room.S(h.group + i);
    state = StateOf(h.softmax, z, n);
    double mean = 0, dlo = 0, dhi = 0;
    for (int32_t c = 0; c < n; ++c) {
      const Factor factor = FactorOf(h.softmax, state, z[c]);
      const double pg = static_cast<double>(std::exp(z[c] - state.lse)) * g[c];
      mean += pg * factor.value;
      // value = (z - lo + nb) / (hi - lo)
      dlo += pg * (factor.value - 1.0f) * factor.slope;
      dhi -= pg * factor.value * factor.slope;
    }
    state.mean = static_cast<float>(mean);
    const bool product = h.softmax.kind == SoftmaxKind::kSelfAdjustProduct;
    state.dlo = product ? 0.0f : static_cast<float>(dlo);
    state.dhi = product ? 0.0f : static_cast<float>(dhi);
    for (int32_t c = 0; c < n; ++c) room.S(i)[c] = ScoreGradient(h.softmax, state, z[c], g[c], c);
    // Columns to keys.
    int32_t column = 0;
    const int32_t lo_column = state.lo_at, hi_column = state.hi_at;
    for (const Run& run : runs) {
      if (lo_column >= column && lo_column < column + run.size()) state.lo_at = run.begin + lo_column - column;
      if (hi_column >= column && hi_column < column + run.size()) state.hi_at = run.begin + hi_column - column;
      column += run.size();
    }
  }
  products.Mix(k, runs, room.X(2 * h.group), h.group, room.S(0), room.lds);
  for (int32_t i = 0; i < h.group; ++i) {
    h.Save(room.X(2 * h.group + i), args.dq, row, int64_t{unit.kv_head} * h.group + i, h.scale);
  }
}

/// dk and dv of one key over the rows that see it.
void KeyBackward(const Heads& h, const AttentionBackwardArgs& args, const AttnUnit& unit, int32_t key,
                 const std::vector<Run>& rows, const RowState* states) {
  thread_local Arena arena;
  const int32_t n = Count(rows);
  const int64_t first = unit.sequence->query_begin, at = unit.sequence->key_begin + key;
  const Room room(arena, h.ld(), 4, 3, n);
  const RunProducts products(h.t, room.ld, room.aside);
  float *dk = room.X(2), *dv = room.X(3);
  h.Load(args.k, at, unit.kv_head, h.scale, room.X(0));
  h.Load(args.v, at, unit.kv_head, 1.0f, room.X(1));
  std::fill(room.X(2), room.X(4), 0.0f);
  for (int32_t i = 0; i < h.group; ++i) {
    const int64_t head = int64_t{unit.kv_head} * h.group + i;
    const StoredHead q{args.q.Rows(first, unit.schedule().num_queries), head, h.dim};
    const StoredHead dout{args.dout.Rows(first, unit.schedule().num_queries), head, h.dim};
    products.Scores(q, rows, room.X(0), 1, room.S(0), room.lds);
    products.Scores(dout, rows, room.X(1), 1, room.S(1), room.lds);
    int32_t column = 0;
    for (const Run& run : rows) {
      for (int32_t r = run.begin; r < run.end; ++r, ++column) {
        const RowState& state = states[(first + r) * args.shape.heads + head];
        const float z = room.S(0)[column], g = room.S(1)[column];
        const bool sees = !unit.schedule().IsPaddingRow(r);
        room.S(0)[column] = sees ? ScoreGradient(h.softmax, state, z, g, key) : 0.0f;
        room.S(2)[column] = sees ? std::exp(z - state.lse) * FactorOf(h.softmax, state, z).value : 0.0f;
      }
    }
    products.Mix(q, rows, dk, 1, room.S(0), room.lds);
    products.Mix(dout, rows, dv, 1, room.S(2), room.lds);
  }
  h.Save(dk, args.dk, at, unit.kv_head, h.scale);
  h.Save(dv, args.dv, at, unit.kv_head, 1.0f);
}

}  // namespace

void SelfAdjustBackward(const AttentionBackwardArgs& args) {
  const Heads h(args.shape);
  const std::vector<AttnUnit> units = ListUnits(args.sequences, args.shape.kv_heads);
  const bool parallel = Work(args.sequences, args.shape.heads, args.shape.head_dim) >= kParallelWork;
  std::vector<RowState> states(static_cast<size_t>(args.q.rows * args.shape.heads));
  ForPieces(
      units, parallel, [](const AttnUnit& unit) { return unit.schedule().num_queries; },
      [&](const AttnUnit& unit, int32_t begin, int32_t end) {
        std::vector<Run> runs;
        for (int32_t r = begin; r < end; ++r) {
          const int64_t row = unit.sequence->query_begin + r;
          KeysOf(unit.schedule(), r, &runs);
          RowBackward(h, args, unit, r, runs,
                      &states[static_cast<size_t>(row * args.shape.heads + unit.kv_head * h.group)]);
        }
      });
  ForPieces(
      units, parallel, [](const AttnUnit& unit) { return unit.schedule().num_keys; },
      [&](const AttnUnit& unit, int32_t begin, int32_t end) {
        const AttnSchedule& s = unit.schedule();
        std::vector<Run> rows;
        for (int32_t key = begin; key < end; ++key) {
          rows.clear();
          const auto add = [&](int32_t from, int32_t to) {
            if (from < to) rows.push_back({from, to});
          };
          add(s.BandRowBegin(key), s.band_row_end[key]);
          const auto slot = std::lower_bound(s.compact.begin(), s.compact.end(), key) - s.compact.begin();
          if (slot < static_cast<int64_t>(s.compact.size()) && s.compact[slot] == key) {
            add(s.pinned_row_begin[slot], s.pinned_row_end[slot]);
          }
          KeyBackward(h, args, unit, key, rows, states.data());
        }
      });
}

}  // namespace hawser
