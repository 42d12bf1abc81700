// cpu/block_loops-inl.h - the loops of cpu/block_kernels.h over the readers of quant/types-inl.h. Included by files
// that are compiled for one instruction set each, whose vectors are V. Everything here has internal linkage, so that no
// other file's calls end up in it. Besides what readers call, V has
//   kWhole                whether Dot takes any q; else those below 128
//   Load, LoadFloat       all lanes the int32, the float there
//   Dot(sum, q, x)        sum + the four products of each lane's q with the int8 at x
//   DotSigned(sum, q, x)  the same of q as int8
//   Rows(q, to)           of q[4], the inverse of Columns: to [kRows, 16] bytes
#pragma once

#include <algorithm>
#include <cstring>

#include "hawser/cpu/block_kernels.h"
#include "hawser/quant/types-inl.h"

namespace hawser {
namespace {

/// Fetches a tile to come, evenly over the steps in which another one is worked on.
struct Ahead {
  const std::byte* at;
  template <int kBytes>
  void Step() {
    constexpr int kLine = 64;
#pragma GCC unroll 64
    for (int i = 0; i < kBytes; i += kLine) __builtin_prefetch(at + i, 0, 1);
    at += kBytes;
  }
};

template <class V, class R, int kX>
inline void DotTile(const uint8_t* w, int64_t stride, int64_t blocks, const Activations8& x, float* y,
                    const std::byte* next) {
  using F = typename V::F;
  using I = typename V::I;
  constexpr int kGroups = R::kValues / R::kGroup, kWords = R::kGroup / 4;
  constexpr bool kSigned = R::kOffset == 128 && !V::kWhole;
  F sums[kX];
  for (int r = 0; r < kX; ++r) sums[r] = V::Zero();
  Ahead ahead{next};
  const int64_t groups = blocks * kGroups, scales = x.values / kActBlock;
  int64_t group = 0;
  for (int64_t b = 0; b < blocks; ++b) {
    ahead.Step<V::kRows * R::kBytes>();
    R::template Read<V>(
        w + b * R::kBytes, stride, [&](const I* q, F scale, F minimum) __attribute__((always_inline)) {
          const int8_t* xq = x.q + group * R::kGroup;
          const float* xs = x.scale + group * R::kGroup / kActBlock;
#pragma GCC unroll 4
          for (int r = 0; r < kX; ++r) {
            I sum = V::Splat(0);
            if constexpr (R::kOffset != 0 && !kSigned) sum = V::Load(x.begin + r * groups + group);
#pragma GCC unroll 8
            for (int i = 0; i < kWords; ++i) {
              if constexpr (kSigned) {
                sum = V::DotSigned(sum, V::Xor(q[i], V::Splat(0x80808080u)), xq + r * x.values + 4 * i);
              } else {
                sum = V::Dot(sum, q[i], xq + r * x.values + 4 * i);
              }
            }
            sums[r] = V::MulAdd(V::Float(sum), V::Mul(scale, V::LoadFloat(xs + r * scales)), sums[r]);
            if constexpr (R::kMinimum) sums[r] = V::MulAdd(minimum, V::LoadFloat(x.sum + r * groups + group), sums[r]);
          }
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
    return {V::kRows, Dot<V, R>, DecodeTile<V, R>};
  }
};

}  // namespace
}  // namespace hawser
