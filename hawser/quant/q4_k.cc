// q4_k: f16 d, f16 m, 12 bytes of scales and minima (k_scales.h), 128 bytes of 4-bit q; x = d scale q - m minimum.
// Group k of 32 values lies in the low (k even) or high halves of 32 bytes.
#include <algorithm>
#include <array>
#include <cmath>

#include "hawser/quant/fit.h"
#include "hawser/quant/k_scales.h"
#include "hawser/quant/types.h"

namespace hawser {
namespace {

constexpr int kBytes = 144;
constexpr int kGroup = 32;
constexpr int kGroups = kLargeBlock / kGroup;

void Decode(const std::byte* from, int64_t blocks, float* to) {
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

/// Weights of large values are larger, as their errors matter more in products.
AffineFit FitGroup(const float* x) {
  float squares = 0;
  for (int l = 0; l < kGroup; ++l) squares += x[l] * x[l];
  const float typical = std::sqrt(squares / kGroup);
  std::array<float, kGroup> weight;
  for (int l = 0; l < kGroup; ++l) weight[static_cast<size_t>(l)] = typical + std::fabs(x[l]);
  return FitAffine(x, weight.data(), kGroup, 15);
}

void Encode(const float* from, int64_t blocks, std::byte* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kLargeBlock, to += kBytes) {
    std::array<AffineFit, kGroups> fits;
    float scale = 0, minimum = 0;
    for (int k = 0; k < kGroups; ++k) {
      fits[static_cast<size_t>(k)] = FitGroup(from + k * kGroup);
      scale = std::max(scale, fits[static_cast<size_t>(k)].scale);
      minimum = std::max(minimum, fits[static_cast<size_t>(k)].minimum);
    }
    std::fill(to, to + kBytes, std::byte{0});
    const float d = PutHalf(scale / 63.0f, to), m = PutHalf(minimum / 63.0f, to + 2);
    const auto six_bits = [](float x, float unit) {
      return unit > 0 ? std::clamp(static_cast<int>(std::nearbyint(x / unit)), 0, 63) : 0;
    };
    for (int k = 0; k < kGroups; ++k) {
      const AffineFit& fit = fits[static_cast<size_t>(k)];
      const KScale s = {six_bits(fit.scale, d), six_bits(fit.minimum, m)};
      PackKScale(s, k, to + 4);
      const float step = d * static_cast<float>(s.scale), below = m * static_cast<float>(s.minimum);
      std::byte* q = to + 16 + k / 2 * kGroup;
      for (int l = 0; l < kGroup && step > 0; ++l) {
        const float level = std::nearbyint((from[k * kGroup + l] + below) / step);
        q[l] |= static_cast<std::byte>(static_cast<int>(std::clamp(level, 0.0f, 15.0f)) << (k % 2 * 4));
      }
    }
  }
}

}  // namespace

const BlockType kQ4KType = {DType::kQ4K, "q4_k", 12, kLargeBlock, kBytes, Decode, Encode};

}  // namespace hawser
