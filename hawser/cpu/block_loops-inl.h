// cpu/block_loops-inl.h - the loops of cpu/block_kernels.h over a reader of one storage type. Included by files that
// are compiled for one instruction set each, whose vectors are V: V::B of kChunk bytes, V::F of kLanes floats, one
// float for each four bytes. Everything here has internal linkage, so that no other file's calls end up in it.
//
// A reader R walks a row in batches of kBatch values, which are at most kLanes groups of kGroup values with one scale
// each. `at` is where a batch begins, by R::At(row, batch); `groups` of it exist.
//   Scales(at, groups, scale, minimum)  one lane a group, the others 0; minimum where kMinimum:
//                                       w = scale * (q - kOffset) + minimum
//   Unpack(at, chunk, groups)           the q of values [chunk * kChunk, + kChunk) of the batch; kSigned: as int8, else
//                                       below 128. What lies past the last group is anything.
#pragma once

#include <immintrin.h>

#include <cstring>

#include "hawser/cpu/block_kernels.h"

namespace hawser {
namespace {

inline int64_t Least(int64_t a, int64_t b) { return a < b ? a : b; }

template <class V, class R, int kRows>
inline void DotRow(const uint8_t* w, int64_t blocks, const Activations8& x, float* y) {
  using F = typename V::F;
  constexpr bool kBelow = R::kMinimum || R::kOffset != 0;
  constexpr int kFull = R::kBatch / V::kChunk;
  F even[kRows], odd[kRows], below[kRows];
  for (int r = 0; r < kRows; ++r) even[r] = odd[r] = below[r] = V::Zero();
  const int64_t values = blocks * R::kValues;
  for (int64_t value = 0; value < values; value += R::kBatch) {
    const int groups = static_cast<int>(Least(R::kBatch, values - value) / R::kGroup);
    const auto at = R::At(w, value / R::kBatch);
    F scale, minimum, product[kRows];
    R::Scales(at, groups, scale, minimum);
    if constexpr (R::kOffset != 0) minimum = V::Mul(scale, V::Splat(-R::kOffset));
    for (int r = 0; r < kRows; ++r) {
      const int64_t first = (r * x.values + value) / kActBlock;
      product[r] = V::Mul(scale, V::template GroupScales<R::kGroup>(x.scale + first));
      if constexpr (kBelow) below[r] = V::MulAdd(minimum, V::Load(x.sum + first), below[r]);
    }
    const auto step = [&](int c, F* sum) __attribute__((always_inline)) {
      const typename V::B q = R::Unpack(at, c, groups);
      for (int r = 0; r < kRows; ++r) {
        const typename V::B xq = V::LoadBytes(x.q + r * x.values + value + c * V::kChunk);
        const F dot = R::kSigned ? V::DotSigned(q, xq) : V::DotUnsigned(q, xq);
        sum[r] = V::MulAdd(dot, V::template Spread<R::kGroup>(product[r], c), sum[r]);
      }
    };
    if (groups * R::kGroup == R::kBatch) {
#pragma GCC unroll 8
      for (int c = 0; c < kFull; ++c) step(c, c % 2 == 0 ? even : odd);
    } else {
      for (int c = 0; c * V::kChunk < groups * R::kGroup; ++c) step(c, c % 2 == 0 ? even : odd);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    const F sum = V::Add(even[r], odd[r]);
    y[r] = V::Sum(kBelow ? V::Add(sum, below[r]) : sum);
  }
}

template <class V, class R>
void Dot(const std::byte* w, int64_t blocks, const Activations8& x, int rows, float* y) {
  const auto* from = reinterpret_cast<const uint8_t*>(w);
  switch (rows) {
    case 1:
      return DotRow<V, R, 1>(from, blocks, x, y);
    case 2:
      return DotRow<V, R, 2>(from, blocks, x, y);
    case 3:
      return DotRow<V, R, 3>(from, blocks, x, y);
    default:
      return DotRow<V, R, 4>(from, blocks, x, y);
  }
}

template <class V, class R>
void Decode(const std::byte* w, int64_t blocks, float* to) {
  const auto* from = reinterpret_cast<const uint8_t*>(w);
  const int64_t values = blocks * R::kValues;
  for (int64_t value = 0; value < values; value += R::kBatch) {
    const int here = static_cast<int>(Least(R::kBatch, values - value)), groups = here / R::kGroup;
    const auto at = R::At(from, value / R::kBatch);
    typename V::F scale, minimum;
    R::Scales(at, groups, scale, minimum);
    float scales[V::kLanes], minima[V::kLanes];
    V::Store(scale, scales);
    if constexpr (R::kMinimum) V::Store(minimum, minima);
    for (int c = 0; c * V::kChunk < here; ++c) {
      alignas(64) int8_t q[V::kChunk];
      V::StoreBytes(R::Unpack(at, c, groups), q);
      for (int i = 0; i < V::kChunk && c * V::kChunk + i < here; i += V::kLanes) {
        const int group = (c * V::kChunk + i) / R::kGroup;
        typename V::F v = V::Widen(q + i);
        if constexpr (R::kOffset != 0) v = V::Add(v, V::Splat(-R::kOffset));
        v = V::Mul(v, V::Splat(scales[group]));
        if constexpr (R::kMinimum) v = V::Add(v, V::Splat(minima[group]));
        V::Store(v, to);
        to += V::kLanes;
      }
    }
  }
}

template <class V, class R>
constexpr BlockKernels MakeBlockKernels() {
  return {Dot<V, R>, Decode<V, R>};
}

/// The eight scales (low word) and eight minima (high) of q4_k, six bits each, as bytes.
struct KBytes {
  uint64_t scale, minimum;
};
inline KBytes UnpackKBytes(const uint8_t* packed) {
  uint32_t a, b, c;
  std::memcpy(&a, packed, 4);
  std::memcpy(&b, packed + 4, 4);
  std::memcpy(&c, packed + 8, 4);
  const uint32_t scale = (c & 0x0f0f0f0fu) | ((a >> 6 & 0x03030303u) << 4);
  const uint32_t minimum = (c >> 4 & 0x0f0f0f0fu) | ((b >> 6 & 0x03030303u) << 4);
  return {(a & 0x3f3f3f3fu) | uint64_t{scale} << 32, (b & 0x3f3f3f3fu) | uint64_t{minimum} << 32};
}

inline float HalfOf(const uint8_t* at) {
  uint16_t bits;
  std::memcpy(&bits, at, sizeof(bits));
  return _cvtsh_ss(bits);
}

}  // namespace
}  // namespace hawser
