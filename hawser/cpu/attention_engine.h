// cpu/attention_engine.h - the two ways in which attention (cpu/attention.h) is computed. Tiles take weights that sums
// over parts of a row give; whole rows take those that need all scores of the row first.
#pragma once

#include "hawser/ops/backend.h"

namespace hawser {

/// Forward, backward and decode of cpu/attention.h. Arguments are validated by the caller.
struct AttentionEngine {
  void (*forward)(const AttentionArgs& args);
  void (*backward)(const AttentionBackwardArgs& args);
  void (*decode)(const DecodeArgs& args);
};

void TileForward(const AttentionArgs& args);
void TileBackward(const AttentionBackwardArgs& args);
void TileDecode(const DecodeArgs& args);

}  // namespace hawser
