#include "hawser/base/q8.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "hawser/base/dtype.h"

namespace hawser {
namespace {

constexpr uint16_t kNaN = 0x7e00;

/// The scale of a block, as f16 bits.
uint16_t ScaleOf(const float* x, int64_t n) {
  float most = 0;
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) {
    const float size = std::abs(x[i]);
    finite = finite && size <= std::numeric_limits<float>::max();
    most = std::max(most, size);
  }
  if (!finite) return kNaN;
  const uint16_t scale = F32ToF16(most / 127.0f);
  return scale >= 0x7c00 ? kNaN : scale;
}

}  // namespace

void QuantizeQ8(const float* x, int64_t n, std::byte* to) {
  for (int64_t begin = 0; begin < n; begin += kQ8Block) {
    const int64_t count = std::min(kQ8Block, n - begin);
    const uint16_t scale = ScaleOf(x + begin, count);
    std::memcpy(to, &scale, sizeof(scale));
    to += sizeof(scale);
    const float d = F16ToF32(scale);
    const float inverse = d > 0 ? 1.0f / d : 0.0f;  // also where d is NaN
    int8_t q[kQ8Block];
    for (int64_t i = 0; i < count; ++i) {
      constexpr float kMagic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
      const float level = inverse > 0 ? x[begin + i] * inverse : 0.0f;
      q[i] = static_cast<int8_t>(std::clamp(level, -127.0f, 127.0f) + kMagic - kMagic);
    }
    std::memcpy(to, q, static_cast<size_t>(count));
    to += count;
  }
}

void DequantizeQ8(const std::byte* from, int64_t n, float* x) {
  for (int64_t begin = 0; begin < n; begin += kQ8Block) {
    const int64_t count = std::min(kQ8Block, n - begin);
    uint16_t scale;
    std::memcpy(&scale, from, sizeof(scale));
    from += sizeof(scale);
    const float d = F16ToF32(scale);
    for (int64_t i = 0; i < count; ++i) x[begin + i] = d * static_cast<float>(static_cast<int8_t>(from[i]));
    from += count;
  }
}

}  // namespace hawser
