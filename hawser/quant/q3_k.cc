// q3_k: 32 bytes of third bits, 64 bytes of 2-bit q laid out as in q2_k, 12 bytes of sixteen 6-bit scales, f16 d;
// x = d (scale - 32) (q - 4 (1 - third bit)). Bit 4 h + p of byte l holds the third bit of value 128 h + 32 p + l. The
// low four bits of scale i are in half i / 8 of byte i % 8, its high two in byte 8 + i % 4 from bit 2 (i / 4).
#include "hawser/quant/types.h"

namespace hawser {
namespace {

constexpr int kBytes = 110;

int Scale(const std::byte* packed, int i) {
  const int low = ByteAt(packed, i % 8) >> (i / 8 * 4) & 15;
  const int high = ByteAt(packed, 8 + i % 4) >> (i / 4 * 2) & 3;
  return (low | high << 4) - 32;
}

void Decode(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kBytes) {
    const float d = HalfAt(from, 108);
    for (int group = 0; group < 16; ++group) {
      const float scale = d * static_cast<float>(Scale(from + 96, group));
      const int half = group / 8, pair = group % 8 / 2, begin = group % 2 * 16;
      for (int l = begin; l < begin + 16; ++l) {
        const int third = ByteAt(from, l) >> (4 * half + pair) & 1;
        const int q = ByteAt(from, 32 + 32 * half + l) >> (2 * pair) & 3;
        *to++ = scale * static_cast<float>(q - 4 * (1 - third));
      }
    }
  }
}

}  // namespace

const BlockType kQ3KType = {DType::kQ3K, "q3_k", 11, kLargeBlock, kBytes, Decode, nullptr};

}  // namespace hawser
