// Decode: one query row per sequence against everything resident. Keys and values are read once, as stored, for all
// the heads that share them; long rows are cut in pieces of a fixed size whose softmax states are merged in order, so
// the result does not depend on threads.
#include <cmath>
#include <limits>
#include <vector>

#include "hawser/base/parallel.h"
#include "hawser/cpu/attention.h"
#include "hawser/cpu/attention_pack.h"
#include "hawser/cpu/self_adjust.h"
#include "hawser/ops/op_args.h"

namespace hawser {
namespace {

constexpr int32_t kPiece = 2048;             // slots of a piece
constexpr int32_t kBlock = 128;              // slots scored at a time: their values are still near when they are mixed
constexpr int64_t kParallelBytes = 1 << 18;  // of keys and values: below, threads cost more than they bring

/// The softmax state of one piece: out [G, ld] not yet divided by sum.
struct State {
  float* out;
  float* max;
  float* sum;
};

class PieceWorker {
 public:
  PieceWorker(const DecodeArgs& args, const TileKernels& t, int64_t ld, Arena& arena)
      : args_(args), t_(t), group_(args.heads / args.kv_heads), ld_(ld) {
    arena.Reset(Arena::Bytes<float>(group_ * ld) + Arena::Bytes<float>(group_ * kBlock) +
                Arena::Bytes<float>(kBlock * ld));
    q_ = arena.Take<float>(group_ * ld);
    s_ = arena.Take<float>(group_ * kBlock);
    aside_ = arena.Take<float>(kBlock * ld);
  }

  void Run(int64_t row, int32_t kv_head, int32_t begin, int32_t end, State state) {
    const DecodeArgs::Row& kv = args_.rows[row];
    for (int32_t i = 0; i < group_; ++i) {
      const void* q = HeadRow(args_.q, row, kv_head * group_ + i, args_.head_dim);
      t_.convert(q, args_.q.dtype, q_ + i * ld_, DType::kF32, args_.head_dim, args_.scale * 1.44269504088896341f);
    }
    std::fill(state.out, state.out + group_ * ld_, 0.0f);
    std::fill(state.max, state.max + group_, -std::numeric_limits<float>::infinity());
    std::fill(state.sum, state.sum + group_, 0.0f);
    for (int32_t b = begin; b < end; b += kBlock) {
      const int32_t n = std::min(kBlock, end - b);
      t_.decode_scores(Tile({kv.k, kv_head, args_.head_dim, kv.rotation}, q_, b, n));
      const int32_t cols = static_cast<int32_t>(RoundUp(n, kColStep));
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
                  .first = b == begin});
      t_.decode_mix(Tile({kv.v, kv_head, args_.head_dim}, state.out, b, n));
    }
  }

 private:
  DecodeTile Tile(const StoredHead& from, float* x, int32_t begin, int32_t n) const {
    const bool aside = from.rotation.half > 0;
    if (aside) from.Read(t_, begin, n, aside_, ld_);
    return {.x = x,
            .ldx = ld_,
            .count = group_,
            .rows = aside ? aside_ : from.Row(begin),
            .dtype = aside ? DType::kF32 : from.m.dtype,
            .ld = aside ? ld_ : from.m.ld,
            .n = n,
            .dim = args_.head_dim,
            .s = s_,
            .lds = kBlock};
  }

  const DecodeArgs& args_;
  const TileKernels& t_;
  int32_t group_;
  int64_t ld_;
  float* q_;
  float* s_;
  float* aside_;  // [kBlock, ld] of keys that are rotated on their way
};

/// Adds the pieces of one (row, kv head) in order and writes its rows of out.
void Merge(const DecodeArgs& args, const TileKernels& t, int64_t row, int32_t kv_head, int64_t ld,
           std::span<const State> pieces) {
  const int32_t group = args.heads / args.kv_heads;
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
      for (int32_t d = 0; d < args.head_dim; ++d) out[d] = weight * from[d] + (is_first ? 0.0f : out[d]);
    }
    void* to = HeadRow(args.out, row, static_cast<int64_t>(kv_head) * group + i, args.head_dim);
    t.convert(out, DType::kF32, to, args.out.dtype, args.head_dim, 1.0f / sum);
  }
}

}  // namespace

void AttentionDecode(const DecodeArgs& args) {
  Validate(args);
  if (args.softmax.kind != SoftmaxKind::kStandard) return SelfAdjustDecode(args);
  const TileKernels& t = GetTileKernels(CurrentIsa(), DType::kF32);
  const int32_t group = args.heads / args.kv_heads;
  const int64_t ld = RoundUp(args.head_dim, kColStep);

  struct Piece {
    int64_t row;
    int32_t kv_head, begin, end;
  };
  thread_local std::vector<Piece> pieces;
  thread_local std::vector<State> states;
  thread_local std::vector<std::pair<size_t, size_t>> groups;  // pieces of one (row, kv head)
  thread_local Arena arena;
  pieces.clear(), states.clear(), groups.clear();
  int64_t bytes = 0;
  for (size_t r = 0; r < args.rows.size(); ++r) {
    const int32_t slots = static_cast<int32_t>(args.rows[r].k.rows);
    bytes += int64_t{2} * slots * args.kv_heads * HeadBytes(args.rows[r].k.dtype, args.head_dim);
    for (int32_t g = 0; g < args.kv_heads; ++g) {
      groups.emplace_back(pieces.size(), pieces.size());
      for (int32_t b = 0; b < slots; b += kPiece) {
        pieces.push_back({static_cast<int64_t>(r), g, b, std::min(slots, b + kPiece)});
        groups.back().second = pieces.size();
      }
    }
  }
  const int64_t state_size = RoundUp(group * (ld + 2), 16);
  arena.Reset(Arena::Bytes<float>(state_size * static_cast<int64_t>(pieces.size())));
  float* memory = arena.Take<float>(state_size * static_cast<int64_t>(pieces.size()));
  for (size_t p = 0; p < pieces.size(); ++p) {
    float* base = memory + static_cast<int64_t>(p) * state_size;
    states.push_back({base, base + group * ld, base + group * ld + group});
  }
  const std::vector<Piece>& all = pieces;  // a thread_local is another one on another thread
  const std::vector<State>& all_states = states;
  const auto run = [&](int64_t p) {
    thread_local Arena scratch;
    const Piece& piece = all[p];
    PieceWorker(args, t, ld, scratch).Run(piece.row, piece.kv_head, piece.begin, piece.end, all_states[p]);
  };
  const int64_t count = static_cast<int64_t>(pieces.size());
  if (bytes < kParallelBytes) {
    for (int64_t p = 0; p < count; ++p) run(p);
  } else {
    ParallelFor(count, run);
  }
  for (const auto& [begin, end] : groups) {
    Merge(args, t, pieces[begin].row, pieces[begin].kv_head, ld, std::span(states).subspan(begin, end - begin));
  }
}

}  // namespace hawser
