// q4_k: f16 d, f16 m, 12 bytes of scales and minima (k_scales.h), 128 bytes of 4-bit q; x = d scale q - m minimum.
// Group k of 32 values lies in the low (k even) or high halves of 32 bytes.
#pragma once

#include <array>

#include "hawser/quant/fit.h"
#include "hawser/quant/k_scales.h"
#include "hawser/quant/reader.h"

namespace hawser {
namespace {

struct Q4K {
  static constexpr DType kDType = DType::kQ4K;
  static constexpr std::string_view kName = "q4_k";
  static constexpr uint32_t kGguf = 12;
  static constexpr int kValues = 256, kBytes = 144, kGroup = 32, kOffset = 0;
  static constexpr bool kMinimum = true;

  static constexpr int kGroups = kValues / kGroup;

  static void Decode(const std::byte* from, int64_t blocks, float* to) {
    for (int64_t b = 0; b < blocks; ++b, from += kBytes) {
      const float d = HalfAt(from, 0), m = HalfAt(from, 2);
      for (int k = 0; k < kGroups; ++k) {
        const KScale s = UnpackKScale(from + 4, k);
        const float scale = d * static_cast<float>(s.scale), minimum = m * static_cast<float>(s.minimum);
        const std::byte* q = from + 16 + k / 2 * kGroup;
        for (int l = 0; l < kGroup; ++l) {
          *to++ = scale * static_cast<float>(ByteAt(q, l) >> (k % 2 * 4) & 15) - minimum;
        }
      }
    }
  }

  static void Encode(const float* from, int64_t blocks, std::byte* to) {
    std::array<uint8_t, kValues> q;
    for (int64_t b = 0; b < blocks; ++b, from += kValues, to += kBytes) {
      FitKBlock(from, 15, to, q.data());
      for (size_t l = 0; l < kValues / 2; ++l) {
        const size_t low = l / kGroup * 2 * kGroup + l % kGroup;
        to[16 + l] = static_cast<std::byte>(q[low] | q[low + kGroup] << 4);
      }
    }
  }

  template <class V, class Group>
  [[gnu::always_inline]] static void Read(const uint8_t* at, int64_t stride, const Group& group) {
    typename V::I pairs[8], q[8];
    const KScales<V> scales(at, stride);
    Unroll<8>([&](auto g) __attribute__((always_inline)) {
      if constexpr (g % 2 == 0) {
        V::Columns(at + 16 + g * 16, stride, pairs);
        V::Columns(at + 32 + g * 16, stride, pairs + 4);
      }
      Unroll<8>([&](auto i) __attribute__((always_inline)) { q[i] = Bits<V, 4, g % 2 * 4>(pairs[i]); });
      group(q, scales.template Scale<g>(), scales.template Minimum<g>());
    });
  }
};

}  // namespace
}  // namespace hawser
