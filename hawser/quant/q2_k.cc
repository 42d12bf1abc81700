// q2_k: 16 bytes, one a group of 16 values (4-bit scale low, 4-bit minimum high), 64 bytes of four 2-bit q, f16 d, f16
// m; x = d scale q - m minimum. Half h of the block holds its q in 32 bytes; the pair of bits p of byte l is value
// 128 h + 32 p + l.
#include "hawser/quant/types.h"

namespace hawser {
namespace {

constexpr int kBytes = 84;

void Decode(const std::byte* from, int64_t blocks, float* to) {
  for (int64_t b = 0; b < blocks; ++b, from += kBytes) {
    const float d = HalfAt(from, 80), m = HalfAt(from, 82);
    for (int group = 0; group < 16; ++group) {
      const int scales = ByteAt(from, group);
      const float scale = d * static_cast<float>(scales & 15), minimum = m * static_cast<float>(scales >> 4);
      const std::byte* q = from + 16 + group / 8 * 32 + group % 2 * 16;
      const int shift = group % 8 / 2 * 2;
      for (int l = 0; l < 16; ++l) *to++ = scale * static_cast<float>(ByteAt(q, l) >> shift & 3) - minimum;
    }
  }
}

}  // namespace

const BlockType kQ2KType = {DType::kQ2K, "q2_k", 10, kLargeBlock, kBytes, Decode, nullptr};

}  // namespace hawser
