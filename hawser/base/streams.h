// base/streams.h - what is drawn from a seed, each use by streams (rng.h) of its own.
#pragma once

#include <cstdint>

namespace hawser::streams {

// Of the seed of a run. Results depend on these numbers: they stay as they are. One of them serves twice: Epoch(0) is
// also that of the first tensor of a model from scratch, its embedding.

/// The order of documents, then which source comes next.
constexpr uint64_t Epoch(uint64_t epoch) {
  constexpr uint64_t kBelow = 0x7000;  // than the others
  return epoch < kBelow ? epoch : uint64_t{1} << 56 | epoch;
}
/// Values of a tensor from scratch. `layer`: -1 for those of no layer.
constexpr uint64_t Tensor(uint32_t role, int32_t layer) {
  return uint64_t{role} << 32 | static_cast<uint32_t>(layer + 1);
}
/// Those of an adapter beside it.
constexpr uint64_t Adapter(uint32_t role, int32_t layer) { return uint64_t{1} << 48 | Tensor(role, layer); }
inline constexpr uint64_t kUpsample = 0x7570;  // which documents an epoch takes
inline constexpr uint64_t kSource = 0x6d6978;  // seeds of the sources of a mixture

// Of the seed of a packer.

/// How documents of a sequence are interleaved.
constexpr uint64_t Sequence(uint64_t number) { return number; }
inline constexpr uint64_t kPositions = 0x706f736974696f6e;  // what a sequence draws, below
inline constexpr uint64_t kText = 0x736b6970;               // which text is left out

// Of what a sequence draws.

/// Positions of the text that begins at a row.
constexpr uint64_t Text(int32_t row) { return static_cast<uint32_t>(row); }
inline constexpr uint64_t kFocus = uint64_t{0xf0c5} << 40;  // chunks and targets of candidates

// Of the seed of a sampler.
inline constexpr uint64_t kSampler = 0x73616d706c65;

}  // namespace hawser::streams
