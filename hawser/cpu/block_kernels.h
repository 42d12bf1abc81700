// cpu/block_kernels.h - products with weights that lie in blocks (quant/block.h), and their decoding: one table of
// kernels per instruction set and storage type. They read tiles: so many rows of weights at once that each has a lane.
//
// Activations are 8 bits, so that all products and their sums within a group of weights (16 or 32 values with one
// scale) are whole numbers, exact on every machine. With x ~ s q in blocks of kActBlock, weights d (p - offset) + m:
//   y = sum over groups, in order, each step rounded to f32:  y = fma(sum of q (p - offset), d * s, y)
//                                     and of types with minima  y = fma(m, s * sum of q, y)
// So y has the same bits for every instruction set, number of rows and number of threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include "hawser/base/dtype.h"
#include "hawser/cpu/tile_kernels.h"

namespace hawser {

/// Values of a block of activations in 8 bits.
inline constexpr int64_t kActBlock = 32;

/// Up to `height` rows of activations in 8 bits, x ~ scale * q in blocks of kActBlock: q = x / scale to the nearest,
/// |q| <= 127, so that |x - scale * q| <= scale / 2 with scale = max |x| / 127. A block that holds a NaN or an infinity
/// has scale NaN. What belongs together lies together: first the first block of all rows.
struct Activations8 {
  const int8_t* q;       // [blocks, height, kActBlock]
  const float* scale;    // [blocks, height]
  const float* sum;      // [groups, height]: scale * sum of q; read for types with minima alone
  const int32_t* begin;  // [groups, height]: -offset * sum of q, for the others
  int64_t height;
};

/// Most rows of activations that a call of `dot` takes, and that a call of `panel` takes.
inline constexpr int kDotRows = 4, kPanelRows = 16;

/// A tile of weights taken apart: what is read for many rows of activations.
struct WeightPanel {
  uint8_t* q;      // [groups, group / 4, tile, 4], unsigned or, for kernels that want it, less the offset
  float* scale;    // [groups, tile]
  float* minimum;  // [groups, tile]
};

struct BlockKernels {
  int tile;  // rows of weights of a tile
  /// y[r * tile + j] = row j of the tile times x[r], r < rows <= kDotRows. Rows of weights are `stride` bytes apart and
  /// of `blocks` blocks. `next` is what will be read after it, as long as the tile: it is fetched on the way.
  void (*dot)(const std::byte* w, int64_t stride, int64_t blocks, const Activations8& x, int rows, float* y,
              const std::byte* next);
  /// The same in two parts, for more rows. `to` has room for the tile.
  void (*unpack)(const std::byte* w, int64_t stride, int64_t blocks, const WeightPanel& to);
  /// y[r * tile + j] += groups [0, groups) of the panel times x[r], r < rows <= kPanelRows = x.height; rows up to
  /// kPanelRows of y and x are there and may be worked on. `first`: y begins as zeros.
  void (*panel)(const WeightPanel& w, const Activations8& x, int64_t groups, int rows, bool first, float* y);
  /// Before the first panel of a task on its thread, and after the last; null where there is nothing to do.
  void (*begin)();
  void (*end)();
  /// BlockType::decode of one block of each of `rows` <= tile rows, the same bits; to [rows, ld].
  void (*decode)(const std::byte* from, int64_t stride, int rows, float* to, int64_t ld);
};

/// Of a blocked type.
const BlockKernels& GetBlockKernels(Isa isa, DType dtype);

// One array per file, in the order of BlockTypes. That of AMX has what differs from kBlockAvx512Vnni, null otherwise.
extern const BlockKernels *const kBlockScalar, *const kBlockAvx2, *const kBlockAvx512Vnni, *const kBlockAmx;

}  // namespace hawser
