// cpu/block_kernels.h - fast readers of weights that lie in blocks (quant/block.h): one table of them per instruction
// set and storage type. BlockType::decode is the meaning, and what machines and types without a kernel go by.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hawser/base/dtype.h"
#include "hawser/cpu/tile_kernels.h"

namespace hawser {

/// Values of a block of activations in 8 bits.
inline constexpr int64_t kActBlock = 32;
/// Values of a row of Activations8 with the zeros behind it: kernels read whole vectors, up to 256 values past the
/// last.
constexpr int64_t PaddedValues(int64_t values) { return (values + 256 + 511) / 512 * 512; }

/// Rows of activations in 8 bits, x ~ scale * q in blocks of kActBlock: q = x / scale to the nearest, |q| <= 127, so
/// that |x - scale * q| <= scale / 2 with scale = max |x| / 127. A block that holds a NaN or an infinity has scale NaN.
struct Activations8 {
  const int8_t* q;     // [rows, values]
  const float* scale;  // [rows, values / kActBlock]
  const float* sum;    // [rows, values / kActBlock]: scale * sum of q
  int64_t values;      // of a row: PaddedValues
};

/// Most rows of activations that a call of `dot` takes.
inline constexpr int kDotRows = 4;

struct BlockKernels {
  /// y[r] = sum of w * x[r] over `blocks` blocks of one row of weights, r < rows <= kDotRows. Products within a block
  /// are exact, sums of blocks in f32; a row's bits do not depend on the other rows.
  void (*dot)(const std::byte* w, int64_t blocks, const Activations8& x, int rows, float* y);
  /// BlockType::decode, the same bits.
  void (*decode)(const std::byte* from, int64_t blocks, float* to);
};

/// Null where there is none for this instruction set.
const BlockKernels* FindBlockKernels(Isa isa, DType dtype);

namespace block_avx2 {
extern const BlockKernels kQ8_0, kQ4_0, kQ4_1, kQ4K, kQ6K;
}
namespace block_avx512vnni {
extern const BlockKernels kQ8_0, kQ4_0, kQ4_1, kQ4K, kQ6K;
}

}  // namespace hawser
