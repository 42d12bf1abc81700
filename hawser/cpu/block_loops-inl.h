// cpu/block_loops-inl.h - the loops of cpu/block_kernels.h over the readers of quant/types-inl.h. Included by files
// that are compiled for one instruction set each, whose vectors are V. Everything here has internal linkage, so that no
// other file's calls end up in it. Besides what readers call, V has
//   kWhole                whether Dot takes any q; else those below 128
//   Load, LoadFloat       all lanes the int32, the float there
//   Dot(sum, q, x)        sum + the four products of each lane's q with the int8 at x
//   DotSigned(sum, q, x)  the same of q as int8
//   kPanelX               rows of activations at once with a panel
//   LoadAll, StoreAll     lanes from and to memory, of ints and floats
//   SubBytes              byte by byte
//   Rows(q, to)           of q[4], the inverse of Columns: to [kRows, 16] bytes
#pragma once

#include <algorithm>
#include <cstring>

#include "hawser/cpu/block_kernels.h"
#include "hawser/quant/types-inl.h"

namespace hawser {
namespace {

/// Fetches a tile to come, evenly over the steps in which another one is worked on: few lines at a time, since a core
/// keeps only so many under way. It drops what is more, so each line is asked for again, twice, kAgain bytes later.
class Ahead {
 public:
  explicit Ahead(const std::byte* tile) : end_(tile + 2 * kAgain), line_(end_) {}
  void Step(int bytes) {
    constexpr int kLine = 64;
    end_ += bytes;
    for (; line_ < end_; line_ += kLine) {
      __builtin_prefetch(line_);
      __builtin_prefetch(line_ - kAgain);
      __builtin_prefetch(line_ - 2 * kAgain);
    }
  }

 private:
  static constexpr int kAgain = 4096;
  const std::byte *end_, *line_;
};

/// Where the first row of activations of a group of weights lies.
template <int kGroup>
struct Group {
  Group(const Activations8& x, int64_t group)
      : q(x.q + (kGroup == 32 ? group * x.height * kActBlock : group / 2 * x.height * kActBlock + group % 2 * 16)),
        scale(x.scale + (kGroup == 32 ? group : group / 2) * x.height) {}
  const int8_t* q;
  const float* scale;
};

/// Whether V multiplies q in all of 8 bits as int8.
template <class V>
constexpr bool kTakesSigned = !V::kWhole;

template <class V, class R, int kX>
inline void DotTile(const uint8_t* w, int64_t stride, int64_t blocks, const Activations8& x, float* y,
                    const std::byte* next) {
  using F = typename V::F;
  using I = typename V::I;
  constexpr int kWords = R::kGroup / 4;
  constexpr bool kSigned = kTakesSigned<V> && R::kOffset == 128;
  F sums[kX];
  for (int r = 0; r < kX; ++r) sums[r] = V::Zero();
  Ahead ahead(next);
  const int64_t height = x.height;
  int64_t group = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    R::template Read<V>(
        w + b * R::kBytes, stride, [&](const I* q, F scale, F minimum) __attribute__((always_inline)) {
          const Group<R::kGroup> at(x, group);
#pragma GCC unroll 4
          for (int r = 0; r < kX; ++r) {
            I sum = V::Splat(0);
            if constexpr (R::kOffset != 0 && !kSigned) sum = V::Load(x.begin + group * height + r);
#pragma GCC unroll 8
            for (int i = 0; i < kWords; ++i) {
              if constexpr (kSigned) {
                sum = V::DotSigned(sum, V::Xor(q[i], V::Splat(0x80808080u)), at.q + r * kActBlock + 4 * i);
              } else {
                sum = V::Dot(sum, q[i], at.q + r * kActBlock + 4 * i);
              }
            }
            sums[r] = V::MulAdd(V::Float(sum), V::Mul(scale, V::LoadFloat(at.scale + r)), sums[r]);
            if constexpr (R::kMinimum) sums[r] = V::MulAdd(minimum, V::LoadFloat(x.sum + group * height + r), sums[r]);
          }
          ahead.Step(V::kRows * R::kBytes * R::kGroup / R::kValues);
          ++group;
        });
  }
  for (int r = 0; r < kX; ++r) V::Store(sums[r], y + r * V::kRows);
}

template <class V, class R>
void Dot(const std::byte* from, int64_t stride, int64_t blocks, const Activations8& x, int rows, float* y,
         const std::byte* next) {
  const auto* w = reinterpret_cast<const uint8_t*>(from);
  switch (rows) {
    case 1:
      return DotTile<V, R, 1>(w, stride, blocks, x, y, next);
    case 2:
      return DotTile<V, R, 2>(w, stride, blocks, x, y, next);
    case 3:
      return DotTile<V, R, 3>(w, stride, blocks, x, y, next);
    default:
      return DotTile<V, R, 4>(w, stride, blocks, x, y, next);
  }
}

/// kLess: what is taken from q.
template <class V, class R, int kLess>
void Unpack(const std::byte* from, int64_t stride, int64_t blocks, const WeightPanel& to) {
  const auto* w = reinterpret_cast<const uint8_t*>(from);
  uint8_t* q_to = to.q;
  float *scale_to = to.scale, *minimum_to = to.minimum;
  for (int64_t b = 0; b < blocks; ++b, w += R::kBytes) {
    R::template Read<V>(
        w, stride, [&](const auto* q, auto scale, auto minimum) __attribute__((always_inline)) {
#pragma GCC unroll 8
          for (int i = 0; i < R::kGroup / 4; ++i, q_to += 4 * V::kRows) {
            V::StoreAll(kLess == 0 ? q[i] : V::SubBytes(q[i], V::Splat(kLess * 0x01010101u)), q_to);
          }
          V::Store(scale, scale_to);
          if constexpr (R::kMinimum) V::Store(minimum, minimum_to);
          scale_to += V::kRows, minimum_to += V::kRows;
        });
  }
}

template <class V, int kGroup, bool kMinimum, bool kSigned, bool kBegin, int kX>
inline void PanelTile(const WeightPanel& w, const Activations8& x, int64_t groups, bool first, float* y) {
  using F = typename V::F;
  using I = typename V::I;
  constexpr int kWords = kGroup / 4;
  F sums[kX];
#pragma GCC unroll 16
  for (int r = 0; r < kX; ++r) sums[r] = first ? V::Zero() : V::LoadAll(y + r * V::kRows);
  const uint8_t* from = w.q;
  for (int64_t group = 0; group < groups; ++group) {
    const Group<kGroup> at(x, group);
    I q[kWords];
#pragma GCC unroll 8
    for (int i = 0; i < kWords; ++i, from += 4 * V::kRows) q[i] = V::LoadInts(from);
    const F scale = V::LoadAll(w.scale + group * V::kRows);
    const F minimum = kMinimum ? V::LoadAll(w.minimum + group * V::kRows) : V::Zero();
#pragma GCC unroll 16
    for (int r = 0; r < kX; ++r) {
      I sum = kBegin ? V::Load(x.begin + group * kPanelRows + r) : V::Splat(0);
#pragma GCC unroll 8
      for (int i = 0; i < kWords; ++i) {
        const int8_t* word = at.q + r * kActBlock + 4 * i;
        sum = kSigned ? V::DotSigned(sum, q[i], word) : V::Dot(sum, q[i], word);
      }
      sums[r] = V::MulAdd(V::Float(sum), V::Mul(scale, V::LoadFloat(at.scale + r)), sums[r]);
      if constexpr (kMinimum) sums[r] = V::MulAdd(minimum, V::LoadFloat(x.sum + group * kPanelRows + r), sums[r]);
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < kX; ++r) V::Store(sums[r], y + r * V::kRows);
}

template <class V, int kGroup, bool kMinimum, bool kSigned, bool kBegin>
void Panel(const WeightPanel& w, const Activations8& all, int64_t groups, int rows, bool first, float* y) {
  Activations8 x = all;
  const auto on = [&](int taken) {
    x.q += taken * kActBlock, x.scale += taken, x.sum += taken, x.begin += taken;
    y += taken * V::kRows, rows -= taken;
  };
  for (; rows > V::kPanelX / 2; on(V::kPanelX)) {
    PanelTile<V, kGroup, kMinimum, kSigned, kBegin, V::kPanelX>(w, x, groups, first, y);
  }
  for (; rows > 0; on(V::kPanelX / 2)) {
    PanelTile<V, kGroup, kMinimum, kSigned, kBegin, V::kPanelX / 2>(w, x, groups, first, y);
  }
}

template <class V, class R>
void DecodeTile(const std::byte* from, int64_t stride, int rows, float* to, int64_t ld) {
  alignas(64) std::byte padded[V::kRows * R::kBytes];
  if (rows < V::kRows) {
    std::memset(padded, 0, sizeof(padded));
    for (int r = 0; r < rows; ++r) std::memcpy(padded + r * R::kBytes, from + r * stride, R::kBytes);
    from = padded, stride = R::kBytes;
  }
  const auto decode = [&](const typename V::I* q, typename V::F scale, typename V::F minimum) {
    alignas(64) float scales[V::kRows], minima[V::kRows];
    alignas(64) uint8_t bytes[V::kRows * 16];
    V::Store(scale, scales);
    V::Store(minimum, minima);
    for (int part = 0; part < R::kGroup / 16; ++part, to += 16) {
      V::Rows(q + 4 * part, bytes);
      for (int r = 0; r < rows; ++r) {
        float* values = to + r * ld;
        for (int i = 0; i < 16; ++i) {
          const float level = static_cast<float>(bytes[r * 16 + i] - R::kOffset);
          values[i] = R::kMinimum ? level * scales[r] + minima[r] : level * scales[r];
        }
      }
    }
  };
  R::template Read<V>(reinterpret_cast<const uint8_t*>(from), stride, decode);
}

template <class V>
struct ToKernels {
  template <class R>
  static constexpr BlockKernels Of() {
    constexpr bool kSigned = kTakesSigned<V> && R::kOffset == 128, kBegin = R::kOffset != 0 && !kSigned;
    return {.tile = V::kRows,
            .dot = Dot<V, R>,
            .unpack = Unpack < V,
            R,
            kSigned ? R::kOffset : 0 >,
            .panel = Panel<V, R::kGroup, R::kMinimum, kSigned, kBegin>,
            .begin = nullptr,
            .end = nullptr,
            .decode = DecodeTile<V, R>};
  }
};

}  // namespace
}  // namespace hawser
